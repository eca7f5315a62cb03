"""Variance of the entropy over positions that are still masked: a curve over steps, and its mean."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.metrics import TrajectoryDiscriminationScore
from tabom.metrics.trajectory_discrimination import entropy_variance

NAN = float("nan")
quick = settings(deadline=None, max_examples=40)


@st.composite
def decodings(draw, min_rows=1):
    """Entropies (B, S, N), NaN once a position is revealed, and the positions that count, as nested lists."""
    num_rows, num_steps, length = draw(st.integers(min_rows, 5)), draw(st.integers(2, 4)), draw(st.integers(1, 5))
    step_entropy, where = [], []
    for _ in range(num_rows):
        reveal_step = draw(st.lists(st.integers(0, num_steps), min_size=length, max_size=length))
        values = draw(st.lists(st.integers(0, 40), min_size=num_steps * length, max_size=num_steps * length))
        step_entropy.append(
            [
                [values[step * length + n] / 8 if step <= reveal_step[n] else NAN for n in range(length)]
                for step in range(num_steps)
            ]
        )
        where.append(draw(st.lists(st.booleans(), min_size=length, max_size=length)))
    return step_entropy, where


def arguments(decoding):
    step_entropy, where = decoding
    return torch.tensor(step_entropy, dtype=torch.float64), torch.tensor(where)


def metric_of(num_steps, *batches):
    metric = TrajectoryDiscriminationScore(num_steps)
    for step_entropy, where in batches:
        metric.update(step_entropy, where)
    return metric


def computed(metric):
    result = metric.compute()
    assert tuple(result) == ("curve", "score")
    return [*result["curve"].tolist(), result["score"].item()]


def mean_or_nan(values):
    return np.mean(values) if len(values) else NAN


def reference(decoding):
    """Curve and score by numpy's population variance."""
    step_entropy, where = np.array(decoding[0]), np.array(decoding[1])
    curve = []
    for step in range(step_entropy.shape[1]):
        counted = [row[step][keep & ~np.isnan(row[step])] for row, keep in zip(step_entropy, where, strict=True)]
        curve.append(mean_or_nan([np.var(values) for values in counted if len(values)]))
    return [*curve, mean_or_nan([value for value in curve if not np.isnan(value)])]


def test_value_by_hand():
    step_entropy = torch.tensor([[[1.0, 3.0, 8.0], [NAN, 2.0, 6.0], [NAN, NAN, 5.0]]])
    everywhere = torch.ones(1, 3, dtype=torch.bool)
    curve = [((1 - 4) ** 2 + (3 - 4) ** 2 + (8 - 4) ** 2) / 3, ((2 - 4) ** 2 + (6 - 4) ** 2) / 2, 0.0]
    assert computed(metric_of(3, (step_entropy, everywhere))) == pytest.approx([*curve, sum(curve) / 3])


def test_positions_after_the_end_are_left_out():
    step_entropy = torch.tensor([[[1.0, 3.0, 50.0], [NAN, 2.0, 60.0]]])
    metric = metric_of(2, (step_entropy, torch.tensor([[True, True, False]])))
    curve = [((1 - 2) ** 2 + (3 - 2) ** 2) / 2, 0.0]
    assert computed(metric) == pytest.approx([*curve, sum(curve) / 2])


def test_steps_with_nothing_left_are_nan_in_the_curve_and_left_out_of_the_score():
    step_entropy = torch.tensor([[[1.0, 3.0], [2.0, NAN], [NAN, NAN]]])
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    assert computed(metric_of(3, (step_entropy, everywhere))) == pytest.approx([1.0, 0.0, NAN, 0.5], nan_ok=True)


def test_each_step_averages_over_the_trajectories_that_have_something_left():
    step_entropy = torch.tensor([[[1.0, 3.0], [NAN, NAN]], [[1.0, 5.0], [2.0, 8.0]]])
    everywhere = torch.ones(2, 2, dtype=torch.bool)
    curve = [(1.0 + 4.0) / 2, 9.0]
    assert computed(metric_of(2, (step_entropy, everywhere))) == pytest.approx([*curve, sum(curve) / 2])


def test_variance_and_where_it_is_defined():
    step_entropy = torch.tensor([[[1.0, 3.0], [NAN, 2.0]], [[4.0, 4.0], [NAN, NAN]]])
    variance, is_defined = entropy_variance(step_entropy, torch.tensor([[True, True], [True, True]]))
    assert is_defined.tolist() == [[True, True], [True, False]]
    assert variance[is_defined].tolist() == [1.0, 0.0, 0.0]


@quick
@given(decodings())
def test_class_equals_function_equals_numpy(decoding):
    step_entropy, where = arguments(decoding)
    expected = reference(decoding)
    variance, is_defined = entropy_variance(step_entropy, where)
    with warnings.catch_warnings(action="ignore", category=RuntimeWarning):
        curve = np.nanmean(np.where(is_defined.numpy(), variance.numpy(), NAN), axis=0)
    assert curve.tolist() == pytest.approx(expected[:-1], nan_ok=True)
    assert computed(metric_of(step_entropy.shape[1], (step_entropy, where))) == pytest.approx(expected, nan_ok=True)


@quick
@given(decodings(min_rows=2), st.data())
def test_two_updates_in_any_split_and_merged_states_equal_one_update(decoding, data):
    step_entropy, where = arguments(decoding)
    num_rows, num_steps, _ = step_entropy.shape
    split = data.draw(st.integers(1, num_rows - 1))
    first, second = (step_entropy[:split], where[:split]), (step_entropy[split:], where[split:])
    expected = pytest.approx(computed(metric_of(num_steps, (step_entropy, where))), nan_ok=True)
    assert computed(metric_of(num_steps, first, second)) == expected
    merged = metric_of(num_steps, first)
    merged.merge_state(metric_of(num_steps, second))
    assert computed(merged) == expected


@quick
@given(decodings(), st.integers(-8, 8))
def test_adding_a_constant_to_all_entropies_changes_nothing(decoding, constant):
    step_entropy, where = arguments(decoding)
    torch.testing.assert_close(entropy_variance(step_entropy + constant, where), entropy_variance(step_entropy, where))


def test_arguments_are_not_changed():
    step_entropy, where = torch.tensor([[[1.0, NAN]]]), torch.tensor([[True, False]])
    before = step_entropy.clone(), where.clone()
    metric_of(1, (step_entropy, where))
    torch.testing.assert_close((step_entropy, where), before, rtol=0, atol=0, equal_nan=True)


def test_reset_forgets():
    everywhere = torch.ones(1, 2, dtype=torch.bool)
    metric = metric_of(2, (torch.tensor([[[1.0, 9.0], [2.0, 9.0]]]), everywhere))
    metric.reset()
    metric.update(torch.tensor([[[1.0, 3.0], [NAN, 3.0]]]), everywhere)
    assert computed(metric) == [1.0, 0.0, 0.5]
