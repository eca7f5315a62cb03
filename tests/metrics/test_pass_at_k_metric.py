"""Chance that one of k sampled answers is correct, over queries."""

import statistics

import pytest
import torch

from tabom.errors import TabomError
from tabom.metrics import PassAtK


def metric_of(*batches, k=(1, 2, 4)):
    metric = PassAtK(k)
    for num_correct in batches:
        metric.update(4, torch.tensor(num_correct))
    return metric


def computed(metric):
    return {name: value.item() for name, value in metric.compute().items()}


CHANCES = {"pass_at_1": [0.25, 0, 0.5], "pass_at_2": [0.5, 0, 5 / 6], "pass_at_4": [1, 0, 1]}
EXPECTED = {name: statistics.mean(chances) for name, chances in CHANCES.items()} | {
    f"{name}_error": statistics.stdev(chances) / 3**0.5 for name, chances in CHANCES.items()
}


def test_value_by_hand():
    assert computed(metric_of([1, 0, 2])) == pytest.approx(EXPECTED)


def test_two_updates_and_merged_states_equal_one_update():
    assert computed(metric_of([1], [0, 2])) == pytest.approx(EXPECTED, abs=1e-12)
    merged = metric_of([1, 0])
    merged.merge_state(metric_of([2]))
    assert computed(merged) == pytest.approx(EXPECTED, abs=1e-12)


def test_a_refused_batch_adds_nothing():
    metric = metric_of([1, 0, 2])
    with pytest.raises(ValueError, match=r"^k: expected at most num_samples, got 4 of 3 samples$"):
        metric.update(3, torch.tensor([3]))
    assert computed(metric) == pytest.approx(EXPECTED)


@pytest.mark.parametrize("k", [(), (0, 1)])
def test_wrong_k_is_named(k):
    with pytest.raises(TabomError) as error:
        PassAtK(k)
    assert str(error.value) == f"k: expected numbers of at least 1, got {list(k)}"


def test_a_single_k_and_reset():
    metric = metric_of([4], k=(2,))
    metric.reset()
    metric.update(4, torch.tensor([0, 0]))
    assert computed(metric) == {"pass_at_2": 0.0, "pass_at_2_error": 0.0}
