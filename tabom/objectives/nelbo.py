"""Standard fine-tuning of masked diffusion language models."""

from torch import Tensor

from tabom.corruption import UniformMasking
from tabom.functional.reduction import masked_mean
from tabom.objectives.base import Objective
from tabom.types import CorruptedBatch, TokenStatistics


class NelboObjective(Objective):
    r"""Mean cross-entropy over uniformly masked response tokens; the order of decoding plays no part.

    .. math:: L = E_{t, x_t} \frac{1}{|M_t|} \sum_{k \in M_t} -\log p(x_0^k \mid x_t)

    Args:
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 1. The mean is per sequence, then over sequences.
    """

    def __init__(self, supervise_padding: bool = True) -> None:
        super().__init__(UniformMasking(), supervise_padding=supervise_padding)

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Tensor]:
        """``loss`` and ``reconstruction``, which are the same here."""
        del reference
        per_row = masked_mean(statistics.nll, corrupted.is_target)
        loss = self.mean_where(per_row, corrupted.is_target.any(1))
        return {"loss": loss, "reconstruction": loss.detach()}
