"""Trajectory-aware Boltzmann modelling."""

from jaxtyping import Bool, Float
from torch import Tensor

from tabom.corruption import TrajectorySegments
from tabom.corruption.trajectory_segments import Starts, Ties, WindowUnit
from tabom.errors import check_range, check_used, require
from tabom.objectives.base import Objective, Reduction
from tabom.objectives.ranking import Ranking, RankingLoss
from tabom.objectives.schedules import Warmup
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch


class TabomObjective(Objective):
    r"""Reconstruct the next tokens of a trajectory, and keep their entropies in the order in which they were decoded.

    .. math:: L = \frac{1}{|\Delta|} \sum_{k \in \Delta} -\log p(x_0^k \mid U_t)
              + \frac{\lambda}{|P|} \sum_{(r,s) \in P} \max(0, H_r - H_s + \gamma)

    ``rank_weight=0`` is trajectory masking alone. All entropies come from the one forward pass at the segment's state.

    Args:
        window: W, the number of tokens in a segment, >= 1 and at most the response length.
        margin: Gamma, in nats, >= 0; only the pairwise surrogates have one.
        rank_weight: Lambda, >= 0. At 0, without a warm-up, the ranking is logged alone, and only if it needs no
            reference.
        truncated_windows: Also start where fewer than W tokens are left, and take those.
        window_unit: ``tokens`` (paper) or ``steps`` (released code).
        ties: Order within a step: by recorded ``entropy`` (paper), ``positional`` (released code) or ``unordered``.
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt and ranked; those
            that are not do not count in ``window`` either.
        starts: Where segments start: ``uniform`` over all states, or only where decoding was about to leave the order
            from left to right (``non_left_to_right``; see :class:`tabom.corruption.TrajectorySegments`).
        reduction: The reconstruction is the mean over the trajectories' means (``trajectories``, paper) or over all
            targets of the batch (``batch_tokens``, released code). The ranking is the mean over trajectories in both.
        ranking: The second term; the default is the paper's.
        rank_weight_warmup: From its ``start`` to ``rank_weight``.
        margin_warmup: From its ``start``, in nats, to ``margin``.
        window_warmup: From its ``start``, at least 1, to ``window``, rounded to whole units.
        tilt: Eta in nats, >= 0; None for cross-entropy (:class:`~tabom.objectives.Objective`).

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
        reduction: Reduction = "trajectories",
        ranking: Ranking = Ranking(),
        rank_weight_warmup: Warmup | None = None,
        margin_warmup: Warmup | None = None,
        window_warmup: Warmup | None = None,
        tilt: float | None = None,
    ) -> None:
        self._segments = TrajectorySegments(
            window,
            window_unit=window_unit,
            truncated_windows=truncated_windows,
            ties=ties,
            starts=starts,
            supervise_padding=supervise_padding,
        )
        super().__init__(self._segments, supervise_padding=supervise_padding, tilt=tilt)
        check_range("margin", margin, least=0)
        check_range("rank_weight", rank_weight, least=0)
        warmups = (("rank_weight", rank_weight_warmup, 0), ("margin", margin_warmup, 0), ("window", window_warmup, 1))
        for name, warmup, least in warmups:
            check_range(f"{name}_warmup.start", warmup and warmup.start, least=least)
        check_used("margin", margin, 0.1, is_used=ranking.is_pairwise, owner=f"surrogate {ranking.surrogate}")
        require(
            margin_warmup is None or ranking.is_pairwise,
            f"margin_warmup: expected none with surrogate {ranking.surrogate}, which has no margin",
        )
        self.margin = margin
        self.rank_weight = rank_weight
        self.window = window
        self.ranking = ranking
        self._reduction: Reduction = reduction
        self._rank_weight_warmup = rank_weight_warmup
        self._margin_warmup = margin_warmup
        self._window_warmup = window_warmup
        self._margin_now, self._rank_weight_now = margin, rank_weight
        self._is_ranked = rank_weight > 0 or rank_weight_warmup is not None
        self._is_compared = self._is_ranked and ranking.needs_reference
        self.needs_reference = self.needs_reference or self._is_compared
        self.needs_recorded_entropy = self._is_ranked and ranking.target == "recorded"

    def check_response_length(self, response_length: int) -> None:
        """Raise ``TabomError`` if the window is larger than the response, now or during its warm-up."""
        largest = max(self.window, self._window_warmup.start if self._window_warmup else 1)
        require(
            largest <= response_length,
            f"window: expected at most the response length of {response_length} tokens, got {largest}",
        )

    def set_step(self, step: int) -> None:
        """Set margin, weight and window to their values at an optimizer step; without it they are the configured."""
        if self._rank_weight_warmup:
            self._rank_weight_now = self._rank_weight_warmup.value(step, self.rank_weight)
        if self._margin_warmup:
            self._margin_now = self._margin_warmup.value(step, self.margin)
        if self._window_warmup:
            self._segments.window = round(self._window_warmup.value(step, float(self.window)))

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Cut one segment per row; ``order`` is the order that is ranked."""
        return self.ranking.reordered(super().corrupt(batch, mask_token_id, draws), draws)

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Loss and its terms.

        Returns:
            ``loss``, ``reconstruction`` and

            * ``ranking``: the surrogate; not there where it needs a reference and, for a weight of 0, got none;
            * ``order_agreement``: share of all pairs whose entropies stand in order already;
            * ``active_pairs``: share of the ranked pairs that fall short of the margin (pairwise surrogates);
            * ``ranking_over_margin``: 1 where all energies are equal (hinge with one margin above 0 for all pairs);
            * ``inverted_under_base``: share of all pairs that the reference inverts, where there is one;
            * ``rank_weight``, where it has a warm-up.

            Pairs are those of the order that is ranked. Over several processes shares are of all their pairs.

        Raises:
            TabomError: If the reference is needed and not given.
        """
        require(
            reference is not None or not self._is_compared,
            f"reference: expected statistics of the base model, which ranking {self.ranking.surrogate} compares with, "
            "got none",
        )
        reconstruction = self.mean_of_targets(statistics.nll, corrupted.is_target, self._reduction)
        segment = self.ranking.segment(statistics, corrupted, reference)
        is_agreeing = segment.entropy[:, :, None] < segment.entropy[:, None, :]
        result = {
            "loss": self.mean_of_targets(
                self.target_losses(statistics, corrupted, reference), corrupted.is_target, self._reduction
            ),
            "reconstruction": reconstruction.detach(),
            "order_agreement": self._share(is_agreeing, segment.is_pair),
        }
        if reference is not None or not self.ranking.needs_reference:
            losses = self.ranking.losses(segment, margin=self._margin_now)
            ranking = self.mean_of_rows(losses.values, losses.has_value, corrupted)
            if self._is_ranked:
                result["loss"] = result["loss"] + self._rank_weight_now * ranking
            result |= self._logged(losses, ranking.detach())
        if segment.is_inverted is not None:
            result["inverted_under_base"] = self._share(segment.is_inverted, segment.is_pair)
        if self._rank_weight_warmup:
            result["rank_weight"] = reconstruction.new_tensor(self._rank_weight_now)
        return result

    def _logged(self, losses: RankingLoss, ranking: Float[Tensor, ""]) -> dict[str, Float[Tensor, ""]]:
        """What is logged about the ranking."""
        result = {"ranking": ranking}
        if losses.is_pair is not None and losses.violation is not None:
            result["active_pairs"] = self._share(losses.violation > 0, losses.is_pair)
        if self.ranking.surrogate == "hinge" and not self.ranking.scale_margin_by_gap and self._margin_now > 0:
            result["ranking_over_margin"] = ranking / self._margin_now
        return result

    def _share(self, is_counted: Bool[Tensor, "B W W"], is_pair: Bool[Tensor, "B W W"]) -> Float[Tensor, ""]:
        """This process's part of the share; the mean over the processes is that of all pairs."""
        return self.mean_where(is_counted.float(), is_pair)
