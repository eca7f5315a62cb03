"""The order in which positions were revealed, and who shares a rank."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.unmasking import dense_steps, non_left_to_right, unmasking_order, unmasking_rank
from tabom.types import NEVER

NAN = float("nan")


@st.composite
def trajectories(draw, entropies):
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 7))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return torch.tensor(draw(st.lists(row, min_size=num_rows, max_size=num_rows)))

    return rows(st.integers(-1, 4)), rows(entropies).double(), rows(st.booleans())


recorded = st.sampled_from([0.0, 0.5, 1.0, 1.5])
recorded_or_missing = st.sampled_from([0.0, 0.5, 1.0, NAN])


def everywhere(step):
    return torch.ones_like(step, dtype=torch.bool)


def positions_in_order(step, entropy, where):
    """Indices by step, then recorded entropy (missing last), then position."""

    def key(position):
        is_missing = entropy[position] != entropy[position]
        return step[position], is_missing, 0.0 if is_missing else entropy[position], position

    return sorted((position for position in range(len(step)) if where[position]), key=key)


def test_order_by_hand():
    step = torch.tensor([[3, 1, 0, 1, 1, 1]])
    entropy = torch.tensor([[0.1, 0.7, 0.9, NAN, 0.2, 0.7]])
    order = unmasking_order(step, entropy, where=everywhere(step))
    assert order.tolist() == [[5, 2, 0, 4, 1, 3]]


@given(trajectories(recorded_or_missing))
def test_order_is_a_permutation_sorted_by_step_entropy_and_position(trajectory):
    step, entropy, where = trajectory
    order = unmasking_order(step, entropy, where=where)
    for row in range(len(step)):
        assert sorted(order[row].tolist()) == list(range(step.shape[1]))
        expected = positions_in_order(step[row].tolist(), entropy[row].tolist(), where[row].tolist())
        assert order[row].argsort().tolist()[: len(expected)] == expected


@given(trajectories(recorded))
def test_ranks_with_recorded_entropies_count_the_distinct_keys_before(trajectory):
    step, entropy, where = trajectory
    ranks = unmasking_rank(step, entropy, where=where)
    for row in range(len(step)):
        keys = list(zip(step[row].tolist(), entropy[row].tolist(), strict=True))
        kept = [position for position in range(step.shape[1]) if where[row, position]]
        distinct = sorted({keys[position] for position in kept})
        assert [ranks[row, position] for position in kept] == [distinct.index(keys[position]) for position in kept]


@given(trajectories(st.just(NAN)))
def test_without_entropies_the_tokens_of_a_step_share_a_rank(trajectory):
    step, entropy, where = trajectory
    ranks = unmasking_rank(step, entropy, where=where)
    for row in range(len(step)):
        steps = step[row, where[row]].tolist()
        distinct = sorted(set(steps))
        assert ranks[row, where[row]].tolist() == [distinct.index(value) for value in steps]


def test_a_missing_entropy_shares_the_rank_of_its_whole_step():
    step = torch.tensor([[0, 1, 1, 1, 2]])
    entropy = torch.tensor([[0.1, 0.2, NAN, 0.7, 0.1]])
    assert unmasking_rank(step, entropy, where=everywhere(step)).tolist() == [[0, 1, 1, 1, 2]]


@given(trajectories(recorded_or_missing))
def test_ranks_never_contradict_the_order(trajectory):
    step, entropy, where = trajectory
    order, ranks = unmasking_order(step, entropy, where=where), unmasking_rank(step, entropy, where=where)
    for row in range(len(step)):
        sorted_ranks = ranks[row, order[row].argsort()][: where[row].sum()]
        assert (sorted_ranks.diff() >= 0).all()


def test_step_comes_before_entropy():
    step, entropy = torch.tensor([[1, 0]]), torch.tensor([[0.0, 9.0]])
    assert unmasking_order(step, entropy, where=everywhere(step)).tolist() == [[1, 0]]
    assert unmasking_rank(step, entropy, where=everywhere(step)).tolist() == [[1, 0]]


def test_positions_left_out_come_last():
    step, where = torch.tensor([[0, 5, 1]]), torch.tensor([[False, True, True]])
    assert unmasking_order(step, torch.zeros(1, 3), where=where).tolist() == [[2, 1, 0]]


@given(trajectories(st.just(NAN)))
def test_dense_steps_number_the_distinct_steps(trajectory):
    step, _, where = trajectory
    dense = dense_steps(torch.where(step == NEVER, NEVER, 10 * step + 3), where=where)
    for row in range(len(step)):
        kept = [where[row, position] and step[row, position] != NEVER for position in range(step.shape[1])]
        distinct = sorted({int(value) for value, is_kept in zip(step[row], kept, strict=True) if is_kept})
        expected = [
            distinct.index(int(value)) if is_kept else NEVER for value, is_kept in zip(step[row], kept, strict=True)
        ]
        assert dense[row].tolist() == expected


def test_dense_steps_of_dream_start_at_0():
    """At as many steps as tokens Dream's first step reveals nothing, and its last one two tokens."""
    step = torch.tensor([[2, 1, 3, 3], [NEVER, 5, NEVER, 0]])
    dense = dense_steps(step, where=everywhere(step))
    assert dense.tolist() == [[1, 0, 2, 2], [NEVER, 1, NEVER, 0]]
    assert torch.equal(dense_steps(dense, where=everywhere(step)), dense)


@given(trajectories(st.just(NAN)), st.data())
def test_non_left_to_right_is_a_masked_position_further_left(trajectory, data):
    order, _, where = trajectory
    flags = st.lists(st.booleans(), min_size=order.shape[1], max_size=order.shape[1])
    is_revealed = where & torch.tensor([data.draw(flags) for _ in order])
    found = non_left_to_right(order, is_revealed=is_revealed, where=where)
    for row in range(len(order)):
        for r in range(order.shape[1]):
            left = [q for q in range(r) if where[row, q]]
            masked = [q for q in left if not is_revealed[row, q] or order[row, q] > order[row, r]]
            assert found[row, r] == (bool(is_revealed[row, r]) and len(masked) > 0)


def test_arguments_are_not_changed():
    step, entropy = torch.tensor([[1, 0, 0]]), torch.tensor([[NAN, 0.7, 0.2]])
    where = torch.tensor([[True, False, True]])
    before = step.clone(), entropy.clone(), where.clone()
    unmasking_order(step, entropy, where=where)
    unmasking_rank(step, entropy, where=where)
    dense_steps(step, where=where)
    non_left_to_right(step, is_revealed=where, where=where)
    torch.testing.assert_close((step, entropy, where), before, rtol=0, atol=0, equal_nan=True)
