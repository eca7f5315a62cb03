"""Masks of a given share."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.masking import fixed_ratio_mask

ratios = st.floats(0.001, 1.0)


@st.composite
def canvases(draw):
    """Response positions, and noise with ties."""
    num_rows, length = draw(st.integers(1, 4)), draw(st.integers(1, 12))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return torch.tensor(draw(st.lists(row, min_size=num_rows, max_size=num_rows)))

    return rows(st.booleans()), rows(st.integers(0, 5).map(lambda n: n / 6))


@given(canvases(), ratios)
def test_masks_exactly_the_rounded_share_and_at_least_one(canvas, ratio):
    is_response, noise = canvas
    is_masked = fixed_ratio_mask(is_response, ratio, noise)
    assert not (is_masked & ~is_response).any()
    expected = [max(1, round(ratio * n)) if n else 0 for n in is_response.sum(1).tolist()]
    assert is_masked.sum(1).tolist() == expected


@given(canvases(), ratios, ratios)
def test_the_mask_of_a_smaller_ratio_is_a_part_of_that_of_a_larger_one(canvas, one, other):
    is_response, noise = canvas
    small, large = (fixed_ratio_mask(is_response, ratio, noise) for ratio in sorted((one, other)))
    assert not (small & ~large).any()


def test_the_lowest_noise_is_masked_and_ties_stand_by_position():
    noise = torch.tensor([[0.0, 0.5, 0.2, 0.5, 0.5]])
    is_response = torch.tensor([[False, True, True, True, True]])
    masks = [fixed_ratio_mask(is_response, ratio, noise)[0].nonzero()[:, 0].tolist() for ratio in (0.25, 0.5, 0.75)]
    assert masks == [[2], [1, 2], [1, 2, 3]]


def test_every_position_is_masked_equally_often():
    is_response = torch.tensor([[False, True, True, True, True]]).expand(8000, 5)
    is_masked = fixed_ratio_mask(is_response, 0.5, torch.rand(8000, 5))
    torch.testing.assert_close(is_masked.double().mean(0)[1:], torch.full((4,), 0.5).double(), rtol=0, atol=0.03)


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.5])
def test_wrong_ratios_are_named(ratio):
    with pytest.raises(ValueError, match=rf"^ratio: expected a number in \(0, 1\], got {ratio}$"):
        fixed_ratio_mask(torch.ones(1, 2, dtype=torch.bool), ratio, torch.zeros(1, 2))
