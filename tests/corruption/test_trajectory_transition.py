"""Two states of a trajectory and what was decoded between them."""

import dataclasses
import itertools

import pytest
import torch
from helpers import row_draws, trajectory_batch

from tabom.corruption.trajectory_transition import TrajectoryTransition
from tabom.errors import TabomError
from tabom.types import NEVER

MASK = 99
PROMPT = 2


def drawn(steps, *, num_rows=1, seed=0, **changes):
    batch = trajectory_batch([steps] * num_rows, **changes)
    return TrajectoryTransition()(batch, MASK, row_draws(batch, seed))


def pairs(corrupted):
    """Per row: which response positions are shown, and which are asked for."""
    shown = (corrupted.noisy_ids != MASK)[:, PROMPT:].tolist()
    asked = corrupted.is_target[:, PROMPT:].tolist()
    return [
        (frozenset(i for i, s in enumerate(row) if s), frozenset(i for i, a in enumerate(other) if a))
        for row, other in zip(shown, asked, strict=True)
    ]


@pytest.mark.parametrize(
    "steps",
    [[2, 0, 1], [0, 0, 1, 1, 1], [7, NEVER, 3, 3, 9], [4, NEVER, NEVER], [3, 1]],
    ids=str,
)
def test_all_pairs_of_states_come_equally_often(steps):
    """States stand after whole steps; gaps between steps are no states."""
    num_rows = 6000
    done = [set()]
    for step in sorted({step for step in steps if step != NEVER}):
        done.append(done[-1] | {i for i, s in enumerate(steps) if s == step})
    expected = {(frozenset(a), frozenset(b - a)) for a, b in itertools.combinations(done, 2)}
    found = pairs(drawn(steps, num_rows=num_rows))
    assert set(found) == expected
    for pair in expected:
        assert found.count(pair) / num_rows == pytest.approx(1 / len(expected), abs=0.025)


def test_the_rest_is_masked_and_not_asked_for():
    corrupted = drawn([0, 1, 2, 3, NEVER], num_rows=300)
    response = corrupted.is_masked[:, PROMPT:]
    assert torch.equal(corrupted.is_masked, corrupted.noisy_ids == MASK)
    assert (corrupted.is_target & ~corrupted.is_masked).sum() == 0
    assert (response & ~corrupted.is_target[:, PROMPT:])[:, 3].any()
    assert response[:, 4].all()
    assert not corrupted.is_target[:, PROMPT + 4].any()
    assert not corrupted.is_masked[:, :PROMPT].any()


def test_every_row_draws_its_own_pair_and_asks_for_something():
    batch = trajectory_batch([[0, 1, 2, 3, 4, 5], [0, 0, 0, NEVER, NEVER, NEVER]] * 100)
    corrupted = TrajectoryTransition()(batch, MASK, row_draws(batch))
    assert corrupted.is_target.any(1).all()
    assert set(pairs(corrupted)[1::2]) == {(frozenset(), frozenset({0, 1, 2}))}
    assert len(set(pairs(corrupted)[::2])) > 15


def test_the_rest_of_the_batch_is_passed_on():
    batch = dataclasses.replace(trajectory_batch([[0, 0, 1]], entropy=[[0.5, 0.2, 0.1]]), domain="held-out")
    corrupted = TrajectoryTransition()(batch, MASK, row_draws(batch))
    assert corrupted.order[0, PROMPT:].tolist() == [1, 0, 2]
    assert torch.equal(corrupted.clean_ids, batch.clean_ids)
    assert torch.equal(corrupted.recorded_entropy[:, PROMPT:], batch.unmask_entropy[:, PROMPT:])
    assert (corrupted.query_ids, corrupted.domain, corrupted.mask_ratio) == (("query0",), "held-out", None)


def test_steps_outside_the_response_do_not_count():
    batch = trajectory_batch([[0, 1, 9]] * 200)
    narrower = batch.is_response.clone()
    narrower[:, -1] = False
    corrupted = TrajectoryTransition()(dataclasses.replace(batch, is_response=narrower), MASK, row_draws(batch))
    assert corrupted.is_target.any(1).all()
    assert not corrupted.is_masked[:, -1].any()


def test_the_draws_decide():
    steps = list(range(30))
    first, again, other = (drawn(steps, num_rows=4, seed=seed).is_target for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_row_without_an_order_is_an_error_that_names_it():
    batch = trajectory_batch([[0, 1], [NEVER, NEVER]])
    with pytest.raises(TabomError) as error:
        TrajectoryTransition()(batch, MASK, row_draws(batch))
    assert str(error.value) == (
        "query query1: expected an unmasking order, but no position has an unmask_step; "
        "this objective needs self-distilled trajectories"
    )
