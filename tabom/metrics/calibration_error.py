"""Expected calibration error.

Axes: K positions.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from tabom.errors import require


class CalibrationError(Metric):
    r"""Mean distance between confidence and accuracy, over bins of equal confidence (L1).

    .. math:: ECE = \frac{1}{K} \sum_m \Big| \sum_{i \in B_m} (c_i - a_i) \Big|

    A confidence of exactly 1, common in single precision, falls into the last bin; ``BinaryCalibrationError`` of
    torchmetrics gives it a bin of its own, and keeps all values.

    Args:
        num_bins: Bins of equal width over [0, 1], >= 1.

    Raises:
        TabomError: If ``num_bins`` is below 1.

    References:
        Guo et al. 2017, arXiv:1706.04599, Eq. 3.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    gap_sum: Tensor
    num_positions: Tensor

    def __init__(self, num_bins: int = 15) -> None:
        super().__init__()
        require(num_bins >= 1, f"num_bins: expected at least 1, got {num_bins}")
        self.add_state("gap_sum", torch.zeros(num_bins, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_positions", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, confidence: Float[Tensor, " K"], is_correct: Bool[Tensor, " K"]) -> None:
        """Add positions.

        Args:
            confidence: Largest probability, in [0, 1].
            is_correct: Whether the likeliest token is the right one.
        """
        confidence, num_bins = confidence.double(), len(self.gap_sum)
        place = (confidence * num_bins).long().clamp(max=num_bins - 1)
        self.gap_sum.index_add_(0, place, confidence - is_correct.double())
        self.num_positions += len(confidence)

    def compute(self) -> Tensor:
        """Error in [0, 1]; NaN without a position."""
        return self.gap_sum.abs().sum() / self.num_positions
