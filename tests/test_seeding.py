import pytest
import torch

from tabom.seeding import RowDraws, branch, stream_key, uniform


def test_branches_are_the_outputs_of_splitmix64():
    """The published test vector of the reference implementation, state 1234567."""
    expected = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    got = branch(torch.tensor(1234567), torch.arange(5))
    assert [number % 2**64 for number in got.tolist()] == expected
    assert uniform(got).tolist() == [(number >> 11) / 2**53 for number in expected]


def test_draws_are_uniform_over_neighbouring_branches():
    keys = torch.tensor([stream_key(0, f"q/{number}") for number in range(400)])
    draws = uniform(branch(branch(keys, torch.tensor(0))[:, None], torch.arange(500)))
    assert draws.min() >= 0
    assert draws.max() < 1
    counts = torch.histc(draws, 20, 0, 1)
    assert (counts - 10000).abs().max() < 4.5 * 10000**0.5
    for axis in (0, 1):
        first, second = draws.narrow(axis, 0, draws.shape[axis] - 1), draws.narrow(axis, 1, draws.shape[axis] - 1)
        correlation = torch.corrcoef(torch.stack([first.flatten(), second.flatten()]))[0, 1]
        assert abs(correlation) < 0.01


def test_keys_differ_in_every_part():
    keys = {stream_key(*parts) for parts in ((0, "a", 0), (1, "a", 0), (0, "b", 0), (0, "a", 1), (0, "a0"))}
    assert len(keys) == 5
    assert all(-(2**63) <= key < 2**63 for key in keys)


def uneven(seed=0, num_rows=6, length=9):
    """Positions that count, with gaps."""
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_rows, length, generator=generator) < 0.6


def both(draws, where):
    return draws.per_row(), draws.per_position(where)


class TestRowDraws:
    def test_values_are_branches_of_the_row_s_key_by_call_and_place(self):
        """A call is a branch of the row, a position a branch of the call, counted from 1 over those that are true."""
        draws, keys = RowDraws.of_numbers(7, torch.tensor([4, 2])), branch(torch.tensor(7), torch.tensor([4, 2]))
        assert torch.equal(draws.per_row(), uniform(branch(keys, torch.tensor(0))))
        drawn = draws.per_position(torch.tensor([[False, True, True], [True, False, True]]))
        second = branch(keys, torch.tensor(1))
        expected = uniform(branch(second[:, None], torch.tensor([[1, 2], [1, 2]])))
        assert torch.equal(drawn[[0, 0, 1, 1], [1, 2, 0, 2]].view(2, 2), expected)
        assert drawn.dtype == torch.float64

    def test_padding_changes_nothing(self):
        where = uneven()
        padding = torch.zeros(len(where), 4, dtype=torch.bool)
        wide = torch.cat([padding, where[:, :5], padding, where[:, 5:], padding], 1)
        numbers = torch.arange(len(where))
        narrow_row, narrow = both(RowDraws.of_numbers(0, numbers), where)
        wide_row, drawn = both(RowDraws.of_numbers(0, numbers), wide)
        assert torch.equal(narrow_row, wide_row)
        assert torch.equal(narrow[where], drawn[wide])

    @pytest.mark.parametrize("rows", [[5, 1, 3], [2], [4, 4, 0]], ids=str)
    def test_the_other_rows_of_the_batch_change_nothing(self, rows):
        where = uneven()
        numbers = torch.arange(100, 100 + len(where))
        together = both(RowDraws.of_numbers(0, numbers), where)
        apart = both(RowDraws.of_numbers(0, numbers[rows]), where[rows])
        assert torch.equal(together[0][rows], apart[0])
        assert torch.equal(together[1][rows], apart[1])

    def test_rows_of_queries_are_drawn_by_parts_and_query(self):
        ids = ("a", "b", "c")
        draws, where = RowDraws.of_ids(ids, "probe", 3), torch.ones(3, 4, dtype=torch.bool)
        keys = torch.tensor([stream_key("probe", 3, query_id) for query_id in ids])
        assert torch.equal(draws.per_row(), uniform(branch(keys, torch.tensor(0))))
        again, other = (RowDraws.of_ids(("c", "a"), *parts).per_row() for parts in (("probe", 3), ("probe", 4)))
        assert again.tolist() == RowDraws.of_ids(ids, "probe", 3).per_row()[[2, 0]].tolist()
        assert not set(again.tolist()) & set(other.tolist())
        assert len(set(draws.per_position(where).flatten().tolist())) == 12

    def test_no_two_numbers_of_calls_rows_and_places_are_equal(self):
        draws, where = RowDraws.of_numbers(0, torch.arange(50)), torch.ones(50, 20, dtype=torch.bool)
        numbers = [*(draws.per_row() for _ in range(3)), *(draws.per_position(where).flatten() for _ in range(3))]
        numbers.append(RowDraws.of_numbers(1, torch.arange(50)).per_row())
        assert len(torch.cat(numbers).unique()) == 4 * 50 + 3 * 1000

    def test_they_are_uniform_and_calls_are_independent(self):
        draws, where = RowDraws.of_numbers(0, torch.arange(2000)), torch.ones(2000, 20, dtype=torch.bool)
        first, second = (draws.per_position(where).flatten() for _ in range(2))
        row = draws.per_row()
        for drawn, num_draws in ((first, 40000), (second, 40000), (row, 2000)):
            assert (drawn.min() >= 0) & (drawn.max() < 1)
            counts = torch.histc(drawn, 20, 0, 1)
            assert (counts - num_draws / 20).abs().max() < 4.5 * (num_draws / 20) ** 0.5
        assert torch.corrcoef(torch.stack([first, second]))[0, 1].abs() < 0.02
        assert torch.corrcoef(torch.stack([first.view(2000, 20)[:, 0], row]))[0, 1].abs() < 0.08
