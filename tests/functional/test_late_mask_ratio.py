"""Masks that are likelier at later positions."""

import math

import pytest
import torch
from helpers import row_draws, trajectory_batch
from hypothesis import given
from hypothesis import strategies as st

from tabom.corruption import UniformMasking
from tabom.functional.masking import late_mask_ratio, uniform_mask
from tabom.objectives import NelboObjective
from tabom.types import NEVER

MASK = 99
responses = st.lists(st.booleans(), min_size=1, max_size=9)


def logit(p):
    return math.log(p / (1 - p))


@given(responses, st.floats(0.01, 0.99), st.floats(0, 6))
def test_log_odds_rise_linearly(where, ratio, bias):
    is_response = torch.tensor([where])
    got = late_mask_ratio(is_response, torch.tensor([ratio], dtype=torch.float64), bias=bias)[0].tolist()
    columns = [column for column, is_one in enumerate(where) if is_one]
    for number, column in enumerate(columns):
        place = number / (len(columns) - 1) if len(columns) > 1 else 0.5
        assert logit(got[column]) == pytest.approx(logit(ratio) + bias * (place - 0.5), abs=1e-9)


@given(responses, st.floats(0, 6))
def test_everything_is_masked_at_ratio_1(where, bias):
    is_response = torch.tensor([where])
    assert (late_mask_ratio(is_response, torch.ones(1), bias=bias)[is_response] == 1).all()


def test_the_masks_have_these_probabilities():
    is_response = torch.tensor([[False, True, True, False, True]]).repeat(40_000, 1)
    noise = torch.rand(is_response.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    probability = late_mask_ratio(is_response, torch.full((len(noise),), 0.3), bias=3.0)
    share = uniform_mask(is_response, probability, noise, at_least_one=False).double().mean(0)
    expected = [1 / (1 + math.exp(-(logit(0.3) + 3 * (place - 0.5)))) for place in (0, 0.5, 1)]
    torch.testing.assert_close(share[[1, 2, 4]], torch.tensor(expected).double(), rtol=0, atol=0.008)
    assert share[[0, 3]].sum() == 0


def test_of_an_objective():
    """Means over uniform ratios; without the bias the draws are as ever."""
    batch = trajectory_batch([[NEVER] * 5] * 8000)
    late = (
        NelboObjective(late_bias=2.0, reduction="batch_tokens")
        .corrupt(batch, MASK, row_draws(batch))
        .is_target.double()
        .mean(0)[2:]
    )
    ratio = (torch.arange(10_000).double() + 0.5) / 10_000
    where = torch.ones(10_000, 5).bool()
    torch.testing.assert_close(late, late_mask_ratio(where, ratio, bias=2.0).mean(0), rtol=0, atol=0.02)
    plain, same = (
        make()(batch, MASK, row_draws(batch)) for make in (UniformMasking, lambda: UniformMasking(late_bias=0.0))
    )
    assert torch.equal(plain.is_target, same.is_target)
