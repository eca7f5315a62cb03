"""The discriminative losses, ranks inside blocks and the two weightings of the path, against plain loops."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.direct_discriminative import (
    discriminative_losses,
    prefix_level_weights,
    rank_weights,
)
from tabom.functional.unmasking import block_ranks


@pytest.mark.parametrize(("beta", "fake_weight"), [(0.1, 0.5), (2.0, 3.0)])
def test_losses_and_gradients_are_those_of_the_equations(beta, fake_weight):
    ratios = [torch.tensor([-3.0, 0.0, 1.5], dtype=torch.float64, requires_grad=True) for _ in range(2)]
    real, fake = discriminative_losses(*ratios, beta=beta, fake_weight=fake_weight)
    (real.sum() + fake.sum()).backward()
    for i, ratio in enumerate([-3.0, 0.0, 1.5]):
        sigma = 1 / (1 + math.exp(-beta * ratio))
        assert real[i].item() == pytest.approx(-math.log(sigma), rel=1e-12)
        assert fake[i].item() == pytest.approx(-fake_weight * math.log(1 - sigma), rel=1e-12)
        assert ratios[0].grad[i].item() == pytest.approx(-beta * (1 - sigma), rel=1e-12)
        assert ratios[1].grad[i].item() == pytest.approx(fake_weight * beta * sigma, rel=1e-12)


def test_losses_are_finite_at_any_size_of_the_ratio():
    """A computed 1 - sigma is 0 from 17 on in float32."""
    ratios = [torch.tensor([-1e4, 30.0, 1e4], requires_grad=True) for _ in range(2)]
    real, fake = discriminative_losses(*ratios, beta=1.0, fake_weight=0.5)
    (real.sum() + fake.sum()).backward()
    torch.testing.assert_close(real, torch.tensor([1e4, math.exp(-30.0), 0.0]), rtol=1e-6, atol=0)
    torch.testing.assert_close(fake, torch.tensor([0.0, 15.0, 5e3]))
    torch.testing.assert_close(ratios[1].grad, torch.tensor([0.0, 0.5, 0.5]))


@st.composite
def canvases(draw):
    """Orders with ties, blocks, what takes part and what is summed; k."""
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 7))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return torch.tensor(draw(st.lists(row, min_size=num_rows, max_size=num_rows)))

    return rows(st.integers(0, 9)), rows(st.integers(0, 2)), rows(st.booleans()), rows(st.booleans())


def members(block, where, row, position):
    return [i for i in range(block.shape[1]) if where[row, i] and block[row, i] == block[row, position]]


def loop_ranks(order, block, where, row, position):
    inside = members(block, where, row, position)
    return sum(bool(order[row, i] < order[row, position]) for i in inside), len(inside)


@given(canvases())
def test_ranks_count_what_came_before_in_the_block(canvas):
    order, block, where, _ = canvas
    rank, size = block_ranks(order, block, where=where)
    for row, position in where.nonzero().tolist():
        expected = loop_ranks(order, block, where, row, position)
        assert (rank[row, position].item(), size[row, position].item()) == expected
    assert not rank[~where].any()
    assert not size[~where].any()


def test_what_does_not_take_part_may_have_any_order():
    order, where = torch.tensor([[-1, 2, 7, 0]]), torch.tensor([[False, True, True, True]])
    rank, size = block_ranks(order, torch.tensor([[0, 0, 0, 1]]), where=where)
    assert (rank.tolist(), size.tolist()) == ([[0, 0, 1, 0]], [[0, 2, 2, 1]])


@given(canvases())
def test_rank_weights_are_those_of_the_equation(canvas):
    order, block, where, chosen = canvas
    is_summed = where & chosen
    weights = rank_weights(*block_ranks(order, block, where=where), where=is_summed)
    expected = torch.zeros(order.shape)
    for row, position in is_summed.nonzero().tolist():
        earlier, size = loop_ranks(order, block, where, row, position)
        expected[row, position] = (size - (earlier + 1) + 1) / size / is_summed[row].sum()
    torch.testing.assert_close(weights, expected)


@given(canvases(), st.integers(1, 8))
def test_prefix_weights_are_the_mean_of_the_levels(canvas, path_tokens):
    order, block, where, chosen = canvas
    is_summed = where & chosen
    weights = prefix_level_weights(*block_ranks(order, block, where=where), where=is_summed, path_tokens=path_tokens)
    expected = torch.zeros(order.shape)
    for row in range(len(order)):
        ranks = {i: loop_ranks(order, block, where, row, i) for i in range(order.shape[1]) if where[row, i]}
        num_levels = math.ceil(max((size for _, size in ranks.values()), default=0) / path_tokens)
        levels = [
            [i for i, (rank, _) in ranks.items() if is_summed[row, i] and rank < s * path_tokens]
            for s in range(1, num_levels + 1)
        ]
        levels = [level for level in levels if level]
        for level in levels:
            for i in level:
                expected[row, i] += 1 / len(level) / len(levels)
    torch.testing.assert_close(weights, expected)


def test_two_levels_of_a_block_of_eight():
    """The released settings, k = 4: early tokens count in both levels."""
    everywhere = torch.ones(1, 8, dtype=torch.bool)
    rank, size = torch.arange(8).flip(0)[None], torch.full((1, 8), 8)
    weights = prefix_level_weights(rank, size, where=everywhere, path_tokens=4)
    late, early = 1 / 8 / 2, (1 / 8 + 1 / 4) / 2
    torch.testing.assert_close(weights, torch.tensor([[late] * 4 + [early] * 4]))
