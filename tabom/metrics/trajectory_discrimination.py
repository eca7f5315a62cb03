"""Trajectory discrimination score (TDS).

Axes: B trajectories, S denoising steps, N response positions.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

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


class TrajectoryDiscriminationScore(Metric):
    """How far apart the model holds easy and hard positions while it decodes: a curve, and its mean (Eq. 11).

    Nearly mechanical: an entropy bonus without any order raises it too, so it is no measure of quality by itself.

    Args:
        num_steps: S, denoising steps of a full decoding.
    """

    is_differentiable = False
    higher_is_better = None
    full_state_update = False

    variance_sum: Tensor
    num_trajectories: Tensor

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.add_state("variance_sum", torch.zeros(num_steps, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_trajectories", torch.zeros(num_steps, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, step_entropy: Tensor, where: Tensor) -> None:
        """Add trajectories; arguments as for :func:`entropy_variance`.

        Raises:
            ValueError: If the number of steps is another than ``num_steps``.
        """
        if step_entropy.shape[1] != len(self.variance_sum):
            raise ValueError(f"expected {len(self.variance_sum)} steps, got {step_entropy.shape[1]}")
        variance, is_defined = entropy_variance(step_entropy, where)
        self.variance_sum += variance.double().where(is_defined, 0.0).sum(0)
        self.num_trajectories += is_defined.sum(0)

    def compute(self) -> dict[str, Tensor]:
        """``curve`` (S,), over the trajectories that have positions left (NaN where none has), and ``score``."""
        curve = self.variance_sum / self.num_trajectories
        return {"curve": curve, "score": curve.nanmean()}
