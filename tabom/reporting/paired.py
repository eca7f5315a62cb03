"""Two models on the same questions."""

from collections.abc import Mapping

import pandas as pd

from tabom.reporting.comparison import MISSING, POINTS, Frame


def paired_cells(first: Mapping[str, float], second: Mapping[str, float]) -> dict[str, str]:
    """Cells of a table by their heads: counts over the questions that both answered, mean difference, McNemar's p.

    Args:
        first: 0 or 1 for each question, by its hash.
        second: Likewise, of the other model.

    Returns:
        The difference in points with its standard error, which one question does not have; it and p are a dash where
        both answered none.
    """
    both: Frame = pd.DataFrame({"A": first, "B": second}, dtype=float).dropna()
    difference = both["A"] - both["B"]
    only_first, only_second = int((difference > 0).sum()), int((difference < 0).sum())
    p = mcnemar(only_first, only_second)
    return {
        "questions of both": str(len(both)),
        "both right": str(int(both.min(axis=1).sum())),
        "only A": str(only_first),
        "only B": str(only_second),
        "both wrong": str(int((both.max(axis=1) == 0).sum())),
        "A less B, points": POINTS.with_error(difference.mean(), difference.sem()) if len(both) else MISSING,
        "p": MISSING if both.empty else "< 0.001" if p < 0.001 else f"{p:.3f}",
    }


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
