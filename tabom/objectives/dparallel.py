"""Certainty forcing: be right, and sure of it, about a whole block at once."""

from jaxtyping import Float
from torch import Tensor

from tabom.corruption.complementary_masking import ComplementaryMasking
from tabom.errors import check_range, require
from tabom.functional.reduction import masked_mean
from tabom.objectives.base import Objective
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch


class DParallelObjective(Objective):
    r"""Reconstruct both halves of a block from each other, and lower the entropies of what is predicted correctly.

    .. math:: L = CE + \overline{CE} + \omega (H + \overline{H})

    CE is the mean cross-entropy of the block's masked tokens, H the mean entropy of softmax(logits / temperature) over
    those of them whose likeliest token is the clean one, 0 where there is none; the barred ones are those of the
    complementary mask. Both masks are rows of one batch of 2B, so CE + its complement is twice the mean over its rows,
    and so are the entropies. A row without targets does not count; one with targets but no correct one counts as H = 0.

    Args:
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt.
        block_length: Response positions in a block, >= 1 and at most the response length.
        mask_ratio: Probability with which each position of the block is masked in the first row, in (0, 1).
        certainty_weight: Omega, >= 0.
        entropy_temperature: Of the entropies, > 0.
        tilt: Eta in nats, >= 0; None for cross-entropy (:class:`~tabom.objectives.Objective`).

    Raises:
        TabomError: If a value is out of range.

    References:
        Chen et al. 2025 (dParallel), arXiv:2509.26488. The defaults are those of the released code, whose means are
        over the tokens of the batch; here they are per row, then over rows.
    """

    def __init__(
        self,
        supervise_padding: bool = True,
        block_length: int = 32,
        mask_ratio: float = 0.5,
        certainty_weight: float = 2.0,
        entropy_temperature: float = 0.5,
        tilt: float | None = None,
    ) -> None:
        corruption = ComplementaryMasking(
            block_length=block_length, mask_ratio=mask_ratio, supervise_padding=supervise_padding
        )
        super().__init__(corruption, supervise_padding=supervise_padding, tilt=tilt)
        check_range("certainty_weight", certainty_weight, least=0)
        check_range("entropy_temperature", entropy_temperature, above=0)
        self.block_length = block_length
        self.certainty_weight = certainty_weight
        self.entropy_temperature = entropy_temperature

    def check_response_length(self, response_length: int) -> None:
        """Raise ``TabomError`` if a block is longer than the response."""
        require(
            self.block_length <= response_length,
            f"block_length: expected at most the response length of {response_length} tokens, got {self.block_length}",
        )

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Mask a part of a block, and its other part in as many further rows: 2B rows of B."""
        return self._with_credit(self._corruption(batch, mask_token_id, draws), batch)

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss``, ``reconstruction``, ``entropy`` (tempered, of correct tokens), ``accuracy`` (share of targets).

        Reconstruction and entropy are means over rows, half of what the loss adds up.
        """
        is_target = corrupted.is_target
        has_target = is_target.any(1)
        losses = self.target_losses(statistics, corrupted, reference)
        entropies = masked_mean(statistics.entropy, is_target & statistics.is_correct)
        is_correct = statistics.is_correct.to(statistics.nll.dtype)
        return {
            "loss": 2 * self.mean_where(masked_mean(losses, is_target), has_target)
            + 2 * self.certainty_weight * self.mean_of_rows(entropies, has_target, corrupted),
            "reconstruction": self.mean_where(masked_mean(statistics.nll.detach(), is_target), has_target),
            "entropy": self.mean_where(entropies.detach(), has_target),
            "accuracy": self.mean_where(masked_mean(is_correct, is_target), has_target),
        }
