"""Accuracy of the model over that of the base."""

import pytest
import torch

from tabom.metrics import AccuracyKept

NAN = float("nan")


def metric_of(*batches):
    metric = AccuracyKept()
    for is_correct, base_is_correct in batches:
        metric.update(torch.tensor(is_correct), torch.tensor(base_is_correct))
    return metric


def computed(metric):
    return {name: value.item() for name, value in metric.compute().items()}


MODEL, BASE = [True, False, False, True, False], [True, True, False, False, True]
EXPECTED = {"accuracy": 2 / 5, "base_accuracy": 3 / 5, "kept": 2 / 3}


def test_value_by_hand():
    assert computed(metric_of((MODEL, BASE))) == EXPECTED


def test_two_updates_and_merged_states_equal_one_update():
    first, second = (MODEL[:2], BASE[:2]), (MODEL[2:], BASE[2:])
    assert computed(metric_of(first, second)) == EXPECTED
    merged = metric_of(first)
    merged.merge_state(metric_of(second))
    assert computed(merged) == EXPECTED


def test_the_base_itself_keeps_exactly_everything():
    assert computed(metric_of((BASE, BASE), (MODEL, MODEL)))["kept"] == 1.0


@pytest.mark.parametrize("is_correct", [True, False])
def test_nothing_can_be_kept_of_nothing(is_correct):
    results = computed(metric_of(([is_correct], [False])))
    assert results == pytest.approx({"accuracy": float(is_correct), "base_accuracy": 0.0, "kept": NAN}, nan_ok=True)


def test_reset_forgets():
    metric = metric_of((MODEL, BASE))
    metric.reset()
    metric.update(torch.tensor([True]), torch.tensor([True]))
    assert computed(metric) == {"accuracy": 1.0, "base_accuracy": 1.0, "kept": 1.0}
