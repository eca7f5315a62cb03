"""Which positions are masked and which are asked for."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.masking import segment, segment_start, segment_start_at, uniform_mask


def noise(*shape, seed=0):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@st.composite
def responses(draw):
    """A decoding order over a canvas, the response positions, and starts."""
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 8))
    flags = st.lists(st.booleans(), min_size=length, max_size=length)
    where = torch.tensor(draw(st.lists(flags, min_size=num_rows, max_size=num_rows)))
    order = torch.full((num_rows, length), length)
    for row in range(num_rows):
        num_positions = int(where[row].sum())
        order[row, where[row]] = torch.tensor(draw(st.permutations(range(num_positions))), dtype=torch.long)
    start = torch.tensor(draw(st.lists(st.integers(0, length), min_size=num_rows, max_size=num_rows)))
    return order, start, where


@given(responses(), st.integers(0, 1000), st.floats(0.01, 1.0))
def test_uniform_mask_stays_inside_the_response_and_masks_at_least_one(response, seed, ratio):
    is_response = response[2]
    is_masked = uniform_mask(is_response, torch.full((len(is_response),), ratio), noise(*is_response.shape, seed=seed))
    assert not (is_masked & ~is_response).any()
    assert torch.equal(is_masked.any(1), is_response.any(1))


def test_uniform_mask_at_ratio_one_masks_everything():
    is_response = torch.tensor([[False, True, True, True]]).expand(100, 4)
    assert torch.equal(uniform_mask(is_response, torch.ones(100), noise(100, 4)), is_response)


def test_uniform_mask_at_a_tiny_ratio_masks_one_position_each_equally_often():
    is_response = torch.tensor([[False, True, True, True, True]]).expand(8000, 5)
    is_masked = uniform_mask(is_response, torch.full((8000,), 1e-9), noise(8000, 5))
    assert (is_masked.sum(1) == 1).all()
    torch.testing.assert_close(is_masked.double().mean(0)[1:], torch.full((4,), 0.25).double(), rtol=0, atol=0.02)


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
def test_uniform_mask_masks_the_expected_share(ratio):
    """The forced token adds one where none would be masked, with probability (1 - ratio) ** 4."""
    is_response = torch.tensor([[True, True, True, True]]).expand(10000, 4)
    is_masked = uniform_mask(is_response, torch.full((10000,), ratio), noise(10000, 4))
    expected = 4 * ratio + (1 - ratio) ** 4
    assert is_masked.sum(1).double().mean().item() == pytest.approx(expected, abs=0.04)


def test_uniform_mask_uses_the_ratio_of_each_row():
    is_response = torch.ones(2, 5000, dtype=torch.bool)
    share = uniform_mask(is_response, torch.tensor([0.2, 0.7]), noise(2, 5000)).double().mean(1)
    torch.testing.assert_close(share, torch.tensor([0.2, 0.7]).double(), rtol=0, atol=0.03)


def test_uniform_mask_by_hand():
    """Noise below the ratio, else the least of the response; what lies outside does not count."""
    is_response = torch.tensor([[False, True, True, True]] * 3)
    drawn = torch.tensor([[0.0, 0.5, 0.25, 0.75], [0.0, 0.5, 0.25, 0.75], [0.9, 0.3, 0.2, 0.1]])
    is_masked = uniform_mask(is_response, torch.tensor([0.6, 0.25, 0.05]), drawn)
    assert is_masked.long().tolist() == [[0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def starts(num_units, *, window, truncated, num_draws=4000):
    units = torch.full((num_draws,), num_units)
    return segment_start(units, noise(num_draws), window=window, truncated=truncated).tolist()


@pytest.mark.parametrize(("num_units", "window"), [(6, 1), (6, 2), (6, 5), (6, 6)])
def test_a_strict_window_starts_at_0_to_n_minus_w(num_units, window):
    assert set(starts(num_units, window=window, truncated=False)) == set(range(num_units - window + 1))


@pytest.mark.parametrize("window", [1, 2, 6, 9])
def test_a_truncated_window_starts_at_0_to_n_minus_1(window):
    assert set(starts(6, window=window, truncated=True)) == set(range(6))


@pytest.mark.parametrize("num_units", [1, 2, 3])
def test_a_response_shorter_than_the_window_starts_at_0(num_units):
    assert set(starts(num_units, window=4, truncated=False)) == {0}


@pytest.mark.parametrize(("window", "truncated", "num_starts"), [(2, False, 5), (2, True, 6)])
def test_starts_are_uniform(window, truncated, num_starts):
    drawn = torch.tensor(starts(6, window=window, truncated=truncated, num_draws=20000))
    shares = drawn.bincount().double() / 20000
    torch.testing.assert_close(shares, torch.full((num_starts,), 1 / num_starts).double(), rtol=0, atol=0.02)


def test_each_row_starts_by_its_own_length():
    drawn = segment_start(torch.tensor([2, 9] * 2000), noise(4000), window=2, truncated=False).view(-1, 2)
    assert set(drawn[:, 0].tolist()) == {0}
    assert set(drawn[:, 1].tolist()) == set(range(8))


@pytest.mark.parametrize("truncated", [False, True])
def test_every_position_becomes_a_target(truncated):
    order = torch.tensor([[4, 0, 5, 2, 1, 3]]).expand(500, 6)
    start = segment_start(torch.full((500,), 6), noise(500), window=2, truncated=truncated)
    _, is_target = segment(order, start, window=2, where=torch.ones(500, 6, dtype=torch.bool))
    assert is_target.any(0).all()


@st.composite
def starting_points(draw):
    """Units of a trajectory with gaps and repeats, and positions that may be decoded next."""
    order = draw(st.lists(st.integers(-1, 6), min_size=1, max_size=7))
    order[0] = max(order[0], 0)
    is_next = [draw(st.booleans()) and unit >= 0 for unit in order]
    return order, is_next, draw(st.integers(1, 5)), draw(st.booleans())


@given(st.lists(starting_points(), min_size=1, max_size=3))
def test_starts_at_chosen_positions_are_uniform_over_the_distinct_ones(points):
    """Rows of several lengths in one batch; window and truncation are those of the first."""
    _, _, window, truncated = points[0]
    width, num_draws = max(len(order) for order, *_ in points), 600
    order = torch.tensor([units + [-1] * (width - len(units)) for units, *_ in points])
    is_next = torch.tensor([flags + [False] * (width - len(flags)) for _, flags, *_ in points])
    num_units = order.amax(1) + 1
    drawn = segment_start_at(
        is_next.repeat(num_draws, 1),
        order.repeat(num_draws, 1),
        num_units.repeat(num_draws),
        noise(num_draws * len(points)),
        window=window,
        truncated=truncated,
    ).view(num_draws, -1)
    for row, (units, flags, *_) in enumerate(points):
        num_starts = max(1, int(num_units[row]) - (1 if truncated else window) + 1)
        wanted = {unit for unit, flag in zip(units, flags, strict=True) if flag and unit < num_starts}
        expected = wanted or set(range(num_starts))
        shares = drawn[:, row].bincount(minlength=max(expected) + 1).double() / num_draws
        assert set(drawn[:, row].tolist()) == expected
        assert shares[list(expected)].tolist() == pytest.approx([1 / len(expected)] * len(expected), abs=0.11)


@pytest.mark.parametrize("truncated", [False, True])
def test_without_a_chosen_position_the_draws_are_those_of_a_uniform_start(truncated):
    order = torch.tensor([[4, 0, 5, 2, 1, 3]]).expand(300, 6)
    options = {"window": 2, "truncated": truncated}
    nothing, num_units = torch.zeros(300, 6, dtype=torch.bool), torch.full((300,), 6)
    assert torch.equal(
        segment_start_at(nothing, order, num_units, noise(300), **options),
        segment_start(num_units, noise(300), **options),
    )


def test_segment_by_hand():
    order = torch.tensor([[9, 3, 0, 2, 1, 4], [9, 0, 1, 2, 3, 4]])
    where = torch.tensor([[False, True, True, True, True, True]]).expand(2, 6)
    is_masked, is_target = segment(order, torch.tensor([1, 4]), window=2, where=where)
    assert is_masked.long().tolist() == [[0, 1, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1]]
    assert is_target.long().tolist() == [[0, 0, 0, 1, 1, 0], [0, 0, 0, 0, 0, 1]]


@given(responses(), st.integers(1, 9))
def test_segment_has_window_targets_or_what_is_left(response, window):
    order, start, where = response
    is_masked, is_target = segment(order, start, window=window, where=where)
    left = (where.sum(1) - start).clamp(min=0)
    assert torch.equal(is_masked.sum(1), left)
    assert torch.equal(is_target.sum(1), left.clamp(max=window))
    assert not (is_target & ~is_masked).any()
    assert not (is_masked & ~where).any()


@given(responses(), st.integers(1, 9))
def test_segment_targets_are_the_next_in_order(response, window):
    order, start, where = response
    _, is_target = segment(order, start, window=window, where=where)
    for row, first in enumerate(start.tolist()):
        by_order = order[row].argsort()[: where[row].sum()]
        expected = by_order[first : first + window].sort().values
        assert is_target[row].nonzero().flatten().tolist() == expected.tolist()


def test_segment_of_steps_takes_all_tokens_of_a_step():
    step = torch.tensor([[0, 1, 1, 2, 2, 2]])
    is_masked, is_target = segment(step, torch.tensor([1]), window=1, where=torch.ones(1, 6, dtype=torch.bool))
    assert is_masked.long().tolist() == [[0, 1, 1, 1, 1, 1]]
    assert is_target.long().tolist() == [[0, 1, 1, 0, 0, 0]]


def test_arguments_are_not_changed():
    order, start, where = torch.tensor([[1, 0]]), torch.tensor([1]), torch.tensor([[True, False]])
    ratio, num_units = torch.tensor([0.5]), torch.tensor([2])
    draws = noise(1, 2)
    fields = [order, start, where, ratio, num_units, draws]
    before = [field.clone() for field in fields]
    segment(order, start, window=1, where=where)
    uniform_mask(where, ratio, draws)
    segment_start(num_units, draws[:, 0], window=1, truncated=False)
    segment_start_at(where, order, num_units, draws[:, 0], window=1, truncated=False)
    torch.testing.assert_close(fields, before, rtol=0, atol=0)
