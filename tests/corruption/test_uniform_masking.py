"""Random masking of a batch (Eq. 1)."""

import dataclasses

import pytest
import torch
from helpers import row_draws, trajectory_batch
from hypothesis import given
from hypothesis import strategies as st

from tabom.corruption import UniformMasking
from tabom.errors import TabomError
from tabom.types import NEVER

MASK = 99


def offline_batch(num_rows, length, **changes):
    """A batch without an order, with one position of padding behind the response."""
    batch = trajectory_batch([[NEVER] * (length + 1)] * num_rows)
    is_response, attention_mask = batch.is_response.clone(), batch.attention_mask.clone()
    is_response[:, -1] = attention_mask[:, -1] = False
    return dataclasses.replace(batch, is_response=is_response, attention_mask=attention_mask, **changes)


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 1000))
def test_only_response_tokens_are_masked_and_every_masked_one_is_asked_for(num_rows, length, seed):
    batch = offline_batch(num_rows, length)
    corrupted = UniformMasking()(batch, MASK, row_draws(batch, seed))
    assert not (corrupted.is_target & ~batch.is_response).any()
    assert corrupted.is_target.any(1).all()
    assert torch.equal(corrupted.noisy_ids == MASK, corrupted.is_target)
    assert torch.equal(corrupted.noisy_ids[~corrupted.is_target], batch.clean_ids[~corrupted.is_target])


def test_the_rest_of_the_batch_is_passed_on():
    batch = offline_batch(2, 3)
    corrupted = UniformMasking()(batch, MASK, row_draws(batch))
    assert torch.equal(corrupted.clean_ids, batch.clean_ids)
    assert torch.equal(corrupted.attention_mask, batch.attention_mask)
    assert corrupted.query_ids == ("query0", "query1")


def test_no_position_comes_before_another():
    batch = trajectory_batch([[0, 1, 2]])
    corrupted = UniformMasking()(batch, MASK, row_draws(batch))
    assert (corrupted.order == corrupted.order[0, 0]).all()


def test_filler_is_masked_like_the_rest():
    batch = offline_batch(200, 4)
    filler = batch.is_response.clone()
    filler[:, :4] = False
    corrupted = UniformMasking()(dataclasses.replace(batch, is_filler=filler), MASK, row_draws(batch))
    assert (corrupted.is_target & filler).any()


def test_the_mask_ratio_is_uniform_and_one_per_row():
    batch = offline_batch(2000, 400)
    corrupted = UniformMasking()(batch, MASK, row_draws(batch))
    share = corrupted.is_target.sum(1).double() / 400
    quantiles = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    torch.testing.assert_close(share.quantile(quantiles), quantiles, rtol=0, atol=0.04)


def test_the_draws_decide():
    batch = offline_batch(4, 20)
    draws = row_draws(batch)
    first, second = UniformMasking()(batch, MASK, draws), UniformMasking()(batch, MASK, draws)
    assert torch.equal(first.is_target, UniformMasking()(batch, MASK, row_draws(batch)).is_target)
    assert not torch.equal(first.is_target, second.is_target)


@pytest.mark.parametrize("name", ["clean_ids", "is_response", "attention_mask"])
def test_the_batch_is_not_changed(name):
    batch = offline_batch(2, 5)
    before = getattr(batch, name).clone()
    UniformMasking()(batch, MASK, row_draws(batch))
    assert torch.equal(getattr(batch, name), before)


def test_a_position_that_decoding_left_masked_is_not_asked_for():
    batch = trajectory_batch([[0, 1, -1, 2]] * 40, clean_ids=[[11, 12, MASK, 13]] * 40)
    corrupted = UniformMasking()(batch, MASK, row_draws(batch))
    assert not corrupted.is_target[:, 4].any()
    assert (corrupted.noisy_ids[:, 4] == MASK).all()
    assert corrupted.is_target[:, [2, 3, 5]].any(0).all()


RECORDED = ["000010", "111110", "000001", "101111"]  # rows 0 ... 3 of seed 0; the demo's figures depend on these draws


def test_the_draws_of_the_default_are_recorded():
    batch = trajectory_batch([[NEVER] * 6] * 4)
    corrupted = UniformMasking()(batch, MASK, row_draws(batch))
    assert ["".join(map(str, row)) for row in corrupted.is_target[:, 2:].long().tolist()] == RECORDED


def test_a_least_ratio_and_independent_positions():
    """As LLaDA is fine-tuned: (1 - epsilon) t + epsilon, and none forced."""
    batch = offline_batch(20000, 2)
    corrupted = UniformMasking(min_mask_ratio=0.25, at_least_one=False)(batch, MASK, row_draws(batch))
    quantiles = torch.linspace(0.1, 0.9, 9)
    torch.testing.assert_close(corrupted.mask_ratio.quantile(quantiles), 0.25 + 0.75 * quantiles, rtol=0, atol=0.02)
    assert (corrupted.mask_ratio > 0.25).all()
    num_masked = corrupted.is_target.sum(1)
    share = num_masked.bincount(minlength=3).double() / 20000
    both, either = (1 - 0.25**3) / (3 * 0.75), (1 - 0.25**2) / 0.75  # means of p^2 and 2 p for p ~ U(0.25, 1)
    torch.testing.assert_close(
        share, torch.tensor([1 - either + both, either - 2 * both, both]).double(), rtol=0, atol=0.015
    )


@pytest.mark.parametrize("epsilon", [-0.1, 1.0, float("nan")])
def test_a_least_ratio_out_of_range_is_an_error(epsilon):
    with pytest.raises(TabomError) as error:
        UniformMasking(min_mask_ratio=epsilon)
    assert str(error.value) == f"min_mask_ratio: expected at least 0 and below 1, got {epsilon}"
