"""Kendall's tau over whole responses, averaged over those that have one."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.agreement import kendall_tau
from tabom.metrics import OrderCorrelation

NAN = float("nan")


@st.composite
def responses(draw, min_rows=1):
    """Entropies and orders with many ties, and the positions that take part, as nested lists."""
    num_rows, length = draw(st.integers(min_rows, 5)), draw(st.integers(1, 6))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return draw(st.lists(row, min_size=num_rows, max_size=num_rows))

    return rows(st.integers(0, 5).map(lambda n: n / 4)), rows(st.integers(0, 4)), rows(st.booleans())


def arguments(response):
    return [torch.tensor(field) for field in response]


def metric_of(*batches):
    metric = OrderCorrelation()
    for batch in batches:
        metric.update(*batch)
    return metric


def test_metric_leaves_out_rows_without_a_correlation():
    entropy, order = torch.tensor([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0], [3.0, 1.0, 2.0]]), torch.tensor([[0, 1, 2]] * 3)
    metric = metric_of((entropy, order, torch.ones(3, 3, dtype=torch.bool)))
    assert metric.compute().item() == pytest.approx((1 - 1 / 3) / 2)


def test_no_row_gives_nan():
    assert metric_of((torch.ones(1, 2), torch.tensor([[0, 1]]), torch.ones(1, 2, dtype=torch.bool))).compute().isnan()


@given(responses(min_rows=2), st.data())
def test_two_updates_in_any_split_and_merged_states_equal_one_update(response, data):
    fields = arguments(response)
    split = data.draw(st.integers(1, len(fields[0]) - 1))
    first, second = [field[:split] for field in fields], [field[split:] for field in fields]
    entropy, order, where = fields
    taus = [tau for tau in kendall_tau(entropy, order, where=where).tolist() if tau == tau]
    expected = pytest.approx(sum(taus) / len(taus) if taus else NAN, nan_ok=True, abs=1e-12)
    assert metric_of(fields).compute().item() == expected
    assert metric_of(first, second).compute().item() == expected
    merged = metric_of(first)
    merged.merge_state(metric_of(second))
    assert merged.compute().item() == expected


def test_higher_is_better_and_reset_forgets():
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    metric = metric_of((torch.tensor([[1.0, 2.0]]), torch.tensor([[0, 1]]), everywhere))
    metric.reset()
    metric.update(torch.tensor([[2.0, 1.0]]), torch.tensor([[0, 1]]), everywhere)
    assert metric.compute().item() == -1.0
    assert metric.higher_is_better
