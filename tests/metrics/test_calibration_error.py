"""Distance between confidence and accuracy."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.classification import BinaryCalibrationError

from tabom.errors import TabomError
from tabom.metrics import CalibrationError

positions = st.lists(st.tuples(st.integers(0, 96).map(lambda n: n / 97), st.booleans()), min_size=2, max_size=30)


def metric_of(*batches, num_bins=15):
    metric = CalibrationError(num_bins)
    for batch in batches:
        confidence, is_correct = zip(*batch, strict=True)
        metric.update(torch.tensor(confidence), torch.tensor(is_correct))
    return metric


def test_value_by_hand():
    """Bins of 0.2: two in the second, one in the third, two in the fourth (one confident and wrong)."""
    batch = [(0.25, False), (0.3, True), (0.5, True), (0.75, True), (0.65, False)]
    expected = (abs(0.55 - 1) + abs(0.5 - 1) + abs(1.4 - 1)) / 5
    assert metric_of(batch, num_bins=5).compute().item() == pytest.approx(expected)


def test_certainty_shares_the_last_bin():
    """torchmetrics gives a confidence of exactly 1 a bin of its own: (0.05 + 1) / 2."""
    batch = [(0.95, True), (1.0, False)]
    assert metric_of(batch).compute().item() == pytest.approx(abs(0.95 + 1 - 1) / 2)


@given(positions)
def test_equals_torchmetrics_below_certainty(batch):
    confidence, is_correct = zip(*batch, strict=True)
    theirs = BinaryCalibrationError(n_bins=15, norm="l1")
    theirs.update(torch.tensor(confidence).double(), torch.tensor(is_correct))
    assert metric_of(batch).compute().item() == pytest.approx(theirs.compute().item(), abs=1e-6)


@given(positions, st.data())
def test_two_updates_in_any_split_and_merged_states_equal_one_update(batch, data):
    split = data.draw(st.integers(1, len(batch) - 1))
    expected = pytest.approx(metric_of(batch).compute().item(), abs=1e-12)
    assert metric_of(batch[split:], batch[:split]).compute().item() == expected
    merged = metric_of(batch[:split])
    merged.merge_state(metric_of(batch[split:]))
    assert merged.compute().item() == expected


def test_nothing_gives_nan():
    metric = CalibrationError()
    metric.update(torch.zeros(0), torch.zeros(0, dtype=torch.bool))
    assert metric.compute().isnan()


def test_wrong_number_of_bins_is_named():
    with pytest.raises(TabomError, match=r"^num_bins: expected at least 1, got 0$"):
        CalibrationError(0)


def test_reset_forgets_and_lower_is_better():
    metric = metric_of([(0.9, False)])
    metric.reset()
    metric.update(torch.tensor([0.5]), torch.tensor([True]))
    assert metric.compute().item() == 0.5
    assert metric.higher_is_better is False
