"""States in which the first-decoded share of every block is masked."""

import dataclasses
import math

import pytest
import torch
from helpers import row_draws, trajectory_batch
from hypothesis import given
from hypothesis import strategies as st

from tabom.corruption.block_states import BlockStates
from tabom.errors import TabomError
from tabom.types import NEVER

MASK = 99
NAN = float("nan")
RATIOS = (0.25, 0.5, 0.75, 1.0)


def response(tensor):
    return tensor[:, 2:]


@st.composite
def recordings(draw):
    """Rows with several tokens per step, entropies that repeat or are missing, and positions never revealed."""
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 9))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return draw(st.lists(row, min_size=num_rows, max_size=num_rows))

    steps = rows(st.integers(NEVER, 4))
    for row in steps:
        row[0] = max(row[0], 0)
    return steps, rows(st.sampled_from([0.0, 0.5, 1.0, NAN]))


def first_share(steps, entropies, block_length, ratio):
    """Positions of the first-decoded share of each block, by plain loops."""
    found = []
    for start in range(0, len(steps), block_length):
        inside = [i for i in range(start, min(start + block_length, len(steps))) if steps[i] != NEVER]
        inside.sort(key=lambda i: (steps[i], math.inf if math.isnan(entropies[i]) else entropies[i], i))
        found += inside[: math.ceil(ratio * len(inside))]
    return sorted(found)


@given(recordings(), st.sampled_from([1, 2, 4, None]), st.integers(0, 1000))
def test_every_draw_masks_the_first_share_of_every_block(recording, block_length, seed):
    steps, entropies = recording
    batch = trajectory_batch(steps, entropy=entropies)
    corrupted = BlockStates(block_length, random_ratio=0.0)(batch, MASK, row_draws(batch, seed))
    for row in range(len(steps)):
        asked = response(corrupted.is_target)[row].nonzero().flatten().tolist()
        length = len(steps[row]) if block_length is None else block_length
        assert asked in [first_share(steps[row], entropies[row], length, ratio) for ratio in RATIOS]
    is_never = batch.is_response & (batch.unmask_step == NEVER)
    assert torch.equal(corrupted.is_masked, corrupted.is_target | is_never)
    assert torch.equal(corrupted.noisy_ids, batch.clean_ids.masked_fill(corrupted.is_masked, MASK))


def test_ratios_are_drawn_by_their_eighth_power():
    num_rows = 20_000
    batch = trajectory_batch([[3, 2, 1, 0]] * num_rows)
    corrupted = BlockStates(4, random_ratio=0.0)(batch, MASK, row_draws(batch))
    shares = corrupted.is_target.sum(1).bincount(minlength=5).double() / num_rows
    assert shares[1] < 1e-3
    expected = torch.tensor([0.5**8, 0.75**8, 1.0], dtype=torch.float64)
    torch.testing.assert_close(shares[2:], expected / (expected.sum() + 0.25**8), rtol=0, atol=0.006)
    three = corrupted.is_target[corrupted.is_target.sum(1) == 3]
    assert response(three).unique(dim=0).tolist() == [[False, True, True, True]]


def test_a_tenth_of_what_is_masked_shows_a_token_of_the_row():
    """Each distinct token is as likely as the others, however often it stands in the row."""
    num_rows = 3000
    ids = [[40, 40, 40, 41, 42], [40, 43, 43, 43, 44]] * (num_rows // 2)
    batch = trajectory_batch([[0, 1, 2, 3, NEVER]] * num_rows, clean_ids=ids)
    corrupted = BlockStates(None)(batch, MASK, row_draws(batch))
    is_random = corrupted.is_target & (corrupted.noisy_ids != MASK)
    share = is_random.sum().item() / corrupted.is_target.sum().item()
    assert share == pytest.approx(0.1, abs=0.01)
    for first, shares in ((0, [0.5, 0.5]), (1, [0.5, 0, 0, 0.5])):
        shown = corrupted.noisy_ids[first::2][is_random[first::2]].bincount()[40:].double()
        torch.testing.assert_close(shown / shown.sum(), torch.tensor(shares).double(), rtol=0, atol=0.06)
    assert (corrupted.noisy_ids[:, -1] == MASK).all()
    assert corrupted.is_masked[:, -1].all()
    assert not corrupted.is_target[:, -1].any()
    is_visible = batch.is_response & ~corrupted.is_masked
    assert torch.equal(corrupted.noisy_ids[is_visible], batch.clean_ids[is_visible])
    assert (corrupted.noisy_ids[:, :2] == 5).all()


def test_a_short_response_between_padding():
    batch = trajectory_batch([[2, 1, 0, 0, 5, 5]] * 50)
    narrower = batch.is_response.clone()
    narrower[:, -2:] = False
    corrupted = BlockStates(3, random_ratio=1.0)(
        dataclasses.replace(batch, is_response=narrower), MASK, row_draws(batch)
    )
    assert not corrupted.is_masked[:, -2:].any()
    assert (corrupted.noisy_ids[:, -2:] == batch.clean_ids[:, -2:]).all()
    assert corrupted.is_target[:, 5].all()  # alone in its block: every share of it is one position
    assert set(corrupted.noisy_ids[corrupted.is_target].tolist()) == {10, 11, 12, 13}


def test_the_rest_of_the_batch_is_passed_on():
    batch = dataclasses.replace(trajectory_batch([[1, 1, 0]], entropy=[[0.5, 0.2, 0.1]]), domain="held-out")
    corrupted = BlockStates()(batch, MASK, row_draws(batch))
    assert response(corrupted.order).tolist() == [[2, 1, 0]]
    for name in ("clean_ids", "attention_mask"):
        assert torch.equal(getattr(corrupted, name), getattr(batch, name))
    assert response(corrupted.recorded_entropy).tolist() == response(batch.unmask_entropy).tolist()
    assert (corrupted.query_ids, corrupted.domain, corrupted.mask_ratio) == (("query0",), "held-out", None)


def test_every_visit_draws_anew_and_the_draws_decide():
    batch, states = trajectory_batch([list(range(16))] * 20), BlockStates(random_ratio=0.3)
    draws = row_draws(batch)
    first, second = (states(batch, MASK, draws) for _ in range(2))
    assert torch.equal(first.noisy_ids, states(batch, MASK, row_draws(batch)).noisy_ids)
    assert not torch.equal(first.noisy_ids, second.noisy_ids)


def test_a_row_without_an_order_is_an_error():
    batch = trajectory_batch([[0, 1], [NEVER, NEVER]])
    with pytest.raises(TabomError) as error:
        BlockStates()(batch, MASK, row_draws(batch))
    assert str(error.value) == (
        "query query1: expected an unmasking order, but no position has an unmask_step; "
        "this objective needs self-distilled trajectories"
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": 0}, "block_length: expected at least 1, got 0"),
        ({"random_ratio": -0.1}, "random_ratio: expected at least 0 and at most 1, got -0.1"),
        ({"random_ratio": 1.1}, "random_ratio: expected at least 0 and at most 1, got 1.1"),
    ],
    ids=str,
)
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(TabomError) as error:
        BlockStates(**options)
    assert str(error.value) == message


@given(recordings(), st.sampled_from([1, 2, 4, None]), st.integers(0, 1000))
def test_one_block_sees_clean_blocks_before_it_and_nothing_behind(recording, block_length, seed):
    """As released: the first-decoded share of one block is asked for."""
    steps, entropies = recording
    batch = trajectory_batch(steps, entropy=entropies)
    whole, one = (
        BlockStates(block_length, random_ratio=0.5, one_block=flag)(batch, MASK, row_draws(batch, seed))
        for flag in (False, True)
    )
    for row in range(len(steps)):
        length = len(steps[row]) if block_length is None else block_length
        asked = response(one.is_target)[row].nonzero().flatten().tolist()
        (block,) = {position // length for position in asked}
        inside = [position for position in range(len(steps[row])) if position // length == block]
        assert asked == [position for position in inside if response(whole.is_target)[row, position]]
        is_there = [position // length <= block for position in range(len(steps[row]))]
        assert response(one.attention_mask)[row].tolist() == is_there
        for position in range(len(steps[row])):
            if position // length < block:
                expected = MASK if steps[row][position] == NEVER else response(batch.clean_ids)[row, position]
                assert response(one.noisy_ids)[row, position] == expected
            elif position // length == block:
                assert response(one.noisy_ids)[row, position] == response(whole.noisy_ids)[row, position]


def test_every_block_is_as_likely_as_another():
    num_rows = 3000
    batch = trajectory_batch([[0, 1, NEVER, NEVER, 2, 3, 4]] * num_rows)
    corrupted = BlockStates(2, one_block=True)(batch, MASK, row_draws(batch))
    counts = [response(corrupted.is_target)[:, start : start + 2].any(1).sum() / num_rows for start in (0, 2, 4, 6)]
    torch.testing.assert_close(torch.tensor(counts), torch.tensor([1 / 3, 0, 1 / 3, 1 / 3]), rtol=0, atol=0.03)
