"""Pass@k.

Axes: B queries.
"""

import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric

from tabom.errors import require
from tabom.functional.pass_at_k import pass_at_k


class PassAtK(Metric):
    """Chance that one of k sampled answers is correct; a mean over queries.

    Args:
        k: Numbers of answers, each at least 1.

    Raises:
        TabomError: If ``k`` is empty or holds a number below 1.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    pass_sum: Tensor
    num_queries: Tensor

    def __init__(self, k: tuple[int, ...]) -> None:
        super().__init__()
        require(len(k) > 0 and min(k) >= 1, f"k: expected numbers of at least 1, got {list(k)}")
        self.k = k
        self.add_state("pass_sum", torch.zeros(len(k), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("num_queries", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, num_samples: int, num_correct: Int[Tensor, " B"]) -> None:
        """Add queries, each with all its answers.

        Args:
            num_samples: Answers that were sampled of each.
            num_correct: How many of them are correct.

        Raises:
            ValueError: If ``num_samples`` is below the largest ``k``, or a query has more correct answers than answers.
        """
        samples = torch.full_like(num_correct, num_samples)
        self.pass_sum += torch.stack([pass_at_k(samples, num_correct, k).sum() for k in self.k])
        self.num_queries += len(num_correct)

    def compute(self) -> dict[str, Tensor]:
        """``pass_at_1`` and so on, for each ``k``; NaN without a query."""
        means = self.pass_sum / self.num_queries
        return {f"pass_at_{k}": mean for k, mean in zip(self.k, means, strict=True)}
