"""Standard fine-tuning of masked diffusion language models."""

import dataclasses
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tabom.corruption import UniformMasking
from tabom.corruption.uniform_masking import RatioPer
from tabom.errors import check_range, check_used, require
from tabom.functional.weighting import cart_weights, inverse_ratio_weights
from tabom.objectives.base import Objective, Reduction
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch

Weighting = Literal["mean", "inverse_ratio", "cart"]

LLADA_MIN_MASK_RATIO = 1e-3


class NelboObjective(Objective):
    r"""Cross-entropy over randomly masked response tokens; the order of decoding plays no part.

    ``mean`` (Eq. 1), the default, with at least one token masked:

    .. math:: L = E_{t, x_t} \frac{1}{|M_t|} \sum_{k \in M_t} -\log p(x_0^k \mid x_t)

    ``inverse_ratio``, as LLaDA is fine-tuned: :math:`p = (1 - 10^{-3}) t + 10^{-3}`, each of the n tokens that may be
    asked for is masked independently, and none is forced, so that a row without a masked token contributes 0:

    .. math:: L = E_{t, x_t} \frac{1}{n} \sum_{k \in M_t} \frac{1}{p} (-\log p(x_0^k \mid x_t))

    Dream's default weight 1/t is the same but for the normalisation: it divides by the number of masked tokens in the
    batch, not by n per row, and has no lower bound on t.

    ``cart``, Dream's other weighting, masked like ``mean``: the mean over the masked tokens of the cross-entropy times
    :func:`~tabom.functional.weighting.cart_weights`, so that tokens with much visible close by count more. Visible are
    the prompt and the response's other tokens, no padding. The mean is per row here; Dream divides by the number of
    masked tokens in the batch, as ``reduction: batch_tokens`` does.

    Args:
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt. Those that are not
            are masked all the same, and do not count in n.
        weighting: ``mean``, ``inverse_ratio`` or ``cart``.
        cart_p: Decay with the distance for ``cart``, in (0, 1]; 0.1 is Dream's recipe.
        reduction: ``trajectories``: means are per sequence, then over sequences. ``batch_tokens``: the mean over all
            masked tokens of the batch, none of which is forced (the paper's released code); not of ``inverse_ratio``.
        stratified_ratios: Spread the mask ratios evenly over the batch, which lowers the variance of the gradient.
        tilt: Eta in nats, >= 0; None for cross-entropy (:class:`~tabom.objectives.Objective`).
        ratio_per: ``row``: one mask ratio for all of a row. ``block``: one for each block of a block-causal model
            (Arriola et al. 2025, arXiv:2503.09573).
        late_bias: Mask later tokens more often, by so many nats of log-odds from the first token of the response to the
            last (:func:`~tabom.functional.masking.late_mask_ratio`); 0 masks all alike. Not of ``inverse_ratio``, whose
            weights are those of one probability per row.

    Raises:
        TabomError: If ``cart_p``, ``tilt`` or ``late_bias`` is out of range, or the reduction does not fit the
            weighting.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 1; Nie et al. 2025 (LLaDA), arXiv:2502.09992, GUIDELINES.md; Ye et al.
        2025 (Dream 7B), arXiv:2508.15487, fine-tuning code.
    """

    def __init__(
        self,
        supervise_padding: bool = True,
        weighting: Weighting = "mean",
        cart_p: float = 0.1,
        reduction: Reduction = "trajectories",
        stratified_ratios: bool = False,
        tilt: float | None = None,
        ratio_per: RatioPer = "row",
        late_bias: float = 0.0,
    ) -> None:
        corruption = UniformMasking(
            min_mask_ratio=LLADA_MIN_MASK_RATIO if weighting == "inverse_ratio" else 0.0,
            at_least_one=weighting != "inverse_ratio" and reduction == "trajectories",
            is_stratified=stratified_ratios,
            ratio_per=ratio_per,
            late_bias=late_bias,
        )
        super().__init__(corruption, supervise_padding=supervise_padding, tilt=tilt)
        require(
            weighting != "inverse_ratio" or reduction == "trajectories",
            f"reduction: expected trajectories with weighting inverse_ratio, got {reduction}",
        )
        check_range("cart_p", cart_p, above=0, most=1)
        is_one_ratio = weighting == "inverse_ratio"
        check_used("late_bias", late_bias, 0.0, is_used=not is_one_ratio, owner=f"weighting {weighting}")
        check_used("cart_p", cart_p, 0.1, is_used=weighting == "cart", owner=f"weighting {weighting}")
        self.weighting: Weighting = weighting
        self.cart_p = cart_p
        self._reduction: Reduction = reduction

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Mask at random, and weigh the tokens."""
        corrupted = super().corrupt(batch, mask_token_id, draws)
        if self.weighting == "mean":
            return corrupted
        if self.weighting == "inverse_ratio":
            assert corrupted.mask_ratio is not None
            weight = inverse_ratio_weights(self.learnable(batch, mask_token_id), corrupted.mask_ratio)
        else:
            is_visible = batch.attention_mask & (corrupted.noisy_ids != mask_token_id)
            weight = cart_weights(is_visible, p=self.cart_p)
        return dataclasses.replace(corrupted, token_weight=weight)

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss``, and ``reconstruction``: the mean cross-entropy without weights, which is the loss of ``mean``."""
        is_target, weight = corrupted.is_target, corrupted.token_weight
        losses = self.target_losses(statistics, corrupted, reference)
        reconstruction = self.mean_of_targets(statistics.nll, is_target, self._reduction)
        if weight is None:
            loss = self.mean_of_targets(losses, is_target, self._reduction)
        elif self.weighting == "inverse_ratio":
            weighted = (weight * losses).where(is_target, 0.0)
            loss = self.mean_where(weighted.sum(1), (weight > 0).any(1))
        else:
            loss = self.mean_of_targets(weight * losses, is_target, self._reduction)
        return {"loss": loss, "reconstruction": reconstruction.detach()}
