"""Pass@k.

Axes: B queries.
"""

import torch
from jaxtyping import Int
from torch import Tensor
from torchmetrics import Metric

from tabom.errors import require
from tabom.functional.pass_at_k import pass_at_k
from tabom.functional.reduction import standard_error


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
    square_sum: Tensor
    num_queries: Tensor

    def __init__(self, k: tuple[int, ...]) -> None:
        super().__init__()
        require(len(k) > 0 and min(k) >= 1, f"k: expected numbers of at least 1, got {list(k)}")
        self.k = k
        for name in ("pass_sum", "square_sum"):
            self.add_state(name, torch.zeros(len(k), dtype=torch.float64), dist_reduce_fx="sum")
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
        chances = torch.stack([pass_at_k(samples, num_correct, k) for k in self.k])
        self.pass_sum += chances.sum(1)
        self.square_sum += chances.square().sum(1)
        self.num_queries += len(num_correct)

    def compute(self) -> dict[str, Tensor]:
        """``pass_at_1`` and so on, for each ``k``, and their standard errors over the queries, ``pass_at_1_error``.

        NaN without a query; the error of a single one is NaN.
        """
        means = self.pass_sum / self.num_queries
        errors = standard_error(means, self.square_sum / self.num_queries, self.num_queries)
        names = [f"pass_at_{k}" for k in self.k]
        return dict(zip((*names, *(f"{name}_error" for name in names)), (*means, *errors), strict=True))
