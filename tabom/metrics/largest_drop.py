"""Largest drop of a run."""

import torch
from jaxtyping import Float
from torch import Tensor
from torchmetrics import Metric


class LargestDrop(Metric):
    """Largest change for the worse over the checks of one run, such as ``nelbo_change`` of :class:`Forgetting`.

    It is kept by ``reset`` and saved in the state dict, so that it spans the epochs of a run and its continuation
    (``MaxMetric`` of torchmetrics forgets it at ``reset``). A check without a value (NaN) changes nothing.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        lowest = torch.full((), -torch.inf, dtype=torch.float64)
        self.add_state("largest", lowest, dist_reduce_fx="max", persistent=True)

    def update(self, change: Float[Tensor, ""]) -> None:
        """Add a check; positive is worse."""
        self.largest = torch.fmax(self.largest, change.double())

    def compute(self) -> Tensor:
        """Largest change so far, negative where every check was better than the base; NaN if none had a value."""
        return self.largest.where(self.largest > -torch.inf, torch.nan)

    def reset(self) -> None:
        """Forget cached results, but not the largest change."""
        largest = self.largest
        super().reset()
        self.largest = largest
