"""Share of the pairs that already stand in decoding order."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.agreement import order_agreement_counts
from tabom.functional.ranking import ordered_pairs
from tabom.metrics import OrderAgreement

NAN = float("nan")


@st.composite
def segments(draw, min_rows=1):
    """Entropies, order and validity, as nested lists."""
    num_rows, width = draw(st.integers(min_rows, 5)), draw(st.integers(1, 5))

    def rows(elements):
        row = st.lists(elements, min_size=width, max_size=width)
        return draw(st.lists(row, min_size=num_rows, max_size=num_rows))

    return rows(st.integers(0, 6).map(lambda n: n / 4)), rows(st.integers(0, 4)), rows(st.booleans())


def arguments(segment):
    entropy, order, where = (torch.tensor(field) for field in segment)
    return entropy, ordered_pairs(order, where=where)


def metric_of(*batches):
    metric = OrderAgreement()
    for entropy, is_pair in batches:
        metric.update(entropy, is_pair)
    return metric


def share(segment):
    """Double loop over positions."""
    num_agreeing = num_pairs = 0
    for entropy, order, where in zip(*segment, strict=True):
        for r in range(len(order)):
            for s in range(len(order)):
                if order[r] < order[s] and where[r] and where[s]:
                    num_pairs += 1
                    num_agreeing += entropy[r] < entropy[s]
    return num_agreeing / num_pairs if num_pairs else NAN


def test_value_by_hand():
    is_pair = ordered_pairs(torch.tensor([[0, 1, 2], [5, 5, 1]]), where=torch.ones(2, 3, dtype=torch.bool))
    metric = metric_of((torch.tensor([[1.0, 3.0, 2.0], [2.0, 1.0, 1.0]]), is_pair))
    assert metric.compute().item() == pytest.approx((2 + 1) / (3 + 2))


@given(segments())
def test_class_equals_function_equals_double_loop(segment):
    entropy, is_pair = arguments(segment)
    num_agreeing, num_pairs = order_agreement_counts(entropy, is_pair)
    expected = pytest.approx(share(segment), nan_ok=True)
    assert (num_agreeing.sum() / num_pairs.sum()).item() == expected
    assert metric_of((entropy, is_pair)).compute().item() == expected


@given(segments(min_rows=2), st.data())
def test_two_updates_in_any_split_and_merged_states_equal_one_update(segment, data):
    entropy, is_pair = arguments(segment)
    split = data.draw(st.integers(1, len(entropy) - 1))
    first, second = (entropy[:split], is_pair[:split]), (entropy[split:], is_pair[split:])
    expected = pytest.approx(metric_of((entropy, is_pair)).compute().item(), nan_ok=True)
    assert metric_of(first, second).compute().item() == expected
    merged = metric_of(first)
    merged.merge_state(metric_of(second))
    assert merged.compute().item() == expected


def test_segments_of_different_width():
    wide = arguments([[[1.0, 2.0, 3.0]], [[0, 1, 2]], [[True] * 3]])
    narrow = arguments([[[2.0, 1.0]], [[0, 1]], [[True] * 2]])
    assert metric_of(wide, narrow).compute().item() == pytest.approx(3 / 4)


def test_no_pair_gives_nan():
    assert metric_of(arguments([[[1.0, 2.0]], [[3, 3]], [[True, True]]])).compute().isnan()


def test_states_are_whole_numbers_that_add_up():
    metric = OrderAgreement()
    assert {name: value.dtype for name, value in metric.metric_state.items()} == {
        "num_agreeing": torch.long,
        "num_pairs": torch.long,
    }
    assert metric.higher_is_better


def test_reset_forgets():
    metric = metric_of(arguments([[[1.0, 2.0]], [[0, 1]], [[True, True]]]))
    metric.reset()
    metric.update(*arguments([[[2.0, 1.0]], [[0, 1]], [[True, True]]]))
    assert metric.compute().item() == 0.0
