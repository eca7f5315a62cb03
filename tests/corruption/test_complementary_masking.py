"""A part of a block masked in one row, the other part in its copy."""

import dataclasses

import pytest
import torch
from helpers import row_draws, trajectory_batch

from tabom.corruption.complementary_masking import ComplementaryMasking
from tabom.errors import TabomError
from tabom.types import NEVER

MASK = 99
PROMPT = 2


def masking(**changes):
    return ComplementaryMasking(**{"block_length": 3, "mask_ratio": 0.5, "supervise_padding": True, **changes})


def drawn(batch, seed=0, **changes):
    return masking(**changes)(batch, MASK, row_draws(batch, seed))


def ragged(num_copies=200):
    """Responses of 8, 5 and 1 positions in blocks of 3, one of them left masked by decoding; right padding."""
    clean = torch.arange(10, 18).repeat(3, 1)
    clean[1, 1] = MASK
    batch = trajectory_batch([[NEVER] * 8] * 3 * num_copies, clean_ids=clean.repeat(num_copies, 1).tolist())
    length = torch.tensor([8, 5, 1]).repeat(num_copies)[:, None]
    inside = torch.arange(8) < length
    is_response = torch.cat([torch.zeros(len(inside), PROMPT, dtype=torch.bool), inside], 1)
    attention_mask = torch.cat([torch.ones(len(inside), PROMPT, dtype=torch.bool), inside], 1)
    return dataclasses.replace(batch, is_response=is_response, attention_mask=attention_mask)


def blocks_of(batch, row):
    positions = batch.is_response[row].nonzero().flatten().tolist()
    return [positions[start : start + 3] for start in range(0, len(positions), 3)]


def test_the_complement_covers_the_block_and_nothing_else():
    batch = ragged()
    num_rows = len(batch.query_ids)
    corrupted = drawn(batch)
    seen = set()
    for row in range(num_rows):
        first, second = (set(corrupted.is_target[r].nonzero().flatten().tolist()) for r in (row, num_rows + row))
        assert not first & second
        blocks = [[p for p in block if batch.clean_ids[row, p] != MASK] for block in blocks_of(batch, row)]
        number = [i for i, block in enumerate(blocks) if first | second == set(block)]
        assert len(number) == 1
        seen.add((row % 3, number[0]))
        later = {p for block in blocks_of(batch, row)[number[0] + 1 :] for p in block}
        left = set((batch.is_response[row] & (batch.clean_ids[row] == MASK)).nonzero().flatten().tolist())
        for r, asked in ((row, first), (num_rows + row, second)):
            assert set(corrupted.is_masked[r].nonzero().flatten().tolist()) == asked | later | left
            hidden = corrupted.is_masked[r]
            assert (corrupted.noisy_ids[r][hidden] == MASK).all()
            assert torch.equal(corrupted.noisy_ids[r][~hidden], batch.clean_ids[row][~hidden])
    assert seen == {(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (2, 0)}


def test_blocks_are_drawn_uniformly_and_half_of_each_is_masked():
    corrupted = drawn(trajectory_batch([[NEVER] * 6] * 4000))
    asked = corrupted.is_target[:, PROMPT:].double()
    torch.testing.assert_close(asked.mean(0), torch.full((6,), 0.25).double(), rtol=0, atol=0.02)
    torch.testing.assert_close(asked[:4000].mean(0), torch.full((6,), 0.25).double(), rtol=0, atol=0.03)


def test_the_mask_ratio_is_that_of_the_first_rows():
    corrupted = drawn(trajectory_batch([[NEVER] * 3] * 4000), mask_ratio=0.2)
    share = corrupted.is_target[:, PROMPT:].double().mean(1).reshape(2, 4000).mean(1)
    torch.testing.assert_close(share, torch.tensor([0.2, 0.8]).double(), rtol=0, atol=0.02)


@pytest.mark.parametrize("supervise_padding", [True, False])
def test_only_filler_that_is_learnt_is_asked_for(supervise_padding):
    batch = trajectory_batch([[NEVER] * 9] * 300)
    is_filler = torch.zeros_like(batch.is_filler)
    is_filler[:, PROMPT + 4 :] = True
    batch = dataclasses.replace(batch, is_filler=is_filler)
    corrupted = drawn(batch, supervise_padding=supervise_padding)
    assert bool((corrupted.is_target & is_filler.repeat(2, 1)).any()) == supervise_padding
    halves = corrupted.is_target.reshape(2, 300, -1)
    last = PROMPT + (9 if supervise_padding else 4)
    assert halves.any(0).any(1).all()
    assert halves.any(0).any(0).tolist() == [False] * PROMPT + [True] * (last - PROMPT) + [False] * (11 - last)
    assert (corrupted.is_masked & is_filler.repeat(2, 1) & ~corrupted.is_target)[:, PROMPT + 4].any()


def test_a_row_with_nothing_to_learn_has_no_targets():
    batch = trajectory_batch([[NEVER] * 3], clean_ids=[[MASK] * 3])
    corrupted = drawn(batch)
    assert not corrupted.is_target.any()
    assert corrupted.is_masked[:, PROMPT:].all()


def test_every_field_has_a_row_for_each_half():
    batch = dataclasses.replace(trajectory_batch([[0, 1], [1, 0]]), domain="held-out")
    corrupted = drawn(batch)
    assert corrupted.query_ids == ("query0", "query1", "query0", "query1")
    assert (corrupted.domain, corrupted.mask_ratio) == ("held-out", None)
    for name in ("clean_ids", "noisy_ids", "attention_mask", "is_masked", "is_target", "order", "recorded_entropy"):
        assert getattr(corrupted, name).shape == (4, 4), name
    assert torch.equal(corrupted.clean_ids, torch.cat([batch.clean_ids, batch.clean_ids]))


def test_the_draws_decide():
    batch = trajectory_batch([[NEVER] * 30] * 4)
    first, again, other = (drawn(batch, seed).is_target for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": 0}, "block_length: expected at least 1, got 0"),
        ({"mask_ratio": 0.0}, "mask_ratio: expected above 0 and below 1, got 0.0"),
        ({"mask_ratio": 1.0}, "mask_ratio: expected above 0 and below 1, got 1.0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(TabomError) as error:
        masking(**options)
    assert str(error.value) == message
