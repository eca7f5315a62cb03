"""Accuracy of the model over that of the base."""

import statistics

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
_RESIDUALS = [x - 2 / 3 * y for x, y in zip(MODEL, BASE, strict=True)]
EXPECTED = {
    "accuracy": 2 / 5,
    "accuracy_error": statistics.stdev(map(float, MODEL)) / 5**0.5,
    "base_accuracy": 3 / 5,
    "kept": 2 / 3,
    "kept_error": statistics.stdev(_RESIDUALS) / 5**0.5 / (3 / 5),
}


def test_value_by_hand():
    assert computed(metric_of((MODEL, BASE))) == pytest.approx(EXPECTED)


def test_two_updates_and_merged_states_equal_one_update():
    first, second = (MODEL[:2], BASE[:2]), (MODEL[2:], BASE[2:])
    assert computed(metric_of(first, second)) == pytest.approx(EXPECTED)
    merged = metric_of(first)
    merged.merge_state(metric_of(second))
    assert computed(merged) == pytest.approx(EXPECTED)


def test_the_base_itself_keeps_exactly_everything():
    results = computed(metric_of((BASE, BASE), (MODEL, MODEL)))
    assert (results["kept"], results["kept_error"]) == (1.0, 0.0)


def test_the_error_of_the_ratio_is_its_spread_over_samples_of_prompts():
    base = torch.rand(2000, 400) < 0.6
    model = torch.where(base, torch.rand(2000, 400) < 0.9, torch.rand(2000, 400) < 0.2)
    ratios = model.sum(1) / base.sum(1)
    errors = [computed(metric_of((model[i].tolist(), base[i].tolist())))["kept_error"] for i in range(50)]
    assert statistics.mean(errors) == pytest.approx(ratios.std().item(), rel=0.1)


@pytest.mark.parametrize("is_correct", [True, False])
def test_nothing_can_be_kept_of_nothing(is_correct):
    results = computed(metric_of(([is_correct], [False])))
    expected = {
        "accuracy": float(is_correct),
        "accuracy_error": NAN,
        "base_accuracy": 0.0,
        "kept": NAN,
        "kept_error": NAN,
    }
    assert results == pytest.approx(expected, nan_ok=True)


def test_reset_forgets():
    metric = metric_of((MODEL, BASE))
    metric.reset()
    metric.update(torch.tensor([True, True]), torch.tensor([True, True]))
    expected = {"accuracy": 1.0, "accuracy_error": 0.0, "base_accuracy": 1.0, "kept": 1.0, "kept_error": 0.0}
    assert computed(metric) == expected
