"""Means by place on a curve."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchmetrics import Metric


class MeanCurve(Metric):
    """Mean of values by the place that each belongs to, such as the denoising step.

    Args:
        num_points: Places, 0 ... ``num_points`` - 1.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    total: Tensor
    count: Tensor

    def __init__(self, num_points: int) -> None:
        super().__init__()
        for name in ("total", "count"):
            self.add_state(name, torch.zeros(num_points, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, values: Float[Tensor, " K"], place: Int[Tensor, " K"]) -> None:
        """Add values."""
        self.total.index_add_(0, place, values.double())
        self.count.index_add_(0, place, torch.ones_like(values, dtype=torch.float64))

    def compute(self) -> Tensor:
        """(num_points,), NaN where nothing was added."""
        return self.total / self.count
