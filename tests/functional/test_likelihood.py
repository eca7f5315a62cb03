"""Monte Carlo likelihoods: against the sum over all masks."""

import itertools
import math

import torch

from tabom.functional.likelihood import likelihood_samples, stratified_masks

LENGTH = 5


def subsets(length):
    return [mask for mask in itertools.product([False, True], repeat=length) if any(mask)]


def table():
    """A negative log-likelihood for each position under each mask, as a model would give it."""
    values = torch.rand(2**LENGTH, LENGTH, generator=torch.Generator().manual_seed(0)) * 3
    return {mask: values[number] for number, mask in enumerate(subsets(LENGTH))}


def exact(nll):
    """Mean over k of the mean over all masks of k positions."""
    total = 0.0
    for mask, values in nll.items():
        k = sum(mask)
        total -= float(values[torch.tensor(mask)].sum()) * LENGTH / k / math.comb(LENGTH, k) / LENGTH
    return total


def masks(num_samples, seed=0, length=LENGTH):
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(num_samples, length, dtype=torch.float64, generator=generator)
    return stratified_masks(noise, torch.rand((), dtype=torch.float64, generator=generator))


def test_the_estimate_converges_to_the_sum_over_all_masks():
    nll, is_masked = table(), masks(20_000)
    values = torch.stack([nll[tuple(row)] for row in is_masked.tolist()])
    samples = likelihood_samples(values, is_masked).double()
    assert abs(samples.mean() - exact(nll)) < 4 * samples.std() / 20_000**0.5
    assert samples.std() / 20_000**0.5 < 0.01 * abs(exact(nll))


def test_the_numbers_of_masked_positions_are_spread_evenly():
    for seed in range(5):
        counts = masks(4 * LENGTH, seed).sum(1).bincount(minlength=LENGTH + 1)
        assert counts.tolist() == [0, *[4] * LENGTH]


def test_a_single_sample_masks_any_number_of_positions():
    drawn = torch.tensor([int(masks(1, seed).sum()) for seed in range(1000)])
    shares = drawn.bincount(minlength=LENGTH + 1) / 1000
    assert shares[0] == 0
    torch.testing.assert_close(shares[1:], torch.full((LENGTH,), 0.2), atol=0.05, rtol=0)


def test_every_set_of_so_many_positions_is_as_likely_as_another():
    is_masked = masks(30_000, length=4)
    pairs = is_masked[is_masked.sum(1) == 2]
    found = [int((pairs == torch.tensor(mask)).all(1).sum()) for mask in subsets(4) if sum(mask) == 2]
    torch.testing.assert_close(torch.tensor(found) / len(pairs), torch.full((6,), 1 / 6), atol=0.02, rtol=0)


def test_what_is_not_masked_does_not_count():
    nll = torch.tensor([[1.0, torch.nan, 3.0], [torch.inf, 2.0, torch.nan]])
    is_masked = torch.tensor([[True, False, True], [False, True, False]])
    assert likelihood_samples(nll, is_masked).tolist() == [-6.0, -6.0]
