"""Largest change for the worse over the checks of a run."""

import pytest
import torch

from tabom.metrics import LargestDrop

NAN = float("nan")


def metric_of(*changes):
    metric = LargestDrop()
    for change in changes:
        metric.update(torch.tensor(change))
    return metric


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((0.1, 0.4, 0.2), 0.4),
        ((-0.5, -0.2), -0.2),
        ((0.0,), 0.0),
        ((NAN, 0.3, NAN), 0.3),
        ((NAN,), NAN),
    ],
)
def test_value_by_hand(changes, expected):
    assert metric_of(*changes).compute().item() == pytest.approx(expected, nan_ok=True)


def test_reset_keeps_it_but_no_cached_result():
    metric = metric_of(0.5)
    assert metric.compute().item() == 0.5
    metric.reset()
    metric.update(torch.tensor(0.25))
    assert metric.compute().item() == 0.5
    metric.reset()
    metric.update(torch.tensor(0.75))
    assert metric.compute().item() == 0.75


def test_a_continued_run_knows_it():
    saved = torch.nn.ModuleDict({"drop": metric_of(0.5)}).state_dict()
    assert list(saved) == ["drop.largest"]
    continued = LargestDrop()
    torch.nn.ModuleDict({"drop": continued}).load_state_dict(saved)
    continued.update(torch.tensor(0.25))
    assert continued.compute().item() == 0.5


def test_single_precision_loses_nothing():
    change = torch.tensor(0.1, dtype=torch.float64)
    metric = LargestDrop()
    metric.update(change)
    assert metric.compute().item() == 0.1


def test_merged_states_hold_the_larger():
    for first, second in ((0.2, 0.3), (0.3, 0.2), (NAN, 0.3)):
        merged = metric_of(first)
        merged.merge_state(metric_of(second))
        assert merged.compute().item() == pytest.approx(0.3)


def test_two_runs_share_nothing():
    metric_of(5.0)
    assert metric_of(1.0).compute().item() == 1.0
