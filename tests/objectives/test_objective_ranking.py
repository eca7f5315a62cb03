"""Surrogates of the ranking on whole segments: values and gradients as plain loops, options, controls, refusals."""

import math

import pytest
import torch
from helpers import corrupted_batch, row_draws, token_statistics_of, trajectory_batch
from hypothesis import given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser

from tabom.corruption import TrajectorySegments
from tabom.errors import TabomError
from tabom.objectives import Objective, TabomObjective
from tabom.objectives.ranking import Ranking
from tabom.objectives.schedules import Warmup
from tabom.types import NEVER

MASK = 99
NAN = float("nan")
MARGIN = 0.3

RANKINGS = {
    "hinge": Ranking(),
    "confidence": Ranking(energy="confidence"),
    "earlier": Ranking(stop_gradient="earlier"),
    "later": Ranking(stop_gradient="later"),
    "gap": Ranking(min_gap=0.25, target="recorded"),
    "gap_base": Ranking(min_gap=0.0),
    "scaled": Ranking(scale_margin_by_gap=True, target="recorded"),
    "scaled_base": Ranking(scale_margin_by_gap=True, energy="confidence"),
    "all_pairs": Ranking(pairs="all"),
    "skip": Ranking(skip_inverted=True),
    "skip_confidence": Ranking(energy="confidence", skip_inverted=True),
    "logistic": Ranking("logistic", 3.0),
    "logistic_all": Ranking(
        "logistic",
        target="recorded",
        stop_gradient="later",
        min_gap=0.25,
        scale_margin_by_gap=True,
        skip_inverted=True,
    ),
    "plackett_luce": Ranking("plackett_luce"),
    "plackett_luce_all_pairs": Ranking("plackett_luce", pairs="all"),
    "plackett_luce_confidence": Ranking("plackett_luce", 2.0, energy="confidence"),
    "kl_base": Ranking("boltzmann_kl"),
    "kl_base_all_pairs": Ranking("boltzmann_kl", pairs="all"),
    "kl_base_confidence": Ranking("boltzmann_kl", 2.0, energy="confidence"),
    "kl_recorded": Ranking("boltzmann_kl", 2.0, target="recorded"),
    "entropy_bonus": Ranking("entropy_bonus"),
    "confidence_bonus": Ranking("entropy_bonus", energy="confidence"),
}


@st.composite
def segments(draw):
    """Steps with ties and positions never decoded, blocks, entropies recorded with gaps, now and of the base."""
    num_rows, length = draw(st.integers(1, 3)), draw(st.integers(1, 6))

    def rows(elements):
        row = st.lists(elements, min_size=length, max_size=length)
        return draw(st.lists(row, min_size=num_rows, max_size=num_rows))

    eighths = st.integers(0, 12).map(lambda n: n / 8)
    starts = draw(st.lists(st.integers(0, length), min_size=num_rows, max_size=num_rows))
    steps, recorded = rows(st.integers(NEVER, 4)), rows(eighths | st.just(NAN))
    window, unit = draw(st.integers(1, 7)), draw(st.sampled_from(["tokens", "steps"]))
    return steps, recorded, rows(st.integers(0, 9)), rows(eighths), starts, window, unit, draw(st.integers(1, length))


def boltzmann(energies, beta):
    weights = {k: math.exp(-beta * energy) for k, energy in energies.items()}
    return {k: weight / sum(weights.values()) for k, weight in weights.items()}


def of_pairs(ranking, pairs, energy, margin_of):
    value, gradient, beta = 0.0, [0.0] * len(energy), ranking.inverse_temperature
    for r, s in pairs:
        x = energy[r] - energy[s] + margin_of(r, s)
        if ranking.surrogate == "hinge":
            term, slope = max(0.0, x), float(x > 0)
        else:
            term, slope = math.log(1 + math.exp(beta * x)) / beta, 1 / (1 + math.exp(-beta * x))
        value += term / len(pairs)
        gradient[r] += slope / len(pairs) * (ranking.stop_gradient != "earlier")
        gradient[s] -= slope / len(pairs) * (ranking.stop_gradient != "later")
    return value, gradient


def of_draws(pairs, energy, beta):
    value, gradient, first = 0.0, [0.0] * len(energy), {r for r, _ in pairs}
    for r in first:
        chance = boltzmann({r: energy[r]} | {s: energy[s] for q, s in pairs if q == r}, beta)
        value -= math.log(chance[r]) / beta / len(first)
        for s, p in chance.items():
            gradient[s] += ((s == r) - p) / len(first)
    return value, gradient


def of_divergence(aim, energy, beta):
    target, model = boltzmann(aim, beta), boltzmann({k: energy[k] for k in aim}, beta)
    value = sum(target[k] * math.log(target[k] / model[k]) for k in aim) / beta
    return value, [(target[k] - model[k]) if k in aim else 0.0 for k in range(len(energy))]


def of_blocks(blocks, energy, beta):
    """Mean over the blocks, of which each has a distribution of its own."""
    found = [of_divergence(aim, energy, beta) for aim in blocks if len(aim) >= 2]
    if not found:
        return None
    return sum(value for value, _ in found) / len(found), [
        sum(g) / len(found) for g in zip(*(g for _, g in found), strict=True)
    ]


def of_row(ranking, block_length, is_target, order, energy, base, recorded):
    """Loss and gradient of a row; None where it says nothing."""
    targets = [k for k, asked in enumerate(is_target) if asked]
    block = [k // block_length if ranking.pairs == "compared" else 0 for k in range(len(order))]

    def gap(r, s):
        aim = base if ranking.target == "base" else recorded
        difference = aim[s] - aim[r]
        return 0.0 if math.isnan(difference) else difference

    if ranking.surrogate == "entropy_bonus":
        share = [-asked / len(targets) if targets else 0.0 for asked in is_target]
        return (sum(energy[k] * share[k] for k in targets), share) if targets else None
    if ranking.surrogate == "boltzmann_kl":
        aim = base if ranking.target == "base" else recorded
        known = [k for k in targets if not math.isnan(aim[k])]
        blocks = [{k: aim[k] for k in known if block[k] == number} for number in range(len(order))]
        return of_blocks(blocks, energy, ranking.inverse_temperature)
    pairs = [(r, s) for r in targets for s in targets if order[r] < order[s] and block[r] == block[s]]
    pairs = [(r, s) for r, s in pairs if ranking.min_gap is None or gap(r, s) >= ranking.min_gap]
    pairs = [(r, s) for r, s in pairs if not (ranking.skip_inverted and base[r] >= base[s])]
    if not pairs:
        return None
    if ranking.surrogate == "plackett_luce":
        return of_draws(pairs, energy, ranking.inverse_temperature)
    return of_pairs(ranking, pairs, energy, lambda r, s: MARGIN * (gap(r, s) if ranking.scale_margin_by_gap else 1.0))


@pytest.mark.parametrize("ranking", RANKINGS.values(), ids=RANKINGS)
@given(segment=segments())
def test_value_and_gradient_equal_the_loops(ranking, segment):
    """Energies are such that no difference is at the kink of a hinge."""
    steps, recorded, thirds, base_energy, starts, window, unit, block_length = segment
    batch = trajectory_batch(steps, entropy=recorded, prompt_length=0, block_length=block_length)
    corrupted = TrajectorySegments(window, window_unit=unit).cut(batch, torch.tensor(starts), MASK)
    energy = torch.tensor(thirds).double() / 3 + torch.arange(len(steps[0])) / 100
    base_energy = torch.tensor(base_energy).double()
    rows = zip(*(x.tolist() for x in (corrupted.is_target, corrupted.order, energy)), strict=True)
    rest = zip(base_energy.tolist(), recorded, strict=True)
    found = [of_row(ranking, block_length, *row, *more) for row, more in zip(rows, rest, strict=True)]
    num_rows = max(1, sum(result is not None for result in found))
    sign = 1 if ranking.energy == "entropy" else -1

    def measured(values):
        columns = {ranking.energy: torch.where(corrupted.is_target, sign * values, NAN)}
        return token_statistics_of(torch.zeros_like(values), **columns, requires_grad=True)

    statistics = measured(energy)
    margin = MARGIN if ranking.is_pairwise else 0.1
    objective = TabomObjective(margin=margin, rank_weight=2.0, ranking=ranking)
    reference = measured(base_energy) if objective.needs_reference else None
    result = objective.terms(statistics, corrupted, reference)
    (gradient,) = torch.autograd.grad(result["loss"], getattr(statistics, ranking.energy))
    expected = torch.tensor([row[1] if row else [0.0] * energy.shape[1] for row in found], dtype=torch.float64)
    assert result["ranking"].item() == pytest.approx(sum(row[0] for row in found if row) / num_rows, abs=1e-9)
    assert result["loss"].item() == 2 * result["ranking"].item()
    torch.testing.assert_close(gradient, 2 * sign * expected / num_rows, rtol=0, atol=1e-9)


TARGETS = [[True, True, True, True]]
ORDER = [[0, 1, 2, 3]]
ENTROPY = [[1.0, 2.0, 1.5, 0.5]]
BASE = [[1.0, 1.0, 2.0, 3.0]]
RECORDED = [[0.0, 0.25, NAN, 1.0]]


def terms(**options):
    ranking = Ranking(**options)
    objective = TabomObjective(margin=0.5 if ranking.is_pairwise else 0.1, ranking=ranking)
    corrupted = corrupted_batch(TARGETS, ORDER, recorded_entropy=RECORDED)
    reference = token_statistics_of(BASE, BASE) if objective.needs_reference else None
    return objective.terms(token_statistics_of(ENTROPY, ENTROPY), corrupted, reference)


def test_options_of_the_pairs_by_hand():
    """Differences: 01 -1, 02 -.5, 03 +.5, 12 +.5, 13 +1.5, 23 +1; recorded gaps .25, none, 1, none, .75, none.

    The base's gaps: 01 0, 02 1, 03 2, 12 1, 13 2, 23 1.
    """
    assert terms()["ranking"].item() == pytest.approx((0 + 0 + 1.0 + 1.0 + 2.0 + 1.5) / 6)
    assert terms(min_gap=0.5, target="recorded")["ranking"].item() == pytest.approx((1.0 + 2.0) / 2)
    scaled = (0 + 0 + (0.5 + 0.5 * 1) + 0.5 + (1.5 + 0.5 * 0.75) + 1.0) / 6
    assert terms(scale_margin_by_gap=True, target="recorded")["ranking"].item() == pytest.approx(scaled)
    scaled = (0 + 0 + (0.5 + 0.5 * 2) + (0.5 + 0.5 * 1) + (1.5 + 0.5 * 2) + (1.0 + 0.5 * 1)) / 6
    assert terms(scale_margin_by_gap=True)["ranking"].item() == pytest.approx(scaled)
    assert terms(min_gap=2.0)["ranking"].item() == pytest.approx((1.0 + 2.0) / 2)
    assert terms(skip_inverted=True)["ranking"].item() == pytest.approx((0 + 1.0 + 1.0 + 2.0 + 1.5) / 5)


@pytest.mark.parametrize("target", ["recorded", "base"])
def test_a_pair_that_the_target_contradicts_is_not_asked_most(target):
    """The largest contradiction is left out by a gap of 0, and scaled it is asked for less than nothing."""
    corrupted = corrupted_batch([[True, True]], [[0, 1]], recorded_entropy=[[2.0, 0.0]])
    reference = token_statistics_of([[2.0, 0.0]], [[2.0, 0.0]])

    def ranking(**options):
        objective = TabomObjective(margin=0.5, ranking=Ranking(target=target, **options))
        return objective.terms(token_statistics_of([[1.0, 0.5]], [[1.0, 0.5]]), corrupted, reference)["ranking"].item()

    assert ranking(min_gap=0.0) == 0.0
    assert ranking(scale_margin_by_gap=True) == pytest.approx(max(0.0, 0.5 - 0.5 * 2))


def test_shares_by_hand():
    """All pairs in order_agreement and inverted_under_base, those that are ranked in active_pairs."""
    names = ("order_agreement", "active_pairs", "inverted_under_base")

    def shares(**options):
        result = terms(**options)
        return [pytest.approx(result[name].item()) if name in result else None for name in names]

    assert shares() == [2 / 6, 4 / 6, None]
    assert shares(min_gap=0.2, target="recorded") == [2 / 6, 2 / 3, None]
    assert shares(skip_inverted=True) == [2 / 6, 4 / 5, 1 / 6]
    assert shares(surrogate="boltzmann_kl") == [2 / 6, None, 1 / 6]


def test_who_needs_the_base():
    needing = {name for name, ranking in RANKINGS.items() if ranking.needs_reference}
    assert needing == {
        "gap_base",
        "kl_base",
        "kl_base_all_pairs",
        "kl_base_confidence",
        "logistic_all",
        "scaled_base",
        "skip",
        "skip_confidence",
    }
    assert not TabomObjective(rank_weight=0.0, ranking=RANKINGS["skip"]).needs_reference
    assert TabomObjective(rank_weight=0.0, rank_weight_warmup=Warmup(9, 1.0), ranking=RANKINGS["skip"]).needs_reference


def test_a_missing_base_is_an_error():
    objective = TabomObjective(ranking=Ranking("boltzmann_kl"))
    with pytest.raises(TabomError) as error:
        objective.terms(token_statistics_of(ENTROPY, ENTROPY), corrupted_batch(TARGETS, ORDER))
    assert str(error.value) == (
        "reference: expected statistics of the base model, which ranking boltzmann_kl compares with, got none"
    )


def corrupt(order, batch):
    draws = row_draws(batch)
    return TabomObjective(window=3, ranking=Ranking(order=order)).corrupt(batch, MASK, draws), draws


def test_the_observed_order_draws_nothing_and_the_reversed_one_is_its_mirror():
    batch = trajectory_batch([[2, 0, 1, 1, NEVER]] * 4)
    observed, draws = corrupt("observed", batch)
    backwards, same_draws = corrupt("reversed", batch)
    once = row_draws(batch)
    once.per_row()
    assert draws.per_row().tolist() == same_draws.per_row().tolist() == once.per_row().tolist()
    assert torch.equal(backwards.order, -observed.order)
    assert torch.equal(backwards.is_target, observed.is_target)


def test_the_shuffled_order_is_that_of_a_random_target_of_the_row():
    """Every row asks for the same three of four; two of these are tied."""
    batch = trajectory_batch([[2, 0, 1, NEVER, 1]] * 300)
    observed, _ = corrupt("observed", batch)
    shuffled, _ = corrupt("shuffled", batch)
    again, _ = corrupt("shuffled", batch)
    assert torch.equal(shuffled.order, again.order)
    assert torch.equal(shuffled.noisy_ids, observed.noisy_ids)
    assert torch.equal(shuffled.order[~shuffled.is_target], observed.order[~observed.is_target])
    starts_late = observed.is_target[:, 2]
    rows = shuffled.order[starts_late][shuffled.is_target[starts_late]].reshape(-1, 3)
    counts = rows.unique(dim=0, return_counts=True)
    assert counts[0].tolist() == [[1, 1, 2], [1, 2, 1], [2, 1, 1]]
    assert counts[1].min() > starts_late.sum() / 3 * 0.6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inverse_temperature": 0.0}, "inverse_temperature: expected above 0, got 0.0"),
        ({"inverse_temperature": math.nan}, "inverse_temperature: expected above 0, got nan"),
        ({"min_gap": -1.0}, "min_gap: expected at least 0, got -1.0"),
        (
            {"inverse_temperature": 3.0},
            "inverse_temperature: expected 5.0 with surrogate hinge, which ignores it, got 3.0",
        ),
        ({"target": "recorded"}, "target: expected base with surrogate hinge that uses no gap, got recorded"),
        (
            {"surrogate": "plackett_luce", "stop_gradient": "later"},
            "stop_gradient: expected none with surrogate plackett_luce, which ignores it, got later",
        ),
        (
            {"surrogate": "plackett_luce", "min_gap": 0.1},
            "min_gap: expected None with surrogate plackett_luce, which ignores it, got 0.1",
        ),
        (
            {"surrogate": "boltzmann_kl", "scale_margin_by_gap": True},
            "scale_margin_by_gap: expected False with surrogate boltzmann_kl, which ignores it, got True",
        ),
        (
            {"surrogate": "boltzmann_kl", "skip_inverted": True},
            "skip_inverted: expected False with surrogate boltzmann_kl, which ignores it, got True",
        ),
        (
            {"surrogate": "entropy_bonus", "order": "shuffled"},
            "order: expected observed with surrogate entropy_bonus, which ignores it, got shuffled",
        ),
        (
            {"surrogate": "entropy_bonus", "pairs": "all"},
            "pairs: expected compared with surrogate entropy_bonus, which ignores it, got all",
        ),
        (
            {"surrogate": "boltzmann_kl", "target": "recorded", "energy": "confidence"},
            "energy: expected entropy with target recorded, got confidence",
        ),
    ],
    ids=str,
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(TabomError) as error:
        Ranking(**options)
    assert str(error.value) == f"ranking.{message}"


def test_it_is_configured_by_nested_options():
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(Objective, "objective")
    options = (
        "--objective=TabomObjective",
        "--objective.ranking.surrogate=logistic",
        "--objective.ranking.min_gap=0.1",
        "--objective.rank_weight_warmup.num_steps=20",
        '--objective.window_warmup={"num_steps": 5, "start": 4, "shape": "cosine"}',
    )
    config = parser.parse_args(options)
    objective = parser.instantiate(config).objective
    assert objective.ranking == Ranking("logistic", min_gap=0.1)
    assert objective._rank_weight_warmup == Warmup(20)
    assert objective._window_warmup == Warmup(5, 4.0, "cosine")
    assert objective._margin_warmup is None


def test_who_needs_recorded_entropies():
    needing = {name for name, ranking in RANKINGS.items() if TabomObjective(ranking=ranking).needs_recorded_entropy}
    assert needing == {name for name, ranking in RANKINGS.items() if ranking.target == "recorded"}
    assert needing
    assert not TabomObjective(rank_weight=0.0, ranking=RANKINGS[min(needing)]).needs_recorded_entropy
