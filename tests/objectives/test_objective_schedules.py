"""Warm-ups of the objective's numbers: by the step alone, so that a resumed run goes on."""

import pytest
import torch
from helpers import corrupted_batch, row_draws, token_statistics_of, trajectory_batch

from tabom.errors import TabomError
from tabom.objectives import TabomObjective
from tabom.objectives.ranking import Ranking
from tabom.objectives.schedules import Warmup

STATISTICS = token_statistics_of([[1.0, 1.0]], [[2.0, 1.0]])
CORRUPTED = corrupted_batch([[True, True]], [[0, 1]])


def test_values_by_hand():
    steps = (0, 1, 2, 4, 5, 400)
    assert [Warmup(4).value(step, 2.0) for step in steps] == [0.0, 0.5, 1.0, 2.0, 2.0, 2.0]
    assert [Warmup(4, 3.0).value(step, 1.0) for step in steps] == [3.0, 2.5, 2.0, 1.0, 1.0, 1.0]
    cosine = [Warmup(4, 1.0, "cosine").value(step, 3.0) for step in steps]
    assert cosine == pytest.approx([1.0, 2 - 0.5**0.5, 2.0, 3.0, 3.0, 3.0])


def test_the_weight_grows_and_is_logged():
    objective = TabomObjective(margin=0.5, rank_weight=2.0, rank_weight_warmup=Warmup(4, 1.0))
    found = {}
    for step in (None, 0, 2, 4, 9):
        if step is not None:
            objective.set_step(step)
        terms = objective.terms(STATISTICS, CORRUPTED)
        assert terms["ranking"].item() == 1.5
        assert terms["loss"].item() == 1.0 + terms["rank_weight"].item() * 1.5
        found[step] = terms["rank_weight"].item()
    assert found == {None: 2.0, 0: 1.0, 2: 1.5, 4: 2.0, 9: 2.0}


def test_a_weight_can_fall_to_zero():
    objective = TabomObjective(margin=0.5, rank_weight=0.0, rank_weight_warmup=Warmup(4, 1.0))
    objective.set_step(1)
    assert objective.terms(STATISTICS, CORRUPTED)["loss"].item() == 1.0 + 0.75 * 1.5


def test_the_margin_grows():
    objective = TabomObjective(margin=1.0, margin_warmup=Warmup(4))
    found = [objective.terms(STATISTICS, CORRUPTED)["ranking"].item()]
    for step in (0, 1, 4):
        objective.set_step(step)
        terms = objective.terms(STATISTICS, CORRUPTED)
        found.append(terms["ranking"].item())
        assert terms.get("ranking_over_margin", torch.tensor(0.0)).item() == {0: 0.0, 1: 5.0, 4: 2.0}[step]
    assert found == [2.0, 1.0, 1.25, 2.0]


@pytest.mark.parametrize(
    ("start", "sizes"), [(1.0, [6, 1, 2, 4, 5, 6]), (8.0, [6, 8, 8, 7, 6, 6])], ids=["grows", "shrinks"]
)
def test_the_window_changes_by_whole_tokens(start, sizes):
    """To 6 tokens within 5 steps, looked at without a step and after 0, 1, 3, 4 and 9."""
    batch = trajectory_batch([list(range(8))] * 3)
    objective = TabomObjective(window=6, window_warmup=Warmup(5, start))
    found = []
    for step in (None, 0, 1, 3, 4, 9):
        if step is not None:
            objective.set_step(step)
        found.append(objective.corrupt(batch, 99, row_draws(batch)).is_target.sum(1).tolist())
    assert found == [[size] * 3 for size in sizes]
    assert objective.window == 6


def test_a_resumed_run_goes_on():
    options = {"rank_weight_warmup": Warmup(9), "margin_warmup": Warmup(9), "window_warmup": Warmup(9, 1.0)}
    went_through, resumed = (TabomObjective(window=8, **options) for _ in range(2))
    for step in range(6):
        went_through.set_step(step)
    resumed.set_step(5)
    assert went_through.terms(STATISTICS, CORRUPTED) == resumed.terms(STATISTICS, CORRUPTED)
    batch = trajectory_batch([list(range(8))])
    targets = [x.corrupt(batch, 99, row_draws(batch)).is_target for x in (went_through, resumed)]
    assert torch.equal(*targets)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Warmup(0), "num_steps: expected at least 1, got 0"),
        (
            lambda: TabomObjective(rank_weight_warmup=Warmup(1, -1.0)),
            "rank_weight_warmup.start: expected at least 0, got -1.0",
        ),
        (lambda: TabomObjective(margin_warmup=Warmup(1, -0.5)), "margin_warmup.start: expected at least 0, got -0.5"),
        (lambda: TabomObjective(window_warmup=Warmup(1)), "window_warmup.start: expected at least 1, got 0.0"),
        (
            lambda: TabomObjective(ranking=Ranking("plackett_luce"), margin_warmup=Warmup(1)),
            "margin_warmup: expected none with surrogate plackett_luce, which has no margin",
        ),
        (
            lambda: TabomObjective(window=4, window_warmup=Warmup(1, 9.0)).check_response_length(8),
            "window: expected at most the response length of 8 tokens, got 9.0",
        ),
    ],
    ids=range(6),
)
def test_values_out_of_range_are_errors(make, message):
    with pytest.raises(TabomError) as error:
        make()
    assert str(error.value) == message
