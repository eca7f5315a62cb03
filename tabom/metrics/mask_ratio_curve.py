"""Cross-entropy against the mask ratio.

Axes: B sequences, L positions, R mask ratios.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tabom.errors import require
from tabom.functional.reduction import masked_mean
from tabom.metrics.mean_curve import MeanCurve


class MaskRatioCurve(MeanCurve):
    """Cross-entropy of the masked tokens at each of several mask ratios.

    A mean per sequence over its masked positions, then over sequences, in nats. For the masks see
    :func:`tabom.functional.masking.fixed_ratio_mask`.

    Args:
        ratios: R shares of the response that are masked, each in (0, 1].

    Raises:
        TabomError: If ``ratios`` is empty or holds a number outside (0, 1].

    References:
        Chen et al. 2026, arXiv:2605.11854, Fig. 3.
    """

    higher_is_better = False

    def __init__(self, ratios: tuple[float, ...]) -> None:
        is_valid = len(ratios) > 0 and all(0 < ratio <= 1 for ratio in ratios)
        require(is_valid, f"ratios: expected numbers in (0, 1], got {list(ratios)}")
        super().__init__(len(ratios))
        self.ratios = ratios

    def update(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, index: int, nll: Float[Tensor, "B L"], where: Bool[Tensor, "B L"]
    ) -> None:
        """Add sequences.

        Args:
            index: Which of ``ratios`` they were masked with.
            nll: Negative log-likelihood of the clean tokens in nats; anything outside ``where``.
            where: Masked positions. A row without one does not count.
        """
        has_masked = where.any(1)
        means = masked_mean(nll.double(), where)[has_masked]
        super().update(means, torch.full_like(means, index, dtype=torch.long))
