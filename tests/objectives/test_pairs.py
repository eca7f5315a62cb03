"""Which positions are ranked against each other where the data were decoded in blocks."""

import pytest
import torch
from helpers import row_draws, token_statistics_of, trajectory_batch

from tabom.corruption import TrajectorySegments
from tabom.data.encoding import Row, collate_rows
from tabom.objectives import Ranking, TabomObjective

MASK, EOS = 99, 2


def decoded_in_blocks(length, block_length, seed=0):
    """Steps of a response: block after block, in a random order inside each."""
    generator = torch.Generator().manual_seed(seed)
    step = torch.empty(length, dtype=torch.long)
    for start in range(0, length, block_length):
        size = min(block_length, length - start)
        step[start : start + size] = start + torch.randperm(size, generator=generator)
    return step.tolist()


def num_pairs(corrupted, **options):
    nothing = torch.zeros(corrupted.order.shape)
    return int(Ranking(**options).segment(token_statistics_of(nothing, nothing), corrupted).is_pair.sum())


@pytest.mark.parametrize(("block_length", "crossing"), [(64, 0.15), (32, 0.34), (8, 0.80), (256, 0.0)])
@pytest.mark.parametrize("unit", ["tokens", "steps"])
def test_shares_of_pairs_that_cross_blocks(block_length, crossing, unit):
    """Of 256 tokens, decoded one a step, in windows of 32 from every start."""
    starts = torch.arange(256 - 32 + 1)
    batch = trajectory_batch([decoded_in_blocks(256, block_length)] * len(starts), block_length=block_length)
    corrupted = TrajectorySegments(32, window_unit=unit).cut(batch, starts, MASK)
    num_all, num_compared = (num_pairs(corrupted, pairs=pairs) for pairs in ("all", "compared"))
    assert num_all == len(starts) * 32 * 31 / 2
    assert 1 - num_compared / num_all == pytest.approx(crossing, abs=0.006)


def test_rows_of_different_blocks_in_one_batch():
    """Prompts and responses of different lengths; a row that says nothing has one block."""
    rows = [
        Row("a", [7], [5] * 6, [3, 2, 1, 0, 5, 4], block_length=4),
        Row("b", [7] * 3, [5] * 4, [1, 0, 3, 2], block_length=2),
        Row("c", [7] * 2, [5] * 5, [4, 3, 2, 1, 0]),
    ]
    batch = collate_rows(rows, pad_token_id=0, eos_token_id=EOS)
    responses = [ids[where].tolist() for ids, where in zip(batch.block, batch.is_response, strict=True)]
    assert responses == [[0, 0, 0, 0, 1, 1], [0, 0, 1, 1], [0] * 5]
    corrupted = TrajectorySegments(6).cut(batch, torch.tensor([0, 0, 0]), MASK)
    nothing = torch.zeros(corrupted.order.shape)
    is_pair = Ranking().segment(token_statistics_of(nothing, nothing), corrupted).is_pair
    assert is_pair.sum((1, 2)).tolist() == [6 + 1, 1 + 1, 10]
    assert is_pair[1].nonzero().tolist() == [[1, 0], [3, 2]]


def test_filler_is_ranked_below_the_text_of_its_own_block_alone():
    """Two blocks of four; the text ends in the first, and an early finish fills in the rest in one step."""
    row = Row("a", [7], [5, EOS, EOS, EOS, EOS, EOS, EOS, EOS], [1, 0] + [2] * 6, block_length=4)
    batch = collate_rows([row], pad_token_id=0, eos_token_id=EOS)
    corrupted = TrajectorySegments(8).cut(batch, torch.tensor([0]), MASK)
    assert num_pairs(corrupted) == 1 + 2 * 2
    assert num_pairs(corrupted, pairs="all") == 1 + 2 * 6


@pytest.mark.parametrize(("pairs", "expected"), [("compared", (1.0, 0.0)), ("all", (0.5, 0.5))])
def test_what_is_logged_counts_the_pairs_that_are_ranked(pairs, expected):
    """Two blocks of two, each in the order of its entropies; the second block has the lower ones."""
    batch = trajectory_batch([[0, 1, 2, 3]], prompt_length=0, block_length=2)
    corrupted = TrajectorySegments(4).cut(batch, torch.tensor([0]), MASK)
    now = token_statistics_of([[0.0] * 4], [[2.0, 3.0, 0.0, 2.5]])
    result = TabomObjective(margin=0.0, ranking=Ranking(pairs=pairs)).terms(now, corrupted, now)
    assert (result["order_agreement"].item(), result["inverted_under_base"].item()) == pytest.approx(expected)


@pytest.mark.parametrize("pairs", ["compared", "all"])
def test_a_shuffled_order_keeps_the_number_of_pairs(pairs):
    """Ties inside the blocks: the first block is decoded at once, the second one token per step."""
    batch = trajectory_batch([[0, 0, 0, 1, 2, 3]] * 200, block_length=3)
    shuffled, observed = (
        TabomObjective(6, ranking=Ranking(pairs=pairs, order=order)).corrupt(batch, MASK, row_draws(batch))
        for order in ("shuffled", "observed")
    )
    assert num_pairs(shuffled, pairs=pairs) == num_pairs(observed, pairs=pairs)
    assert not torch.equal(shuffled.order, observed.order)
    stays = shuffled.order[:, 2:5].sort(1).values == observed.order[:, 2:5].sort(1).values
    assert bool(stays.all()) == (pairs == "compared")
