"""Order correlation.

Axes: B trajectories, L positions.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from tabom.functional.agreement import kendall_tau


class OrderCorrelation(Metric):
    """Kendall's tau-b between entropy and decoding order over the pairs of a response; a mean over trajectories.

    Trajectories for which it is not defined are left out: fewer than two positions, all tied, or without an entropy.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    tau_sum: Tensor
    num_trajectories: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("tau_sum", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_trajectories", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(
        self,
        entropy: Float[Tensor, "B L"],
        order: Int[Tensor, "B L"],
        where: Bool[Tensor, "B L"],
        block: Int[Tensor, "B L"] | None = None,
    ) -> None:
        """Add trajectories; arguments as for :func:`tabom.functional.agreement.kendall_tau`."""
        tau = kendall_tau(entropy, order, where=where, block=block)
        self.tau_sum += tau.nansum()
        self.num_trajectories += (~tau.isnan()).sum()

    def compute(self) -> Tensor:
        """Mean in [-1, 1]; NaN without a trajectory for which it is defined."""
        return self.tau_sum / self.num_trajectories
