"""Trajectory discrimination score (TDS).

Axes: B trajectories, S denoising steps, N response positions, R bins of the share decoded.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from tabom.errors import require
from tabom.functional.discrimination import binned_variance, decoded_share_bin, entropy_variance


class TrajectoryDiscriminationScore(Metric):
    """How far apart the model holds easy and hard positions while it decodes: a curve, and its mean (Eq. 11).

    A second curve goes by the share of the response that is decoded, which compares samplers that need different
    numbers of steps: a trajectory's mean over its steps in a bin, then over the trajectories that have one there.

    Nearly mechanical: an entropy bonus without any order raises it too, so it is no measure of quality by itself.

    Args:
        num_steps: S, most denoising steps of a decoding; a trajectory may be done earlier.
        num_bins: R, bins of the share decoded, >= 1.

    Raises:
        TabomError: If ``num_bins`` is below 1.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    variance_sum: Tensor
    num_trajectories: Tensor
    binned_variance_sum: Tensor
    num_binned_trajectories: Tensor

    def __init__(self, num_steps: int, num_bins: int = 20) -> None:
        super().__init__()
        require(num_bins >= 1, f"num_bins: expected at least 1, got {num_bins}")
        for name, size in (
            ("variance_sum", num_steps),
            ("num_trajectories", num_steps),
            ("binned_variance_sum", num_bins),
            ("num_binned_trajectories", num_bins),
        ):
            self.add_state(name, torch.zeros(size, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, step_entropy: Float[Tensor, "B S N"], where: Bool[Tensor, "B S N"]) -> None:
        """Add trajectories; arguments as for :func:`tabom.functional.discrimination.entropy_variance`.

        Raises:
            ValueError: If the number of steps is another than ``num_steps``.
        """
        if step_entropy.shape[1] != len(self.variance_sum):
            raise ValueError(f"expected {len(self.variance_sum)} steps, got {step_entropy.shape[1]}")
        variance, is_defined = entropy_variance(step_entropy.double(), where)
        variance = variance.where(is_defined, 0.0)
        self.variance_sum += variance.sum(0)
        self.num_trajectories += is_defined.sum(0)
        num_bins = len(self.binned_variance_sum)
        share_bin = decoded_share_bin(step_entropy, where, num_bins)
        binned, is_in_bin = binned_variance(variance, share_bin, num_bins)
        self.binned_variance_sum += binned.sum(0)
        self.num_binned_trajectories += is_in_bin.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """``curve`` (S,), its mean ``score``, and ``curve_by_share`` (R,), over trajectories with two positions left.

        Curves are NaN where no trajectory counts. torchmetrics makes a scalar of a curve of one point.
        """
        curve = self.variance_sum / self.num_trajectories
        return {
            "curve": curve,
            "score": curve.nanmean(),
            "curve_by_share": self.binned_variance_sum / self.num_binned_trajectories,
        }
