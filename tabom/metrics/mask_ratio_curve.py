"""Cross-entropy against the mask ratio.

Axes: B sequences, L positions, R mask ratios.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from tabom.errors import require
from tabom.functional.reduction import masked_mean


class MaskRatioCurve(Metric):
    """Cross-entropy of the masked tokens at each of several mask ratios.

    A mean per sequence over its masked positions, then over sequences, in nats. For the masks see
    :func:`tabom.functional.mask_ratio.fixed_ratio_mask`.

    Args:
        ratios: R shares of the response that are masked, each in (0, 1].

    Raises:
        TabomError: If ``ratios`` is empty or holds a number outside (0, 1].

    References:
        Chen et al. 2026, arXiv:2605.11854, Fig. 3.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    nll_sum: Tensor
    num_sequences: Tensor

    def __init__(self, ratios: tuple[float, ...]) -> None:
        super().__init__()
        is_valid = len(ratios) > 0 and all(0 < ratio <= 1 for ratio in ratios)
        require(is_valid, f"ratios: expected numbers in (0, 1], got {list(ratios)}")
        self.ratios = ratios
        self.add_state("nll_sum", torch.zeros(len(ratios), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_sequences", torch.zeros(len(ratios), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, index: int, nll: Float[Tensor, "B L"], where: Bool[Tensor, "B L"]) -> None:
        """Add sequences.

        Args:
            index: Which of ``ratios`` they were masked with.
            nll: Negative log-likelihood of the clean tokens in nats; anything outside ``where``.
            where: Masked positions. A row without one does not count.
        """
        self.nll_sum[index] += masked_mean(nll.double(), where).sum()
        self.num_sequences[index] += where.any(1).sum()

    def compute(self) -> Tensor:
        """Curve (R,), NaN where no sequence was added; torchmetrics makes a scalar of a curve of one ratio."""
        return self.nll_sum / self.num_sequences
