"""Accuracy kept on base-domain tasks.

Axes: B prompts.
"""

import torch
from jaxtyping import Bool
from torch import Tensor
from torchmetrics import Metric

from tabom.functional.reduction import standard_error


class AccuracyKept(Metric):
    """Accuracy of the model over that of the base, on the same prompts of a base domain that has a verifier."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    num_correct: Tensor
    num_base_correct: Tensor
    num_both_correct: Tensor
    num_prompts: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("num_correct", "num_base_correct", "num_both_correct", "num_prompts"):
            self.add_state(name, torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, is_correct: Bool[Tensor, " B"], base_is_correct: Bool[Tensor, " B"]) -> None:
        """Add prompts.

        Args:
            is_correct: Whether the model's answer is correct.
            base_is_correct: Whether the base's answer to the same prompt is.
        """
        self.num_correct += is_correct.sum()
        self.num_base_correct += base_is_correct.sum()
        self.num_both_correct += (is_correct & base_is_correct).sum()
        self.num_prompts += len(is_correct)

    def compute(self) -> dict[str, Tensor]:
        """``accuracy``, ``base_accuracy`` and ``kept``, their ratio: 1 for the base, NaN where it solves nothing.

        ``accuracy_error`` and ``kept_error`` are the standard errors over the prompts; those of a single one are NaN.

        References:
            Cochran 1977, "Sampling Techniques", chapter 6: the error of a ratio of two means over the same units.
        """
        num_correct, num_base_correct = self.num_correct.double(), self.num_base_correct.double()
        accuracy, base_accuracy = num_correct / self.num_prompts, num_base_correct / self.num_prompts
        kept = (accuracy / base_accuracy).where(num_base_correct > 0, torch.nan)
        apart = accuracy - 2 * kept * self.num_both_correct / self.num_prompts + kept.square() * base_accuracy
        return {
            "accuracy": accuracy,
            "accuracy_error": standard_error(accuracy, accuracy, self.num_prompts),
            "base_accuracy": base_accuracy,
            "kept": kept,
            "kept_error": standard_error(torch.zeros_like(kept), apart, self.num_prompts) / base_accuracy,
        }
