"""Change against the base model at masked positions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.metrics import Forgetting

NAN = float("nan")
NAMES = ("nelbo", "nelbo_change", "kl", "nelbo_error", "nelbo_change_error", "kl_error")


@st.composite
def texts(draw, min_rows=1):
    """Three fields of values, and masked positions with at least one in each row, as nested lists."""
    num_rows, length = draw(st.integers(min_rows, 5)), draw(st.integers(1, 5))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return draw(st.lists(row, min_size=num_rows, max_size=num_rows))

    numbers = st.integers(0, 40).map(lambda n: n / 8)
    where = [[True, *row[1:]] for row in rows(st.booleans())]
    return rows(numbers), rows(numbers), rows(numbers), where


def arguments(text):
    return [torch.tensor(field) for field in text]


def computed(metric):
    result = metric.compute()
    assert tuple(result) == NAMES
    return [value.item() for value in result.values()]


def metric_of(*batches):
    metric = Forgetting()
    for batch in batches:
        metric.update(*batch)
    return metric


def of_sequences(values, where):
    return np.array([np.mean(np.array(row)[keep]) for row, keep in zip(values, np.array(where), strict=True)])


def reference(text):
    nll, base_nll, kl, where = text
    nelbo = of_sequences(nll, where)
    fields = (nelbo, nelbo - of_sequences(base_nll, where), of_sequences(kl, where))
    errors = [np.std(values, ddof=1) / len(values) ** 0.5 if len(values) > 1 else NAN for values in fields]
    return [*(np.mean(values) for values in fields), *errors]


def test_value_by_hand():
    where = torch.tensor([[True, True, False], [False, False, True]])
    nll = torch.tensor([[1.0, 3.0, NAN], [NAN, NAN, 6.0]])
    base_nll = torch.tensor([[2.0, 1.0, NAN], [NAN, NAN, 4.0]])
    kl = torch.tensor([[0.25, 0.75, NAN], [NAN, NAN, 1.0]])
    nelbo, base_nelbo = ((1.0 + 3.0) / 2 + 6.0) / 2, ((2.0 + 1.0) / 2 + 4.0) / 2
    errors = [(6.0 - 2.0) / 2, (2.0 - 0.5) / 2, (1.0 - 0.5) / 2]
    expected = [nelbo, nelbo - base_nelbo, ((0.25 + 0.75) / 2 + 1.0) / 2, *errors]
    assert computed(metric_of((nll, base_nll, kl, where))) == pytest.approx(expected)


@given(texts())
def test_equals_numpy(text):
    assert computed(metric_of(arguments(text))) == pytest.approx(reference(text), abs=1e-7, nan_ok=True)


@given(texts(min_rows=2), st.data())
def test_two_updates_in_any_split_and_merged_states_equal_one_update(text, data):
    fields = arguments(text)
    split = data.draw(st.integers(1, len(fields[0]) - 1))
    first, second = [field[:split] for field in fields], [field[split:] for field in fields]
    expected = pytest.approx(computed(metric_of(fields)))
    assert computed(metric_of(first, second)) == expected
    merged = metric_of(first)
    merged.merge_state(metric_of(second))
    assert computed(merged) == expected


def test_the_base_itself_forgets_nothing():
    nll, where = torch.rand(3, 4), torch.ones(3, 4, dtype=torch.bool)
    nelbo, *rest = computed(metric_of((nll, nll, torch.zeros(3, 4), where)))
    assert (nelbo, rest[0], rest[1], *rest[3:]) == (pytest.approx(nll.double().mean().item()), 0.0, 0.0, 0.0, 0.0)


@given(texts(), st.integers(1, 5))
def test_the_base_itself_forgets_exactly_nothing_in_any_batches(text, batch_size):
    nll, _, _, where = arguments(text)
    fields = nll, nll, torch.zeros_like(nll), where
    batches = zip(*(field.split(batch_size) for field in fields), strict=True)
    assert computed(metric_of(*batches))[1:3] == [0.0, 0.0]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_batch_size_order_and_ranks_change_nothing(batch_size):
    """Of a few hundred sequences in single precision, to 1e-12 nats."""
    num_rows, generator = 300, torch.Generator().manual_seed(0)
    nll, base_nll, kl = torch.rand(3, num_rows, 9, generator=generator) * 10
    where = torch.rand(num_rows, 9, generator=generator) < 0.5
    where[:, 0] = True
    fields = nll, base_nll, kl, where
    expected = pytest.approx(computed(metric_of(fields)), rel=0, abs=1e-12)
    shuffled = [field[torch.randperm(num_rows, generator=generator.manual_seed(1))] for field in fields]
    batches = list(zip(*(field.split(batch_size) for field in shuffled), strict=True))
    assert computed(metric_of(*batches)) == expected
    ranks = [metric_of(*batches[rank::3]) for rank in range(3)]
    ranks[0].merge_state(ranks[1])
    ranks[0].merge_state(ranks[2])
    assert computed(ranks[0]) == expected


def test_a_thousand_batches_lose_no_precision():
    """In float32, adding 1 to 2 ** 24 changes nothing."""
    metric = metric_of((torch.full((1, 1), 2.0**24), torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([[True]])))
    for _ in range(1000):
        metric.update(torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1), torch.tensor([[True]]))
    assert computed(metric)[0] == (2.0**24 + 1000) / 1001


def test_lower_is_better():
    assert Forgetting().higher_is_better is False


def test_reset_forgets():
    ones, where = torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool)
    metric = metric_of((5 * ones, ones, ones, where))
    metric.reset()
    metric.update(2 * ones, ones, ones, where)
    assert computed(metric)[:3] == [2.0, 2.0 - 1.0, 1.0]
