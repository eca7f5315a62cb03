"""The mean that every loss and metric is made of."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.reduction import masked_mean, standard_error

NAN = float("nan")


@st.composite
def masked_rows(draw):
    num_rows, width = draw(st.integers(1, 4)), draw(st.integers(1, 6))
    numbers = st.lists(st.floats(-100, 100), min_size=width, max_size=width)
    flags = st.lists(st.booleans(), min_size=width, max_size=width)
    values = draw(st.lists(numbers, min_size=num_rows, max_size=num_rows))
    where = draw(st.lists(flags, min_size=num_rows, max_size=num_rows))
    return torch.tensor(values, dtype=torch.float64), torch.tensor(where)


def test_mean_of_the_valid_entries():
    values = torch.tensor([[1.0, 3.0, 8.0], [5.0, 7.0, 9.0]])
    where = torch.tensor([[True, False, True], [False, True, False]])
    torch.testing.assert_close(masked_mean(values, where), torch.tensor([(1.0 + 8.0) / 2, 7.0]))


@given(masked_rows())
def test_leaving_out_is_dropping(rows):
    values, where = rows
    expected = [row[keep].mean().item() if keep.any() else 0.0 for row, keep in zip(values, where, strict=True)]
    torch.testing.assert_close(masked_mean(values, where), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 3, 4), (0, 4), (2, 0)])
def test_any_leading_shape(shape):
    values = torch.arange(torch.Size(shape).numel(), dtype=torch.float64).view(shape)
    everywhere = torch.ones(shape, dtype=torch.bool)
    expected = values.mean(-1) if shape[-1] else torch.zeros(shape[:-1], dtype=torch.float64)
    torch.testing.assert_close(masked_mean(values, everywhere), expected)


def test_mean_over_nothing_is_zero_with_zero_gradient():
    values = torch.tensor([[2.0, 4.0], [5.0, 7.0]], requires_grad=True)
    mean = masked_mean(values, torch.tensor([[False, False], [True, True]]))
    assert mean.tolist() == [0.0, (5.0 + 7.0) / 2]
    mean[0].backward()
    assert values.grad.tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_nan_outside_is_not_seen_and_gets_no_gradient():
    values = torch.tensor([[2.0, NAN, 4.0]], requires_grad=True)
    mean = masked_mean(values, torch.tensor([[True, False, True]]))
    mean.sum().backward()
    assert mean.tolist() == [3.0]
    assert values.grad.tolist() == [[0.5, 0.0, 0.5]]


def test_nan_inside_is_not_hidden():
    assert masked_mean(torch.tensor([[2.0, NAN]]), torch.tensor([[True, True]])).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_is_kept(dtype):
    assert masked_mean(torch.ones(2, 3, dtype=dtype), torch.ones(2, 3, dtype=torch.bool)).dtype is dtype


def test_arguments_are_not_changed():
    values, where = torch.tensor([[1.0, NAN], [3.0, 4.0]]), torch.tensor([[True, False], [False, False]])
    before = values.clone(), where.clone()
    masked_mean(values, where)
    torch.testing.assert_close((values, where), before, rtol=0, atol=0, equal_nan=True)


def test_gradient():
    values = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    where = torch.tensor([[True, False, True, True], [False] * 4, [True] * 4])
    assert torch.autograd.gradcheck(lambda values: masked_mean(values, where), values)


@pytest.mark.parametrize("num", [2, 3, 50])
def test_standard_error_is_that_of_the_values(num):
    values = torch.randn(num, 3, dtype=torch.float64) * 4 + 2
    expected = values.std(0) / num**0.5
    found = standard_error(values.mean(0), values.square().mean(0), torch.tensor(num))
    torch.testing.assert_close(found, expected)


def test_the_error_of_one_value_is_unknown_and_of_equal_values_zero():
    value = torch.tensor(0.1, dtype=torch.float64)
    assert standard_error(value, value.square(), torch.tensor(1)).isnan()
    assert standard_error(value, value.square(), torch.tensor(9)) == 0
