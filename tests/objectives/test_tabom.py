"""Reconstruction and ranking of a segment (Eq. 8-9)."""

import dataclasses
import inspect
import math
from collections import Counter

import pytest
import torch
from helpers import corrupted_batch, row_draws, token_statistics_of, trajectory_batch
from hypothesis import given
from hypothesis import strategies as st

from tabom.corruption import TrajectorySegments
from tabom.errors import TabomError
from tabom.functional import ranking as functional_ranking
from tabom.objectives import TabomObjective
from tabom.objectives import ranking as objectives_ranking
from tabom.objectives.ranking import Ranking
from tabom.objectives.schedules import Warmup
from tabom.types import NEVER

MASK = 99
NAN = float("nan")


TARGETS = [[False, True, True, True], [True, False, True, False]]
ORDER = [[0, 3, 1, 2], [7, 0, 4, 0]]
NLL = [[NAN, 1.0, 2.0, 6.0], [5.0, NAN, 8.0, NAN]]
ENTROPY = [[NAN, 1.5, 2.0, 1.0], [3.0, NAN, 2.0, NAN]]
RECONSTRUCTION = ((1.0 + 2.0 + 6.0) / 3 + (5.0 + 8.0) / 2) / 2
RANKING = (((2.0 - 1.0 + 0.25) + (2.0 - 1.5 + 0.25) + 0.0) / 3 + 0.0) / 2


def test_value_by_hand():
    objective = TabomObjective(window=4, margin=0.25, rank_weight=3.0)
    result = objective.terms(token_statistics_of(NLL, ENTROPY), corrupted_batch(TARGETS, ORDER))
    expected = {
        "loss": RECONSTRUCTION + 3.0 * RANKING,
        "reconstruction": RECONSTRUCTION,
        "ranking": RANKING,
        "order_agreement": (1 + 1) / (3 + 1),
        "active_pairs": (2 + 0) / (3 + 1),
        "ranking_over_margin": RANKING / 0.25,
    }
    torch.testing.assert_close(result, {name: torch.tensor(value) for name, value in expected.items()})


def test_the_margin_counts():
    measured, corrupted = token_statistics_of([[1.0, 1.0]], [[1.0, 2.0]]), corrupted_batch([[True, True]], [[0, 1]])
    ranking = [TabomObjective(margin=margin).terms(measured, corrupted)["ranking"].item() for margin in (0.5, 1.0, 1.5)]
    assert ranking == [0.0, 0.0, 0.5]


def test_a_rank_weight_of_zero_leaves_the_reconstruction():
    measured = token_statistics_of(NLL, ENTROPY, requires_grad=True)
    result = TabomObjective(margin=0.25, rank_weight=0.0).terms(measured, corrupted_batch(TARGETS, ORDER))
    torch.testing.assert_close(result["loss"].detach(), torch.tensor(RECONSTRUCTION))
    torch.testing.assert_close(result["ranking"], torch.tensor(RANKING))
    (gradient,) = torch.autograd.grad(result["loss"], measured.entropy, allow_unused=True)
    assert gradient is None


def test_gradient_reaches_both_entropies_and_every_target():
    measured = token_statistics_of(NLL, ENTROPY, requires_grad=True)
    TabomObjective(margin=0.25, rank_weight=3.0).terms(measured, corrupted_batch(TARGETS, ORDER))["loss"].backward()
    pair, row = 3.0 / 3 / 2, 1 / 2
    torch.testing.assert_close(measured.entropy.grad, torch.tensor([[0.0, -pair, 2 * pair, -pair], [0.0] * 4]))
    torch.testing.assert_close(
        measured.nll.grad, torch.tensor([[0.0, row / 3, row / 3, row / 3], [row / 2, 0.0, row / 2, 0.0]])
    )


def test_only_the_loss_is_attached():
    measured = token_statistics_of(NLL, ENTROPY, requires_grad=True)
    result = TabomObjective().terms(measured, corrupted_batch(TARGETS, ORDER))
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_rows_without_targets_or_pairs_do_not_count():
    targets = [[True, True], [True, False], [False, False]]
    measured = token_statistics_of([[1.0, 3.0], [7.0, NAN], [NAN, NAN]], [[2.0, 1.0], [1.0, NAN], [NAN, NAN]])
    result = TabomObjective(margin=0.5).terms(measured, corrupted_batch(targets, [[0, 1]] * 3))
    torch.testing.assert_close(result["reconstruction"], torch.tensor(((1.0 + 3.0) / 2 + 7.0) / 2))
    torch.testing.assert_close(result["ranking"], torch.tensor(2.0 - 1.0 + 0.5))


def test_tokens_of_one_rank_form_no_pair():
    result = TabomObjective(margin=0.5).terms(
        token_statistics_of([[1.0, 1.0]], [[2.0, 1.0]]), corrupted_batch([[True, True]], [[4, 4]])
    )
    assert result["ranking"].item() == 0.0


@pytest.mark.parametrize("rank_weight", [0.0, 1.0])
def test_no_target_at_all_gives_a_zero_that_is_still_attached(rank_weight):
    measured = token_statistics_of([[2.0, 4.0]], [[1.0, 2.0]], requires_grad=True)
    result = TabomObjective(rank_weight=rank_weight).terms(measured, corrupted_batch([[False, False]], [[0, 1]]))
    result["loss"].backward()
    assert [result[name].item() for name in ("loss", "reconstruction", "ranking")] == [0.0, 0.0, 0.0]
    assert result["order_agreement"].isfinite()
    assert measured.nll.grad.tolist() == [[0.0, 0.0]]


def test_targets_are_gathered_side_by_side():
    segment = Ranking().segment(token_statistics_of(NLL, ENTROPY), corrupted_batch(TARGETS, ORDER))
    assert segment.entropy.shape == (2, 3)
    assert segment.entropy[0].tolist() == [1.5, 2.0, 1.0]
    assert segment.entropy[1, :2].tolist() == [3.0, 2.0]
    assert segment.is_pair.nonzero().tolist() == [[0, 1, 0], [0, 1, 2], [0, 2, 0], [1, 1, 0]]


@pytest.mark.parametrize("ranking", [Ranking(), Ranking("logistic", skip_inverted=True), Ranking("plackett_luce")])
def test_pairs_and_their_violations_are_computed_once(ranking, monkeypatch):
    calls = Counter()

    def counted(name, function):
        return lambda *args, **options: calls.update([name]) or function(*args, **options)

    for name in ("ordered_pairs", "pair_violation"):
        function = counted(name, getattr(functional_ranking, name))
        for module in (functional_ranking, objectives_ranking):
            monkeypatch.setattr(module, name, function)
    measured = token_statistics_of(NLL, ENTROPY)
    TabomObjective(ranking=ranking).terms(measured, corrupted_batch(TARGETS, ORDER), measured)
    assert calls == Counter(["ordered_pairs"] + ["pair_violation"] * ranking.is_pairwise)


def test_all_targets_of_the_batch_weigh_alike_by_token():
    measured = token_statistics_of(NLL, ENTROPY, requires_grad=True)
    objective = TabomObjective(margin=0.25, rank_weight=3.0, reduction="batch_tokens")
    result = objective.terms(measured, corrupted_batch(TARGETS, ORDER))
    result["loss"].backward()
    torch.testing.assert_close(result["reconstruction"], torch.tensor((1.0 + 2.0 + 6.0 + 5.0 + 8.0) / 5))
    torch.testing.assert_close(result["ranking"], torch.tensor(RANKING))
    torch.testing.assert_close(measured.nll.grad, torch.tensor(TARGETS) / 5)


def test_equal_energies_are_at_the_margin_and_every_pair_is_active():
    measured, corrupted = token_statistics_of(NLL, [[1.0] * 4] * 2), corrupted_batch(TARGETS, ORDER)
    result = TabomObjective(margin=0.25).terms(measured, corrupted)
    assert [result[name].item() for name in ("ranking_over_margin", "active_pairs", "order_agreement")] == [1, 1, 0]


def test_what_is_logged_depends_on_the_settings_alone():
    measured, corrupted = token_statistics_of(NLL, ENTROPY), corrupted_batch(TARGETS, ORDER)

    def names(reference=None, **options):
        return set(TabomObjective(**options).terms(measured, corrupted, reference)) - {"loss", "reconstruction"}

    always = {"ranking", "order_agreement"}
    assert names(margin=0.0) == always | {"active_pairs"}
    assert names(ranking=Ranking(scale_margin_by_gap=True, target="recorded")) == always | {"active_pairs"}
    assert names(ranking=Ranking("logistic")) == always | {"active_pairs"}
    assert names(ranking=Ranking("plackett_luce")) == always
    assert names(ranking=Ranking("entropy_bonus")) == always
    assert names(measured, ranking=Ranking("boltzmann_kl")) == always | {"inverted_under_base"}
    assert names(rank_weight=0.0, ranking=Ranking("boltzmann_kl")) == {"order_agreement"}
    assert names(rank_weight_warmup=Warmup(3)) == always | {"active_pairs", "ranking_over_margin", "rank_weight"}


@pytest.mark.parametrize("reduction", ["trajectories", "batch_tokens"])
@pytest.mark.parametrize(
    "ranking",
    [Ranking(), Ranking(skip_inverted=True), Ranking("plackett_luce"), Ranking("boltzmann_kl")],
    ids=lambda ranking: ranking.surrogate,
)
def test_two_processes_equal_one(ranking, reduction):
    """Rows, targets and pairs are shared out unevenly; every process asks for as many means."""
    targets = [[True, True, True, True], [True, True, False, False], [True, False, False, False]]
    order = [[0, 1, 2, 3], [1, 0, 0, 0], [0, 0, 0, 0]]
    nll, entropy, base_entropy = torch.rand(3, 3, 4, generator=torch.Generator().manual_seed(0)).unbind()

    def terms(rows, mean_over_ranks):
        objective = TabomObjective(ranking=ranking, reduction=reduction)
        objective.mean_over_ranks = mean_over_ranks
        statistics, reference = (token_statistics_of(nll[rows], values[rows]) for values in (entropy, base_entropy))
        return objective.terms(statistics, corrupted_batch(targets[rows], order[rows]), reference)

    parts, asked = (slice(0, 1), slice(1, 3)), ([], [])
    for rows, values in zip(parts, asked, strict=True):
        terms(rows, lambda value, values=values: values.append(value) or value)
    means = [sum(values) / 2 for values in zip(*asked, strict=True)]
    results = []
    for rows in parts:
        answers = iter(means)
        results.append(terms(rows, lambda value, answers=answers: next(answers)))
    together = {name: (results[0][name] + results[1][name]) / 2 for name in results[0]}
    torch.testing.assert_close(together, terms(slice(0, 3), lambda value: value))


@st.composite
def recorded_rows(draw):
    """Per response position: step, recorded entropy, nll and entropy now; per row: where the segment starts."""
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return draw(st.lists(row, min_size=num_rows, max_size=num_rows))

    numbers = st.integers(0, 24).map(lambda n: n / 8)
    starts = draw(st.lists(st.integers(0, length), min_size=num_rows, max_size=num_rows))
    return rows(st.integers(NEVER, 4)), rows(numbers), rows(numbers), rows(numbers), starts


def mean(values):
    return sum(values) / len(values) if values else 0.0


@given(recorded_rows(), st.integers(1, 7), st.sampled_from([0.0, 0.125, 0.5]), st.sampled_from([0.0, 1.0, 2.0]))
def test_equals_the_equations(rows, window, margin, rank_weight):
    """Segment, reconstruction and pairs as plain loops over Definition 1 and Eq. 8-9."""
    steps, recorded, nll, entropy, starts = rows
    reconstructions, rankings = [], []
    for row, start in enumerate(starts):
        keys = [(step, recorded[row][i]) for i, step in enumerate(steps[row])]
        revealed = sorted((i for i, step in enumerate(steps[row]) if step != NEVER), key=lambda i, k=keys: (k[i], i))
        targets = revealed[start : start + window]
        pairs = [(r, s) for r in targets for s in targets if keys[r] < keys[s]]
        if targets:
            reconstructions.append(mean([nll[row][k] for k in targets]))
        if pairs:
            rankings.append(mean([max(0.0, entropy[row][r] - entropy[row][s] + margin) for r, s in pairs]))
    batch = trajectory_batch(steps, entropy=recorded, prompt_length=0)
    corrupted = TrajectorySegments(window).cut(batch, torch.tensor(starts), MASK)
    objective = TabomObjective(window=window, margin=margin, rank_weight=rank_weight)
    result = objective.terms(token_statistics_of(torch.tensor(nll).double(), torch.tensor(entropy).double()), corrupted)
    assert result["reconstruction"].item() == pytest.approx(mean(reconstructions))
    assert result["ranking"].item() == pytest.approx(mean(rankings))
    assert result["loss"].item() == pytest.approx(mean(reconstructions) + rank_weight * mean(rankings))


def batch_with_filler():
    batch = trajectory_batch([[0, 1, 2, 3]] * 60)
    is_filler = torch.zeros_like(batch.is_filler)
    is_filler[:, -1] = True
    return dataclasses.replace(batch, is_filler=is_filler)


def test_filler_can_be_left_out_but_is_masked_all_the_same():
    """Windows are cut from the other tokens, so that all of them are full."""
    batch = batch_with_filler()
    learnt, left_out = (
        TabomObjective(window=2, supervise_padding=flag).corrupt(batch, MASK, row_draws(batch))
        for flag in (True, False)
    )
    assert (learnt.is_target & batch.is_filler).any()
    assert not (left_out.is_target & batch.is_filler).any()
    assert (left_out.noisy_ids[batch.is_filler] == MASK).all()
    assert (left_out.is_target.sum(1) == 2).all()


def test_the_settings_reach_the_segments():
    batch = trajectory_batch([[0, 0, 1, 1]] * 200, entropy=[[0.5, 0.2, 0.1, 0.4]] * 200)

    def drawn(**options):
        return TabomObjective(**options).corrupt(batch, MASK, row_draws(batch))

    def num_targets(**options):
        return set(drawn(**options).is_target.sum(1).tolist())

    assert num_targets(window=3) == {3}
    assert num_targets(window=3, truncated_windows=True) == {1, 2, 3}
    assert num_targets(window=1, window_unit="steps") == {2}
    jumps = drawn(window=1, starts="non_left_to_right").is_target
    assert jumps.any(0).tolist() == [False, False, False, True, False, False]
    orders = {ties: drawn(window=3, ties=ties).order[0, 2:].tolist() for ties in ("entropy", "positional", "unordered")}
    assert orders == {"entropy": [1, 0, 2, 3], "positional": [0, 1, 2, 3], "unordered": [0, 0, 1, 1]}


def test_trace_sft_asks_for_the_tokens_of_a_step_given_the_earlier_ones():
    step = [0, 2, 1, 1, 0, 2]
    batch = trajectory_batch([step] * 30)
    objective = TabomObjective(window=1, window_unit="steps", truncated_windows=True, rank_weight=0.0)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    starts = []
    for is_target, is_masked in zip(
        corrupted.is_target[:, 2:].tolist(), corrupted.is_masked[:, 2:].tolist(), strict=True
    ):
        start = min(s for s, flag in zip(step, is_masked, strict=True) if flag)
        assert is_target == [s == start for s in step]
        assert is_masked == [s >= start for s in step]
        starts.append(start)
    assert set(starts) == {0, 1, 2}


def test_the_defaults_are_the_paper_s():
    defaults = {name: value.default for name, value in inspect.signature(TabomObjective).parameters.items()}
    assert defaults == {
        "window": 32,
        "margin": 0.1,
        "rank_weight": 1.0,
        "truncated_windows": False,
        "window_unit": "tokens",
        "ties": "entropy",
        "supervise_padding": True,
        "starts": "uniform",
        "reduction": "trajectories",
        "ranking": Ranking(),
        "rank_weight_warmup": None,
        "margin_warmup": None,
        "window_warmup": None,
        "tilt": None,
    }
    assert Ranking() == Ranking(surrogate="hinge", energy="entropy", stop_gradient="none", order="observed")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"margin": -0.1}, "margin: expected at least 0, got -0.1"),
        ({"margin": math.nan}, "margin: expected at least 0, got nan"),
        ({"rank_weight": -1.0}, "rank_weight: expected at least 0, got -1.0"),
        ({"window": 0}, "window: expected at least 1, got 0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(TabomError) as error:
        TabomObjective(**options)
    assert str(error.value) == message


def test_zero_margin_and_zero_weight_are_allowed():
    objective = TabomObjective(margin=0.0, rank_weight=0.0)
    assert (objective.margin, objective.rank_weight) == (0.0, 0.0)


def test_a_window_larger_than_the_response_is_an_error():
    objective = TabomObjective(window=9)
    objective.check_response_length(9)
    with pytest.raises(TabomError) as error:
        objective.check_response_length(8)
    assert str(error.value) == "window: expected at most the response length of 8 tokens, got 9"
