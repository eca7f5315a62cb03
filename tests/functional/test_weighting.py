"""Weights of tokens in a cross-entropy, against plain loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.weighting import cart_weights, inverse_ratio_weights, path_weights

NAN = float("nan")


@st.composite
def flags(draw):
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 9))
    row = st.lists(st.booleans(), min_size=length, max_size=length)
    return torch.tensor(draw(st.lists(row, min_size=num_rows, max_size=num_rows)))


def close(result, expected):
    torch.testing.assert_close(result.double(), torch.tensor(expected).double(), rtol=1e-5, atol=1e-7)


@given(flags(), st.floats(0.01, 1.0))
def test_cart_equals_the_sum_over_visible_positions(is_visible, p):
    visible = is_visible.tolist()
    expected = [
        [
            sum(0.5 * p * (1 - p) ** (abs(i - j) - 1) for j in range(len(row)) if row[j] and j != i)
            for i in range(len(row))
        ]
        for row in visible
    ]
    close(cart_weights(is_visible, p=p), expected)


def test_cart_by_hand():
    is_visible = torch.tensor([[True, False, False, True, True]])
    close(cart_weights(is_visible, p=0.5)[:, 1:3], [[0.25 + 0.125 + 0.0625, 0.125 + 0.25 + 0.125]])
    close(cart_weights(is_visible, p=1.0)[:, 1:3], [[0.5, 0.5]])
    close(cart_weights(torch.zeros(1, 4, dtype=torch.bool), p=0.1), [[0.0] * 4])


def test_inverse_ratio_by_hand():
    is_learnable = torch.tensor([[False, True, True], [True, True, True], [False, False, False]])
    close(
        inverse_ratio_weights(is_learnable, torch.tensor([0.5, 0.25, 0.5])),
        [[0.0, 1.0, 1.0], [4 / 3, 4 / 3, 4 / 3], [0.0, 0.0, 0.0]],
    )


@given(flags(), st.sampled_from([0.25, 1.0, 4.0]), st.integers(0, 100))
def test_path_weights_are_a_softmax_over_the_masked_positions(where, temperature, seed):
    nll = torch.rand(where.shape, generator=torch.Generator().manual_seed(seed)) * 5
    expected = []
    for row, values in zip(where.tolist(), nll.tolist(), strict=True):
        total = sum(math.exp(-v / temperature) for v, is_in in zip(values, row, strict=True) if is_in)
        expected.append(
            [math.exp(-v / temperature) / total if is_in else 0.0 for v, is_in in zip(values, row, strict=True)]
        )
    close(path_weights(nll.masked_fill(~where, NAN), where=where, temperature=temperature), expected)


def test_path_weights_carry_no_gradient():
    nll = torch.tensor([[1.0, 2.0]], requires_grad=True)
    assert not path_weights(nll, where=torch.tensor([[True, True]]), temperature=1.0).requires_grad


@pytest.mark.parametrize("scale", [0.0, 1e4])
def test_path_weights_of_extreme_values_are_finite(scale):
    nll = torch.tensor([[scale, 2 * scale, 3 * scale]])
    weights = path_weights(nll, where=torch.tensor([[True, True, True]]), temperature=1e-2)
    close(weights, [[1 / 3] * 3] if scale == 0 else [[1.0, 0.0, 0.0]])
