"""Compressed transitions: many steps of a trajectory at once."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tabom.corruption.trajectory_transition import TrajectoryTransition
from tabom.objectives.base import Objective
from tabom.types import CorruptedBatch, TokenStatistics


class DInferObjective(Objective):
    r"""Reconstruct what a trajectory reveals between two random states, from the earlier one.

    .. math:: L = E_{\tau, (i, j)} \sum_{k \in M_i \setminus M_j} -\log p(x_0^k \mid s_i), \qquad i > j

    i and j count the steps that are left. All pairs of states are equally likely (see
    :class:`~tabom.corruption.trajectory_transition.TrajectoryTransition`).

    Args:
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt.
        reduction: Over the targets of a trajectory. ``sum`` is the formula of dInfer. TABOM's description of the
            baseline does not say; ``mean``, the default, is on the scale of the other objectives, and then the number
            of targets does not decide how much a trajectory counts. ``batch_tokens`` is the mean over all targets of
            the batch, as the paper's released code reduces its other objectives.
        tilt: Eta in nats, >= 0; None for cross-entropy (:class:`~tabom.objectives.Objective`).

    Raises:
        TabomError: If ``tilt`` is below 0.

    References:
        Ma et al. 2025 (dInfer), arXiv:2510.08666, compressed transition learning; Chen et al. 2026, arXiv:2605.11854,
        section 4 (as a baseline). Their training code is not public. The mean over trajectories leaves out those
        without a target.
    """

    def __init__(
        self,
        supervise_padding: bool = True,
        reduction: Literal["mean", "sum", "batch_tokens"] = "mean",
        tilt: float | None = None,
    ) -> None:
        super().__init__(TrajectoryTransition(), supervise_padding=supervise_padding, tilt=tilt)
        self.reduction = reduction

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss``, ``reconstruction`` (the mean over the targets), and ``num_targets`` of a trajectory on average."""
        is_target = corrupted.is_target
        has_target, num_targets = is_target.any(1), is_target.sum(1).to(statistics.nll.dtype)
        reduction = "batch_tokens" if self.reduction == "batch_tokens" else "trajectories"
        losses = self.target_losses(statistics, corrupted, reference)
        if self.reduction == "sum":
            loss = self.mean_where(losses.where(is_target, 0.0).sum(1), has_target)
        else:
            loss = self.mean_of_targets(losses, is_target, reduction)
        return {
            "loss": loss,
            "reconstruction": self.mean_of_targets(statistics.nll.detach(), is_target, reduction),
            "num_targets": self.mean_where(num_targets, has_target),
        }
