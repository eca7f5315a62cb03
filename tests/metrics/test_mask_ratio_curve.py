"""Cross-entropy against the mask ratio."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.errors import TabomError
from tabom.metrics import MaskRatioCurve

NAN = float("nan")
RATIOS = (0.2, 0.5, 0.8)


@st.composite
def sequences(draw):
    """(ratio, nll, where) of single sequences; some rows have no masked position."""
    row = st.lists(st.tuples(st.integers(0, 40).map(lambda n: n / 8), st.booleans()), min_size=4, max_size=4)
    return draw(st.lists(st.tuples(st.integers(0, 2), row), min_size=2, max_size=8))


def metric_of(*updates, ratios=RATIOS):
    metric = MaskRatioCurve(ratios)
    for index, nll, where in updates:
        metric.update(index, torch.tensor(nll), torch.tensor(where))
    return metric


def update(index, row):
    nll, where = zip(*row, strict=True)
    return index, [nll], [where]


def reference(drawn):
    curve = []
    for index in range(3):
        rows = [[nll for nll, masked in row if masked] for i, row in drawn if i == index]
        means = [np.mean(row) for row in rows if row]
        curve.append(np.mean(means) if means else NAN)
    return curve


def test_value_by_hand():
    """Means per sequence first: 2 and 6 give 4, not the mean over tokens; the row without a mask does not count."""
    nll = [[1.0, 3.0, NAN], [NAN, NAN, 6.0], [9.0, 9.0, 9.0]]
    where = [[True, True, False], [False, False, True], [False, False, False]]
    curve = metric_of((2, nll, where), (0, [[0.5, 1.5]], [[True, True]])).compute()
    assert curve.tolist() == pytest.approx([1.0, NAN, 4.0], nan_ok=True)
    assert curve.dtype is torch.float64


@given(sequences(), st.data())
def test_any_batches_and_merged_states_give_numpys_curve(drawn, data):
    expected = pytest.approx(reference(drawn), nan_ok=True, abs=1e-12)
    updates = [update(*sequence) for sequence in drawn]
    assert metric_of(*updates).compute().tolist() == expected
    whole = [
        (index, [row[1][0] for row in rows], [row[2][0] for row in rows])
        for index in range(3)
        if (rows := [row for row in updates if row[0] == index])
    ]
    assert metric_of(*whole).compute().tolist() == expected
    split = data.draw(st.integers(1, len(updates) - 1))
    merged = metric_of(*updates[:split])
    merged.merge_state(metric_of(*updates[split:]))
    assert merged.compute().tolist() == expected


@pytest.mark.parametrize("ratios", [(), (0.0, 0.5), (0.5, 1.1)])
def test_wrong_ratios_are_named(ratios):
    with pytest.raises(TabomError) as error:
        MaskRatioCurve(ratios)
    assert str(error.value) == f"ratios: expected numbers in (0, 1], got {list(ratios)}"


def test_reset_forgets_and_lower_is_better():
    metric = metric_of((0, [[5.0]], [[True]]))
    metric.reset()
    metric.update(1, torch.tensor([[2.0]]), torch.tensor([[True]]))
    assert metric.compute().tolist() == pytest.approx([NAN, 2.0, NAN], nan_ok=True)
    assert metric.higher_is_better is False
