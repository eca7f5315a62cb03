"""Trajectory-aware Boltzmann modelling."""

from torch import Tensor

from tabom.corruption import TrajectorySegments
from tabom.corruption.trajectory_segments import Starts, Ties, WindowUnit
from tabom.errors import require
from tabom.functional.ranking import order_agreement_counts, ordered_pairs, pairwise_ranking_loss
from tabom.functional.reduction import masked_mean
from tabom.objectives.base import Objective
from tabom.types import CorruptedBatch, TokenStatistics


class TabomObjective(Objective):
    r"""Reconstruct the next tokens of a trajectory, and keep their entropies in the order in which they were decoded.

    .. math:: L = \frac{1}{|\Delta|} \sum_{k \in \Delta} -\log p(x_0^k \mid U_t)
              + \frac{\lambda}{|P|} \sum_{(r,s) \in P} \max(0, H_r - H_s + \gamma)

    ``rank_weight=0`` is trajectory masking alone. All entropies come from the one forward pass at the segment's state.

    Args:
        window: W, the number of tokens in a segment, >= 1 and at most the response length.
        margin: Gamma, in nats, >= 0.
        rank_weight: Lambda, >= 0.
        truncated_windows: Also start where fewer than W tokens are left, and take those.
        window_unit: ``tokens`` (paper) or ``steps`` (released code).
        ties: Order within a step: by recorded ``entropy`` (paper), ``positional`` (released code) or ``unordered``.
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt and ranked.
        starts: Where segments start: ``uniform`` over all states, or only where decoding was about to leave the order
            from left to right (``non_left_to_right``; see :class:`tabom.corruption.TrajectorySegments`).

    Raises:
        TabomError: If a value is out of range.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 8-9. Means are per trajectory, then over the trajectories that have
        targets or pairs.
    """

    def __init__(
        self,
        window: int = 32,
        margin: float = 0.1,
        rank_weight: float = 1.0,
        truncated_windows: bool = False,
        window_unit: WindowUnit = "tokens",
        ties: Ties = "entropy",
        supervise_padding: bool = True,
        starts: Starts = "uniform",
    ) -> None:
        corruption = TrajectorySegments(
            window, window_unit=window_unit, truncated_windows=truncated_windows, ties=ties, starts=starts
        )
        super().__init__(corruption, supervise_padding=supervise_padding)
        require(margin >= 0, f"margin: expected at least 0 nats, got {margin}")
        require(rank_weight >= 0, f"rank_weight: expected at least 0, got {rank_weight}")
        self.margin = margin
        self.rank_weight = rank_weight
        self.window = window

    def check_response_length(self, response_length: int) -> None:
        """Raise ``TabomError`` if the window is larger than the response."""
        require(
            self.window <= response_length,
            f"window: expected at most the response length of {response_length} tokens, got {self.window}",
        )

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Tensor]:
        """``loss``, ``reconstruction``, ``ranking``, and ``order_agreement`` (share of pairs in order already)."""
        del reference
        nll = masked_mean(statistics.nll, corrupted.is_target)
        reconstruction = self.mean_where(nll, corrupted.is_target.any(1))
        entropy, is_pair = segment_pairs(statistics, corrupted)
        ranking = self.mean_where(pairwise_ranking_loss(entropy, is_pair, margin=self.margin), is_pair.any(2).any(1))
        num_agreeing, num_pairs = order_agreement_counts(entropy.detach(), is_pair)
        loss = reconstruction + self.rank_weight * ranking if self.rank_weight > 0 else reconstruction
        return {
            "loss": loss,
            "reconstruction": reconstruction.detach(),
            "ranking": ranking.detach(),
            "order_agreement": num_agreeing.sum() / num_pairs.sum().clamp(min=1),
        }


def segment_pairs(statistics: TokenStatistics, corrupted: CorruptedBatch) -> tuple[Tensor, Tensor]:
    """Gather the targets of each row side by side.

    Returns:
        Entropies (B, W) and ordered pairs (B, W, W), W being the largest number of targets in a row.
    """
    width = int(corrupted.is_target.sum(1).amax())
    positions = corrupted.is_target.long().argsort(dim=1, descending=True, stable=True)[:, :width]
    where = corrupted.is_target.gather(1, positions)
    is_pair = ordered_pairs(corrupted.order.gather(1, positions), where=where)
    return statistics.entropy.gather(1, positions), is_pair
