"""Draws of pairs of states and of blocks, and independent masks."""

import itertools

import torch

from tabom.functional.masking import block_index, draw_block, draw_tokens, state_pair, uniform_mask


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_pairs_of_states_are_uniform():
    num_draws = 12000
    earlier, later = state_pair(torch.full((num_draws,), 3), *noise(2, num_draws))
    share = {
        pair: ((earlier == pair[0]) & (later == pair[1])).double().mean().item()
        for pair in itertools.combinations(range(4), 2)
    }
    torch.testing.assert_close(torch.tensor(list(share.values())), torch.full((6,), 1 / 6), rtol=0, atol=0.015)


def test_a_trajectory_of_one_step_has_one_pair():
    earlier, later = state_pair(torch.ones(50, dtype=torch.long), *noise(2, 50))
    assert (set(earlier.tolist()), set(later.tolist())) == ({0}, {1})


def test_rows_have_their_own_number_of_states():
    earlier, later = state_pair(torch.tensor([1, 5]).repeat(300), *noise(2, 600))
    assert later[::2].amax() == 1
    assert (later[1::2].amax(), earlier[1::2].amax()) == (5, 4)
    assert (earlier < later).all()


def test_blocks_are_counted_from_the_start_of_each_response():
    is_response = torch.tensor([[False, True, True, True, True, True], [False, False, True, True, True, False]])
    block = block_index(is_response, block_length=2)
    assert [block[row][is_response[row]].tolist() for row in range(2)] == [[0, 0, 1, 1, 2], [0, 0, 1]]


def test_blocks_with_something_are_drawn_equally_often():
    block = torch.tensor([[0, 0, 0, 1, 2, 2, 3]]).expand(9000, 7)
    where = torch.tensor([[True, True, True, False, True, False, True]]).expand(9000, 7)
    share = draw_block(block, noise(9000), where=where).bincount(minlength=4).double() / 9000
    torch.testing.assert_close(share, torch.tensor([1 / 3, 0, 1 / 3, 1 / 3]).double(), rtol=0, atol=0.02)


def test_tokens_are_drawn_equally_often_from_the_distinct_ones_of_the_row():
    """Token 0 counts, tokens outside do not; the noise picks by ascending id."""
    ids = torch.tensor([[9, 0, 9, 4, 7], [3, 3, 3, 8, 8]])
    where = torch.tensor([[True, True, True, True, False], [True, True, True, False, False]])
    drawn = draw_tokens(ids, torch.tensor([[0.0, 0.3, 0.4, 0.6, 0.7], [0.0, 0.2, 0.5, 0.7, 0.999]]), where=where)
    assert drawn.tolist() == [[0, 0, 4, 4, 9], [3, 3, 3, 3, 3]]
    many = draw_tokens(ids[:1].repeat(3000, 1), noise(3000, 5), where=where[:1].repeat(3000, 1))
    share = many.flatten().bincount(minlength=10).double() / 15000
    torch.testing.assert_close(share[[0, 4, 9]], torch.full((3,), 1 / 3).double(), rtol=0, atol=0.015)


def test_independent_masks_may_be_empty_and_have_the_given_ratio():
    is_response = torch.tensor([[False, True, True, True]]).expand(20000, 4)
    is_masked = uniform_mask(is_response, torch.full((20000,), 0.25), noise(20000, 4), at_least_one=False)
    expected = torch.tensor([0.75**3, 3 * 0.25 * 0.75**2, 3 * 0.25**2 * 0.75, 0.25**3]).double()
    share = is_masked.sum(1).bincount(minlength=4).double() / 20000
    torch.testing.assert_close(share, expected, rtol=0, atol=0.012)
    assert not is_masked[:, 0].any()


def test_forcing_a_token_masks_the_same_where_some_token_is_masked():
    is_response = torch.ones(200, 6, dtype=torch.bool)
    ratio = torch.full((200,), 0.2)
    forced, free = (
        uniform_mask(is_response, ratio, noise(200, 6), at_least_one=at_least_one) for at_least_one in (True, False)
    )
    has_any = free.any(1)
    assert torch.equal(forced[has_any], free[has_any])
    assert not has_any.all()
    assert (forced[~has_any].sum(1) == 1).all()
