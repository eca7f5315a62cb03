"""Reconstruction of what two states of a trajectory differ in."""

import dataclasses

import pytest
import torch
from helpers import corrupted_batch, row_draws, token_statistics_of, trajectory_batch

from tabom.objectives.dinfer import DInferObjective
from tabom.types import NEVER

MASK = 99
NAN = float("nan")
STEPS = [[0, 1, 1, 2, 3], [4, NEVER, 2, 2, 7], [NEVER, NEVER, 0, NEVER, NEVER], [3, 2, 1, 0, 0]]


def mean(values):
    return sum(values) / len(values) if values else 0.0


def oracle(is_target, nll, reduction):
    """Loss, gradient and mean over the targets, as plain loops."""
    counted = [row for row, flags in enumerate(is_target) if any(flags)]
    gradient = [[0.0] * len(row) for row in nll]
    losses, means = [], []
    for row in counted:
        targets = [k for k, flag in enumerate(is_target[row]) if flag]
        total = sum(nll[row][k] for k in targets)
        scale = 1.0 if reduction == "sum" else 1 / len(targets)
        losses.append(total * scale)
        means.append(total / len(targets))
        for k in targets:
            gradient[row][k] = scale / len(counted)
    return mean(losses), gradient, mean(means)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("supervise_padding", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_definition(reduction, supervise_padding, seed):
    generator = torch.Generator().manual_seed(seed)
    batch = trajectory_batch(STEPS * 3)
    is_filler = torch.zeros_like(batch.is_filler)
    is_filler[:, -2:] = True
    batch = dataclasses.replace(batch, is_filler=is_filler)
    objective = DInferObjective(supervise_padding, reduction)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch, seed))
    assert bool((corrupted.is_target & is_filler).any()) == supervise_padding
    nll = torch.rand(batch.clean_ids.shape, generator=generator, dtype=torch.float64) * 4
    measured = token_statistics_of(nll.masked_fill(~corrupted.is_target, NAN), requires_grad=True)
    result = objective.terms(measured, corrupted)
    result["loss"].backward()
    loss, gradient, reconstruction = oracle(corrupted.is_target.tolist(), nll.tolist(), reduction)
    assert result["loss"].item() == pytest.approx(loss)
    assert result["reconstruction"].item() == pytest.approx(reconstruction)
    torch.testing.assert_close(measured.nll.grad, torch.tensor(gradient).double())
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_both_reductions_by_hand():
    targets = [[True, True, True], [False, True, False], [False, False, False]]
    measured = token_statistics_of([[1.0, 2.0, 6.0], [NAN, 7.0, NAN], [NAN, NAN, NAN]])
    result = {
        reduction: DInferObjective(reduction=reduction).terms(measured, corrupted_batch(targets))
        for reduction in ("mean", "sum")
    }
    assert {name: value.item() for name, value in result["mean"].items()} == {
        "loss": (9.0 / 3 + 7.0) / 2,
        "reconstruction": (9.0 / 3 + 7.0) / 2,
        "num_targets": 2.0,
    }
    assert {name: value.item() for name, value in result["sum"].items()} == {
        "loss": (9.0 + 7.0) / 2,
        "reconstruction": (9.0 / 3 + 7.0) / 2,
        "num_targets": 2.0,
    }


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_no_target_at_all_gives_a_zero_that_is_still_attached(reduction):
    measured = token_statistics_of([[NAN, NAN]], requires_grad=True)
    result = DInferObjective(reduction=reduction).terms(measured, corrupted_batch([[False, False]]))
    result["loss"].backward()
    assert [value.item() for value in result.values()] == [0.0, 0.0, 0.0]
    assert measured.nll.grad.tolist() == [[0.0, 0.0]]


def test_the_mean_over_the_tokens_of_the_batch():
    objective = DInferObjective(reduction="batch_tokens")
    measured = token_statistics_of([[2.0, 4.0, 6.0], [5.0, 7.0, 9.0]])
    result = objective.terms(measured, corrupted_batch([[True, True, True], [False, True, False]]))
    assert result["loss"].item() == result["reconstruction"].item() == pytest.approx((2 + 4 + 6 + 7) / 4)
    assert result["num_targets"].item() == 2.0
