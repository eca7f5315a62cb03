"""States of a recorded trajectory and the tokens that were decoded next."""

import dataclasses
import itertools

import pytest
import torch
from helpers import row_draws, trajectory_batch
from hypothesis import given
from hypothesis import strategies as st

from tabom.corruption import TrajectorySegments
from tabom.errors import TabomError
from tabom.types import NEVER

MASK = 99
NAN = float("nan")
PROMPT = 2
UNITS = ("tokens", "steps")
RECORDED_STARTS = [13, 1, 16, 1, 5, 10, 7, 8]  # from 0 ... 16, rows 0 ... 7 of seed 0
TIES = ("entropy", "positional", "unordered")


@st.composite
def recordings(draw, max_rows=3, max_length=7):
    """Steps and entropies of rows with several tokens per step and positions that were never revealed."""
    num_rows, length = draw(st.integers(1, max_rows)), draw(st.integers(1, max_length))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return draw(st.lists(row, min_size=num_rows, max_size=num_rows))

    steps = rows(st.integers(NEVER, 4))
    for row in steps:
        row[0] = max(row[0], 0)
    return steps, rows(st.sampled_from([0.0, 0.5, 1.0, 1.5]))


def batch_of(recording):
    steps, entropies = recording
    return trajectory_batch(steps, entropy=entropies)


def response(tensor):
    return tensor[:, PROMPT:]


def shown(corrupted, row=0):
    """Response positions that the network sees."""
    return (response(corrupted.noisy_ids)[row] != MASK).nonzero().flatten().tolist()


def asked(corrupted, row=0):
    return response(corrupted.is_target)[row].nonzero().flatten().tolist()


def cut(batch, start, window, **options):
    return TrajectorySegments(window, **options).cut(batch, torch.tensor(start), MASK)


@given(
    recordings(),
    st.integers(1, 8),
    st.sampled_from(UNITS),
    st.sampled_from(TIES),
    st.booleans(),
    st.integers(0, 1000),
)
def test_every_draw_is_a_segment(recording, window, unit, ties, truncated, seed):
    batch = batch_of(recording)
    segments = TrajectorySegments(window, window_unit=unit, ties=ties, truncated_windows=truncated)
    corrupted = segments(batch, MASK, row_draws(batch, seed))
    is_masked = corrupted.noisy_ids == MASK
    is_never = batch.is_response & (batch.unmask_step == NEVER)
    assert not (is_masked & ~batch.is_response).any()
    assert torch.equal(corrupted.noisy_ids[~is_masked], batch.clean_ids[~is_masked])
    assert not (corrupted.is_target & ~is_masked).any()
    assert not (is_never & ~is_masked).any()
    assert not (is_never & corrupted.is_target).any()
    if unit == "tokens":
        left = (is_masked & ~is_never).sum(1)
        assert torch.equal(corrupted.is_target.sum(1), left.clamp(max=window))
        num_revealed = (batch.is_response & ~is_never).sum(1)
        assert (left >= (torch.ones_like(left) if truncated else num_revealed.clamp(max=window))).all()


@given(recordings(), st.data(), st.integers(1, 8), st.sampled_from(TIES))
def test_replaying_tokens(recording, data, window, ties):
    """What is shown are the first ``start`` tokens by step, within a step by the rule for ties, else by position."""
    starts = [data.draw(st.integers(0, 7)) for _ in recording[0]]
    corrupted = cut(batch_of(recording), starts, window, ties=ties)
    for row, (start, steps, entropies) in enumerate(zip(starts, *recording, strict=True)):
        keys = [(step, entropies[i] if ties == "entropy" else 0, i) for i, step in enumerate(steps) if step != NEVER]
        in_order = [position for *_, position in sorted(keys)]
        assert shown(corrupted, row) == sorted(in_order[:start])
        assert asked(corrupted, row) == sorted(in_order[start : start + window])


@given(recordings(), st.data(), st.integers(1, 5), st.sampled_from(TIES))
def test_replaying_steps(recording, data, window, ties):
    starts = [data.draw(st.integers(0, 5)) for _ in recording[0]]
    corrupted = cut(batch_of(recording), starts, window, window_unit="steps", ties=ties)
    for row, (start, steps) in enumerate(zip(starts, recording[0], strict=True)):
        assert shown(corrupted, row) == [i for i, step in enumerate(steps) if step != NEVER and step < start]
        assert asked(corrupted, row) == [i for i, step in enumerate(steps) if start <= step < start + window]


@given(recordings(), st.integers(0, 6), st.data(), st.integers(1, 8), st.sampled_from(UNITS), st.sampled_from(TIES))
def test_padding_that_is_not_learnt_takes_no_place(recording, num_fillers, data, window, unit, ties):
    """It is left out before windows are cut, and shown if it was decoded before what is asked for first."""
    batch = batch_of(recording)
    length = len(recording[0][0])
    batch.is_filler[:, PROMPT + max(1, length - num_fillers) :] = True
    starts = [data.draw(st.integers(0, 5)) for _ in recording[0]]
    options = {"window_unit": unit, "ties": ties, "supervise_padding": False}
    corrupted = cut(batch, starts, window, **options)
    for row, (start, steps, entropies) in enumerate(zip(starts, *recording, strict=True)):
        keys = {
            i: (step, entropies[i] if ties == "entropy" else 0, i) if unit == "tokens" else (step,)
            for i, step in enumerate(steps)
            if step != NEVER
        }
        learnt = sorted({key for i, key in keys.items() if i < max(1, length - num_fillers)})
        expected = [i for i, key in keys.items() if i < max(1, length - num_fillers)]
        assert asked(corrupted, row) == [i for i in expected if keys[i] in learnt[start : start + window]]
        assert shown(corrupted, row) == [i for i in keys if start >= len(learnt) or keys[i] < learnt[start]]


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("starts", ["uniform", "non_left_to_right"])
def test_windows_of_drawn_starts_are_full_without_padding(unit, starts):
    """Ten tokens of which six are filler: of four, three are always asked for."""
    batch = trajectory_batch([[9, 1, 7, 4, 0, 2, 3, 5, 6, 8]] * 50)
    batch.is_filler[:, PROMPT + 4 :] = True
    segments = TrajectorySegments(3, window_unit=unit, starts=starts, supervise_padding=False)
    corrupted = segments(batch, MASK, row_draws(batch))
    assert (corrupted.is_target.sum(1) == 3).all()
    assert not (corrupted.is_target & batch.is_filler).any()
    assert {len(shown(corrupted, row)) for row in range(50)} <= {1, 4}


@given(recordings(), st.sampled_from(UNITS))
def test_order_is_strict_exactly_where_the_rule_for_ties_says(recording, unit):
    batch = batch_of(recording)
    orders = {
        ties: response(cut(batch, [0] * len(recording[0]), 1, window_unit=unit, ties=ties).order) for ties in TIES
    }
    for row, (steps, entropies) in enumerate(zip(*recording, strict=True)):
        keys = {
            "entropy": list(zip(steps, entropies, strict=True)),
            "positional": [(step, i) for i, step in enumerate(steps)],
            "unordered": steps,
        }
        revealed = [i for i, step in enumerate(steps) if step != NEVER]
        for ties, (r, s) in itertools.product(TIES, itertools.permutations(revealed, 2)):
            assert (orders[ties][row, r] < orders[ties][row, s]) == (keys[ties][r] < keys[ties][s])


def test_three_kinds_of_ties_by_hand():
    batch = trajectory_batch([[0, 0, 1, 1]], entropy=[[0.5, 0.2, 0.1, 0.1]])
    order = {ties: response(cut(batch, [0], 4, ties=ties).order).tolist() for ties in TIES}
    assert order == {"entropy": [[1, 0, 2, 2]], "positional": [[0, 1, 2, 3]], "unordered": [[0, 0, 1, 1]]}
    first = {ties: asked(cut(batch, [0], 1, ties=ties)) for ties in TIES}
    assert first == {"entropy": [1], "positional": [0], "unordered": [0]}


def test_ties_without_a_recorded_entropy_have_no_order():
    batch = trajectory_batch([[0, 0, 1]])
    assert response(cut(batch, [0], 3).order).tolist() == [[0, 0, 1]]


def test_both_units_by_hand():
    batch = trajectory_batch([[0, 0, 1, 1, 2, 2]])
    tokens, steps = cut(batch, [1], 2), cut(batch, [1], 2, window_unit="steps")
    assert (shown(tokens), asked(tokens)) == ([0], [1, 2])
    assert (shown(steps), asked(steps)) == ([0, 1], [2, 3, 4, 5])


def test_what_comes_after_the_window_is_masked_too():
    corrupted = cut(trajectory_batch([[2, 0, 3, 1]], clean_ids=[[20, 21, 22, 23]]), [1], 1)
    assert corrupted.noisy_ids.tolist() == [[5, 5, MASK, 21, MASK, MASK]]
    assert asked(corrupted) == [3]


def test_never_revealed_positions_stay_masked_and_are_no_targets():
    corrupted = cut(trajectory_batch([[0, NEVER, 1]]), [2], 8)
    assert shown(corrupted) == [0, 2]
    assert asked(corrupted) == []


def test_a_step_recorded_outside_the_response_does_not_count():
    batch = trajectory_batch([[0, 1, 2]])
    narrower = batch.is_response.clone()
    narrower[:, PROMPT] = False
    corrupted = cut(dataclasses.replace(batch, is_response=narrower), [0], 8)
    assert shown(corrupted) == [0]
    assert asked(corrupted) == [1, 2]


def states(steps, *, num_draws=3000, **options):
    """How often each number of shown tokens was drawn, and which positions were ever asked for."""
    batch = trajectory_batch([steps] * num_draws)
    corrupted = TrajectorySegments(**options)(batch, MASK, row_draws(batch))
    num_shown = (response(corrupted.noisy_ids) != MASK).sum(1)
    return num_shown.bincount().double() / num_draws, response(corrupted.is_target).any(0)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"window": 2}, [1 / 5] * 5),
        ({"window": 6}, [1.0]),
        ({"window": 7}, [1.0]),
        ({"window": 2, "truncated_windows": True}, [1 / 6] * 6),
        ({"window": 7, "truncated_windows": True}, [1 / 6] * 6),
        ({"window": 2, "window_unit": "steps"}, [1 / 2, 0, 1 / 2]),
        ({"window": 2, "window_unit": "steps", "truncated_windows": True}, [1 / 3, 0, 1 / 3, 0, 1 / 3]),
    ],
    ids=str,
)
def test_states_are_drawn_uniformly_and_every_position_is_asked_for(options, expected):
    shares, was_asked = states([1, 0, 2, 0, 1, 2], **options)
    torch.testing.assert_close(shares, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=0.04)
    assert was_asked.all()


@given(recordings(), st.integers(1, 5), st.sampled_from(UNITS), st.sampled_from(TIES), st.booleans())
def test_starts_where_decoding_leaves_the_order_from_left_to_right(recording, window, unit, ties, truncated):
    """Against a replay of every state: what is decoded next, and what stays masked after it."""
    options = {"window_unit": unit, "truncated_windows": truncated, "ties": ties}
    num_rows, num_draws = len(recording[0]), 200
    segments = TrajectorySegments(window, starts="non_left_to_right", **options)
    batch = batch_of([rows * num_draws for rows in recording])
    drawn = segments(batch, MASK, row_draws(batch))
    states = [cut(batch_of(recording), [start] * num_rows, 1, **options) for start in range(9)]
    for row, steps in enumerate(recording[0]):
        length = sum(step != NEVER for step in steps) if unit == "tokens" else max(steps) + 1
        valid = range(max(1, length - (1 if truncated else window) + 1))
        wanted = []
        for start in valid:
            left = set(range(len(steps))) - set(shown(states[start + 1], row))
            if any(position > min(left, default=position) for position in asked(states[start], row)):
                wanted.append(start)
        expected = {tuple(shown(states[start], row)) for start in wanted or valid}
        assert {tuple(shown(drawn, i)) for i in range(row, num_rows * num_draws, num_rows)} == expected


def test_starts_by_hand():
    """Two tokens of a step stand in order from left to right; only the third step skips a position."""
    batch = trajectory_batch([[0, 0, 3, 2, 1]] * 400)
    segments = TrajectorySegments(1, window_unit="steps", starts="non_left_to_right")
    num_shown = (response(segments(batch, MASK, row_draws(batch)).noisy_ids) != MASK).sum(1)
    assert set(num_shown.tolist()) == {2, 3}
    torch.testing.assert_close((num_shown == 2).double().mean().item(), 0.5, rtol=0, atol=0.08)


def test_a_position_that_is_never_revealed_leaves_everything_right_of_it_out_of_order():
    batch = trajectory_batch([[0, NEVER, 1, 2]] * 200)
    corrupted = TrajectorySegments(1, starts="non_left_to_right")(batch, MASK, row_draws(batch))
    assert {tuple(asked(corrupted, row)) for row in range(200)} == {(2,), (3,)}


def test_uniform_starts_are_the_default_and_their_draws_are_recorded():
    batch = trajectory_batch([list(range(20))] * 8)
    expected = TrajectorySegments(4, starts="uniform")(batch, MASK, row_draws(batch)).is_target
    assert torch.equal(TrajectorySegments(4)(batch, MASK, row_draws(batch)).is_target, expected)
    assert expected.long().argmax(1).sub(PROMPT).tolist() == RECORDED_STARTS


def test_never_revealed_positions_do_not_lengthen_the_trajectory():
    shares, was_asked = states([1, NEVER, 0, NEVER], window=1)
    torch.testing.assert_close(shares, torch.tensor([0.5, 0.5]).double(), rtol=0, atol=0.04)
    assert was_asked.tolist() == [True, False, True, False]


def test_steps_outside_the_response_do_not_lengthen_the_trajectory():
    batch = trajectory_batch([[0, 1, 9]] * 500)
    narrower = batch.is_response.clone()
    narrower[:, -1] = False
    for unit in UNITS:
        segments = TrajectorySegments(1, window_unit=unit)
        corrupted = segments(dataclasses.replace(batch, is_response=narrower), MASK, row_draws(batch))
        assert corrupted.is_target.sum(1).tolist() == [1] * 500


def test_the_rest_of_the_batch_is_passed_on():
    batch = trajectory_batch([[0, 1], [1, 0]])
    corrupted = TrajectorySegments(1)(batch, MASK, row_draws(batch))
    assert torch.equal(corrupted.clean_ids, batch.clean_ids)
    assert torch.equal(corrupted.attention_mask, batch.attention_mask)
    assert corrupted.query_ids == ("query0", "query1")


def test_the_draws_decide():
    batch = trajectory_batch([list(range(20))] * 8)
    draws = row_draws(batch)
    first, second = (TrajectorySegments(4)(batch, MASK, draws) for _ in range(2))
    assert torch.equal(first.is_target, TrajectorySegments(4)(batch, MASK, row_draws(batch)).is_target)
    assert not torch.equal(first.is_target, second.is_target)


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize("truncated", [False, True])
def test_a_row_without_an_order_is_an_error_that_names_it(unit, truncated):
    segments = TrajectorySegments(1, window_unit=unit, truncated_windows=truncated)
    batch = trajectory_batch([[0, 1], [NEVER, NEVER], [NEVER, NEVER]])
    with pytest.raises(TabomError) as error:
        segments(batch, MASK, row_draws(batch))
    assert str(error.value) == (
        "query query1: expected an unmasking order, but no position has an unmask_step; "
        "this objective needs self-distilled trajectories"
    )


@pytest.mark.parametrize("window", [0, -3])
def test_a_window_below_one_is_an_error(window):
    with pytest.raises(TabomError) as error:
        TrajectorySegments(window)
    assert str(error.value) == f"window: expected at least 1, got {window}"


def test_the_batch_is_not_changed():
    batch = trajectory_batch([[0, NEVER, 1]], entropy=[[0.2, NAN, 0.3]])
    before = {name: value.clone() for name, value in vars(batch).items() if isinstance(value, torch.Tensor)}
    TrajectorySegments(1)(batch, MASK, row_draws(batch))
    for name, value in before.items():
        torch.testing.assert_close(getattr(batch, name), value, rtol=0, atol=0, equal_nan=True)
