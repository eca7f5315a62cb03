"""Trajectory discrimination score (TDS).

Axes: B trajectories, S denoising steps, N response positions, R bins of the share decoded.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torchmetrics import Metric

from tabom.errors import require
from tabom.functional.reduction import masked_mean


def entropy_variance(
    step_entropy: Float[Tensor, "B S N"], where: Bool[Tensor, "B N"]
) -> tuple[Float[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Variance of the predictive entropy over the positions that are still masked before each step.

    Args:
        step_entropy: Entropy in nats of every position before each step; NaN where it was revealed already.
        where: Positions that count; those after the first generated end-of-sequence token do not.

    Returns:
        Population variance (nats squared; 0 for a single position), and whether any position was left to take it over.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 10.
    """
    is_counted = ~step_entropy.isnan() & where[:, None, :]
    mean = masked_mean(step_entropy, is_counted)
    variance = masked_mean((step_entropy - mean[..., None]).square(), is_counted)
    return variance, is_counted.any(-1)


def decoded_share_bin(
    step_entropy: Float[Tensor, "B S N"], where: Bool[Tensor, "B N"], num_bins: int
) -> Int[Tensor, "B S"]:
    """Bin of the share of the counted positions that was decoded before each step.

    Bin r holds shares from r / num_bins on and below (r + 1) / num_bins, compared in whole numbers.

    Args:
        step_entropy: As in :func:`entropy_variance`.
        where: As in :func:`entropy_variance`.
        num_bins: R, bins of equal width over [0, 1].

    Returns:
        Bin, 0 ... R - 1; ``num_bins`` where nothing is left (or nothing counts).
    """
    num_counted = where.sum(1)[:, None]
    num_decoded = (step_entropy.isnan() & where[:, None, :]).sum(-1)
    share_bin = num_decoded * num_bins // num_counted.clamp(min=1)
    return share_bin.masked_fill(num_decoded == num_counted, num_bins)


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

    def update(self, step_entropy: Tensor, where: Tensor) -> None:
        """Add trajectories; arguments as for :func:`entropy_variance`.

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
        is_in_bin = share_bin[:, None, :] == torch.arange(num_bins, device=share_bin.device)[:, None]
        self.binned_variance_sum += masked_mean(variance[:, None, :].expand_as(is_in_bin), is_in_bin).sum(0)
        self.num_binned_trajectories += is_in_bin.any(-1).sum(0)

    def compute(self) -> dict[str, Tensor]:
        """``curve`` (S,) over the trajectories that have positions left, its mean ``score``; ``curve_by_share`` (R,).

        Curves are NaN where no trajectory counts. torchmetrics makes a scalar of a curve of one point.
        """
        curve = self.variance_sum / self.num_trajectories
        return {
            "curve": curve,
            "score": curve.nanmean(),
            "curve_by_share": self.binned_variance_sum / self.num_binned_trajectories,
        }
