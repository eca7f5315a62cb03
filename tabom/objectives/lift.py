"""Fine-tuning on the easy tokens of large masks and on the hard tokens of small ones."""

import dataclasses
from typing import Literal

from tabom.corruption.uniform_masking import masked
from tabom.functional.masking import uniform_mask
from tabom.functional.model_masking import enlarged_ratio, heaviest_mode, smaller_mask
from tabom.functional.weighting import inverse_ratio_weights
from tabom.objectives.base import Look
from tabom.objectives.nelbo import LLADA_MIN_MASK_RATIO, NelboObjective
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TrajectoryBatch

_NUM_MODES = 3


class LiftObjective(NelboObjective):
    r"""NELBO whose masks leave out what is too hard for a large mask, or too easy for a small one.

    .. math:: L = E_t \frac{1}{n} \sum_{i \in M} \frac{1}{t} (-\log p(x_0^i \mid x_M))

    Each of the n response tokens is masked with probability t + rho at first, where t is uniform on (0.001, 1] and rho
    on (0.1, 1 - t), or below 0.1 where t is above 0.9. A share t / (t + rho) of them stays masked (M), and the others
    become visible again. Which ones stay depends on the mode: those whose clean tokens the model finds likeliest, those
    that it finds least likely, or random ones. The model looks at the first mask without a gradient and without
    dropout. A row of which no token stays masked contributes 0.

    Args:
        policy: How the mode is chosen. ``time``: by the largest weight, which is t for the likeliest, 1 - t for the
            least likely and 3t(1 - t) for random ones, so that they take turns at 2/3 and 1/3. ``random``: drawn.
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt. Those that are not
            are visible, and do not count in n.
        tilt: Eta in nats, >= 0; None for cross-entropy (:class:`~tabom.objectives.Objective`).

    Raises:
        TabomError: If ``tilt`` is below 0.

    References:
        LIFT, arXiv:2605.22939, released code (method ``lift3``, ``loss_selection: time``). There the mode belongs to
        the batch, which is a single row on each device; here it belongs to the row.
    """

    def __init__(
        self,
        policy: Literal["time", "random"] = "time",
        supervise_padding: bool = True,
        tilt: float | None = None,
    ) -> None:
        super().__init__(supervise_padding=supervise_padding, weighting="inverse_ratio", tilt=tilt)
        self.policy: Literal["time", "random"] = policy

    def corrupt_by_model(
        self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws, look: Look
    ) -> CorruptedBatch:
        """Mask as the mode of each row says."""
        is_learnable = self.learnable(batch, mask_token_id)
        place = 1 - draws.per_row()
        time = (1 - LLADA_MIN_MASK_RATIO) * place + LLADA_MIN_MASK_RATIO
        larger = time + enlarged_ratio(place, draws.per_row())
        is_first = uniform_mask(is_learnable, larger, draws.per_position(is_learnable), at_least_one=False)
        nll = look(masked(batch, mask_token_id, is_first)).nll
        drawn, noise = (draws.per_row() * _NUM_MODES).long(), draws.per_position(is_learnable)
        mode = heaviest_mode(time) if self.policy == "time" else drawn
        is_masked = smaller_mask(is_first, nll, mode, time / larger, noise)
        ratio = time.to(batch.unmask_entropy)
        corrupted = self._finished(masked(batch, mask_token_id, is_masked, mask_ratio=ratio), batch)
        return dataclasses.replace(corrupted, token_weight=inverse_ratio_weights(is_learnable, ratio))
