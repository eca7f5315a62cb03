"""Chance of a correct answer among several."""

from itertools import combinations
from math import comb

import pytest
import torch

from tabom.functional.pass_at_k import pass_at_k


def one(num_samples, num_correct, k):
    result = pass_at_k(torch.tensor([num_samples]), torch.tensor([num_correct]), k)
    assert result.dtype is torch.float64
    return result.item()


def test_value_by_hand():
    """Of the 6 pairs of 4 answers, 3 hold the one correct answer."""
    assert one(4, 1, 2) == 0.5


def test_equals_counting_all_draws():
    for n in range(1, 6):
        for c in range(n + 1):
            for k in range(1, n + 1):
                draws = list(combinations(range(n), k))
                expected = sum(any(answer < c for answer in draw) for draw in draws) / len(draws)
                assert one(n, c, k) == pytest.approx(expected, abs=1e-15)


def test_many_samples_neither_overflow_nor_lose_precision():
    for n, c, k in ((200, 3, 100), (2000, 1, 1000), (2000, 1999, 1000), (1000, 500, 2)):
        assert one(n, c, k) == pytest.approx(1 - comb(n - c, k) / comb(n, k), rel=1e-12)


def test_edges_are_exact_and_rows_independent():
    counts = torch.tensor([5, 5, 7]), torch.tensor([0, 5, 0])
    assert pass_at_k(*counts, 3).tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("num_samples", "num_correct", "k", "message"),
    [
        ([4, 2], [1, 1], 3, "k: expected at most num_samples, got 3 of 2 samples"),
        ([4, 2], [1, 1], 0, "k: expected at least 1, got 0"),
        ([4, 2], [1, 3], 1, "num_correct: expected 0 to 2 in row 1, got 3"),
        ([4, 2], [-1, 1], 1, "num_correct: expected 0 to 4 in row 0, got -1"),
    ],
)
def test_wrong_arguments_are_named(num_samples, num_correct, k, message):
    with pytest.raises(ValueError) as error:  # noqa: PT011
        pass_at_k(torch.tensor(num_samples), torch.tensor(num_correct), k)
    assert str(error.value) == message
