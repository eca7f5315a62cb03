"""Masked counts that make the mean over masked tokens an unbiased NELBO."""

import itertools
import math

import pytest
import torch
from helpers import row_draws, trajectory_batch

from tabom.corruption import CountMasking, UniformMasking
from tabom.functional.reduction import masked_mean
from tabom.types import NEVER

MASK = 99


def is_masked(corruption, num_rows, length, seed=0):
    batch = trajectory_batch([[NEVER] * length] * num_rows, prompt_length=0)
    return corruption(batch, MASK, row_draws(batch, seed)).is_target


def fair_coin(masked):
    """Two tokens that are one fair coin: what is masked is certain once the other is seen."""
    return torch.where(masked.all(1, keepdim=True), math.log(2), 0.0).expand(masked.shape)


def test_two_tokens_that_are_one_fair_coin():
    """Half a bit a token; with a token forced it would be a third."""
    right, forced = (is_masked(corruption, 600, 2) for corruption in (CountMasking(0.3), UniformMasking()))
    assert masked_mean(fair_coin(right), right).mean().item() == pytest.approx(math.log(2) / 2, abs=0.003)
    assert masked_mean(fair_coin(forced), forced).mean().item() == pytest.approx(math.log(2) / 3, abs=0.03)


def test_the_mean_is_the_sum_over_all_orders():
    """By the chain rule, the mean over orders of unmasking of the negative log-likelihood, a token."""
    length = 4
    table = torch.rand(2**length, length, generator=torch.Generator().manual_seed(0))

    def values(masked):
        return table[(masked.long() * 2 ** torch.arange(length)).sum(1)]

    expected = []
    for order in itertools.permutations(range(length)):
        masked, total = torch.ones(1, length, dtype=torch.bool), 0.0
        for position in order:
            total += values(masked)[0, position].item()
            masked[0, position] = False
        expected.append(total / length)
    found = is_masked(CountMasking(0.0), 40_000, length)
    estimates = masked_mean(values(found), found)
    assert abs(estimates.mean().item() - sum(expected) / len(expected)) < 4 * estimates.std().item() / 200


def test_counts_are_spread_evenly_however_many_rows_there_are():
    for offset in (0.0, 0.37, 0.99):
        counts = is_masked(CountMasking(offset), 100, 5).sum(1)
        for num_rows in (20, 50, 100):
            share = counts[:num_rows].bincount(minlength=6) / num_rows
            torch.testing.assert_close(share, torch.tensor([0, 0.2, 0.2, 0.2, 0.2, 0.2]), rtol=0, atol=0.06)


def test_each_row_masks_any_number():
    """Over the offsets the count of one row is uniform."""
    counts = torch.stack([is_masked(CountMasking(offset / 100), 7, 5).sum(1) for offset in range(100)], 1)
    for row in counts:
        torch.testing.assert_close(row.bincount(minlength=6) / 100, torch.tensor([0, *[0.2] * 5]), rtol=0, atol=0.011)


def test_stratified_ratios_are_spread_evenly_and_any_in_each_row():
    """Each row's own ratio is uniform over repetitions."""
    ratios = []
    for seed in range(400):
        batch = trajectory_batch([[NEVER] * 3] * 4)
        corrupted = UniformMasking(is_stratified=True)(batch, MASK, row_draws(batch, seed))
        assert sorted((4 * (1 - corrupted.mask_ratio)).long().tolist()) == [0, 1, 2, 3]
        ratios.append(corrupted.mask_ratio)
    quantiles = torch.linspace(0.1, 0.9, 9)
    for row in torch.stack(ratios, 1):
        torch.testing.assert_close(row.quantile(quantiles), quantiles, rtol=0, atol=0.08)


def test_a_token_that_decoding_left_masked_is_not_asked_for():
    batch = trajectory_batch([[0, 1, -1, 2]] * 40, clean_ids=[[11, 12, MASK, 13]] * 40)
    corrupted = CountMasking(0.1)(batch, MASK, row_draws(batch))
    assert not corrupted.is_target[:, 4].any()
    assert corrupted.is_target.any(1).all()
    assert set(corrupted.mask_ratio.mul(3).round().long().tolist()) == {1, 2, 3}
