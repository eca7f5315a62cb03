"""Two models on the same questions."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple


class Paired(NamedTuple):
    """How often both of two models were right on a question, only the first, only the second, and neither."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def num_questions(self) -> int:
        """That both answered."""
        return sum(self)

    @property
    def difference(self) -> float:
        """Share that the first got right less that of the second; there must be a question."""
        return (self.only_first - self.only_second) / self.num_questions

    @property
    def standard_error(self) -> float | None:
        """Of the mean difference of a question, which is 1, 0 or -1; None for fewer than two questions."""
        n = self.num_questions
        if n < 2:
            return None
        squares = self.only_first + self.only_second - n * self.difference**2
        return math.sqrt(squares / (n - 1) / n)


def pair(first: Mapping[str, float], second: Mapping[str, float]) -> Paired:
    """Count over the questions that both answered.

    Args:
        first: 0 or 1 for each question, by its hash.
        second: Likewise, of the other model.
    """
    answers = Counter((first[question], second[question]) for question in first.keys() & second.keys())
    return Paired(answers[1, 1], answers[1, 0], answers[0, 1], answers[0, 0])


def mcnemar(only_first: int, only_second: int) -> float:
    """Exact two-sided p-value that both models are right equally often.

    McNemar (Psychometrika 12, 1947) looks at the questions that exactly one of two models got right: if the models are
    equally good, each is the first's with probability 1/2. Here the tail is that of the binomial distribution itself,
    not of its chi-square approximation.

    >>> mcnemar(1, 5)
    0.21875
    """
    n = only_first + only_second
    ways = tail = 1  # whole numbers: nothing overflows or is rounded before the end
    for k in range(min(only_first, only_second)):
        ways = ways * (n - k) // (k + 1)  # n over k + 1
        tail += ways
    return min(1.0, 2 * tail / 2**n)
