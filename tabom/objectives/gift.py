"""Importance-aware fine-tuning: tokens that the model is unsure of are masked more often."""

import dataclasses

from jaxtyping import Float
from torch import Tensor

from tabom.corruption import UniformMasking
from tabom.corruption.uniform_masking import masked
from tabom.functional.model_masking import entropy_mask_ratios
from tabom.objectives.base import Look, Objective
from tabom.objectives.nelbo import LLADA_MIN_MASK_RATIO
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch


class GiftObjective(Objective):
    r"""Cross-entropy over tokens that are masked the more often, the less sure the model is of them.

    .. math:: L = E_t \frac{1}{|M|} \sum_{i \in M} \frac{1}{t_i} (-\log p(x_0^i \mid x_M)), \qquad
        t_i = 1 - (1 - t)^{\sqrt{H_i} / b}

    H are the entropies of the model itself at the fully masked response, from a pass without a gradient and without
    dropout, and b is the mean of their roots over the response. Each token is masked with its probability
    :math:`t_i`, and none is forced: a row without a masked token does not count. t is uniform on (0.001, 1].

    Args:
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt. Those that are not
            are visible, and do not count in b.
        tilt: Eta in nats, >= 0; None for cross-entropy (:class:`~tabom.objectives.Objective`).

    Raises:
        TabomError: If ``tilt`` is below 0.

    References:
        GIFT, arXiv:2509.20863, as the code of LIFT, arXiv:2605.22939, has it. There b and the mean over the masked
        tokens are those of the batch, a batch without a masked token takes a uniform mask, and padding is never learnt;
        here they are those of each row.
    """

    def __init__(self, supervise_padding: bool = True, tilt: float | None = None) -> None:
        super().__init__(UniformMasking(), supervise_padding=supervise_padding, tilt=tilt)

    def corrupt_by_model(
        self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws, look: Look
    ) -> CorruptedBatch:
        """Mask by the entropies; ``token_weight`` are the inverse probabilities."""
        is_learnable = self.learnable(batch, mask_token_id)
        time = (1 - LLADA_MIN_MASK_RATIO) * (1 - draws.per_row()) + LLADA_MIN_MASK_RATIO
        entropy = look(masked(batch, mask_token_id, is_learnable)).entropy.double()
        ratio = entropy_mask_ratios(entropy, time, where=is_learnable)
        is_masked = is_learnable & (draws.per_position(is_learnable) < ratio)
        weight = (1 / ratio).where(is_masked, 0.0).to(batch.unmask_entropy)
        corrupted = self._finished(masked(batch, mask_token_id, is_masked), batch)
        return dataclasses.replace(corrupted, token_weight=weight)

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss``, and ``reconstruction``: the mean cross-entropy without weights."""
        is_target, weight = corrupted.is_target, corrupted.token_weight
        losses = self.target_losses(statistics, corrupted, reference)
        losses = losses if weight is None else weight * losses
        return {
            "loss": self.mean_of_targets(losses, is_target, "trajectories"),
            "reconstruction": self.mean_of_targets(statistics.nll.detach(), is_target, "trajectories"),
        }
