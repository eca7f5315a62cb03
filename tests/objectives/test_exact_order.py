"""The sampler's choice among everything it could have revealed: against plain loops, and its limits."""

import dataclasses
import math

import pytest
import torch
from helpers import row_draws, token_statistics_of, trajectory_batch

from tabom.corruption import TrajectoryChoices
from tabom.errors import TabomError
from tabom.functional.ranking import energies
from tabom.functional.unmasking import dense_steps
from tabom.objectives import ExactOrderObjective, TabomObjective
from tabom.types import NEVER

MASK = 99
NAN = float("nan")
BETA = 1.7


def random_batch(seed, num_rows=5, length=9, block_length=None):
    """Several tokens per step, repeated and missing entropies, positions never revealed, filler; block after block."""
    generator = torch.Generator().manual_seed(seed)
    shape = (num_rows, length)
    step = torch.randint(NEVER, 6, shape, generator=generator)
    step[:, 0] = step[:, 0].clamp(min=0)
    if block_length is not None:
        step = torch.where(step == NEVER, NEVER, step + 6 * (torch.arange(length) // block_length))
    step = dense_steps(step, where=torch.ones(shape, dtype=torch.bool))
    entropy = torch.randint(0, 4, shape, generator=generator).double() / 2
    entropy[torch.rand(shape, generator=generator) < 0.1] = NAN
    batch = trajectory_batch(step.tolist(), entropy=entropy.tolist(), block_length=block_length)
    is_filler = batch.is_filler.clone()
    for row in range(num_rows):
        is_filler[row, 5 + row :] = True
    return dataclasses.replace(batch, is_filler=is_filler)


def random_statistics(shape, seed):
    generator = torch.Generator().manual_seed(seed)
    nll, entropy, confidence, divergence = (
        torch.rand(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(4)
    )
    return token_statistics_of(nll)._replace(nll=nll, entropy=entropy, confidence=confidence, divergence=divergence)


def fixed(statistics):
    """Without a gradient."""
    return type(statistics)(*(None if values is None else values.detach() for values in statistics))


def energy_of(statistics, kind, row, place):
    if kind == "entropy":
        return statistics.entropy[row, place]
    confidence = statistics.confidence[row, place]
    return -confidence if kind == "confidence" else torch.log((1 - confidence) / confidence)


def mean(values):
    return torch.stack(values).mean() if values else torch.zeros((), dtype=torch.float64)


def draws_of(batch, corrupted, row, supervise_padding):
    """What the next step revealed, each with what is drawn from: itself and what comes strictly later."""
    step, entropy = batch.unmask_step[row].tolist(), batch.unmask_entropy[row].tolist()
    is_masked = corrupted.is_masked[row].tolist()
    open_places = [k for k, flag in enumerate(is_masked) if flag and (supervise_padding or not batch.is_filler[row, k])]
    revealed = [k for k in open_places if step[k] != NEVER]
    if not revealed:
        return [], []
    now = min(step[k] for k in revealed)
    chosen = [k for k in revealed if step[k] == now]
    if batch.block is not None:
        current = batch.block[row, chosen[0]]
        open_places = [k for k in open_places if batch.block[row, k] == current]
    tied = any(math.isnan(entropy[k]) for k in range(len(step)) if step[k] == now and batch.is_response[row, k])
    later = {k: [s for s in open_places if s not in chosen] for k in chosen}
    if not tied:
        for k in chosen:
            later[k] += [s for s in chosen if entropy[s] > entropy[k]]
    return [(k, [k, *later[k]]) for k in chosen if later[k]], revealed


def oracle(objective, batch, corrupted, model, reference):
    reconstruction, ranking = [], []
    for row in range(len(corrupted.is_masked)):
        step = batch.unmask_step[row].tolist()
        draws, to_come = draws_of(batch, corrupted, row, objective.supervise_padding)
        steps = sorted({step[k] for k in to_come})[: objective.window]
        asked = [k for k in to_come if step[k] in steps]
        if asked:
            reconstruction.append(mean([model.nll[row, k] for k in asked]))
        values = []
        for chosen, drawn in draws:
            scores = {k: -objective.inverse_temperature * energy_of(model, objective.energy, row, k) for k in drawn}
            total = torch.logsumexp(torch.stack(list(scores.values())), 0)
            if objective.rank_tilt is None:
                values.append(total - scores[chosen])
                continue
            mass = {
                k: math.exp(
                    -objective.inverse_temperature * float(energy_of(reference, objective.energy, row, k))
                    + (objective.rank_tilt if k == chosen else 0.0)
                )
                for k in drawn
            }
            q = {k: m / sum(mass.values()) for k, m in mass.items()}
            values.append(sum(q[k] * (math.log(q[k]) - (scores[k] - total)) for k in drawn))
        if values:
            ranking.append(mean(values) / objective.inverse_temperature)
    return mean(reconstruction) + objective.rank_weight * mean(ranking), mean(reconstruction), mean(ranking)


@pytest.mark.parametrize("supervise_padding", [True, False])
@pytest.mark.parametrize("rank_tilt", [None, 0.8])
@pytest.mark.parametrize("energy", ["entropy", "confidence", "log_odds"])
def test_values_and_gradients_are_those_of_loops(energy, rank_tilt, supervise_padding):
    num_choices = 0
    for seed in range(8):
        objective = ExactOrderObjective(
            window=1 + seed % 3,
            rank_weight=0.7,
            inverse_temperature=BETA,
            energy=energy,
            rank_tilt=rank_tilt,
            truncated_windows=True,
            supervise_padding=supervise_padding,
        )
        batch = random_batch(seed, block_length=None if seed % 2 else 2 + seed // 2)
        corrupted = objective.corrupt(batch, MASK, row_draws(batch, seed))
        shape = corrupted.is_target.shape
        model, reference = random_statistics(shape, seed), fixed(random_statistics(shape, 100 + seed))
        result = objective.terms(model, corrupted, reference)
        loss, reconstruction, ranking = oracle(objective, batch, corrupted, model, reference)
        torch.testing.assert_close(result["loss"], loss)
        torch.testing.assert_close(result["reconstruction"], reconstruction.detach())
        torch.testing.assert_close(result["ranking"], ranking.detach())
        inputs = [model.nll, model.entropy, model.confidence]
        gradients, wanted = (torch.autograd.grad(v, inputs, allow_unused=True) for v in (result["loss"], loss))
        for got, want in zip(gradients, wanted, strict=True):
            assert (got is None) == (want is None)
            if got is not None:
                torch.testing.assert_close(got, want)
                assert not got[~corrupted.is_target].any()
        num_choices += int(ranking > 0)
        assert [name for name, value in result.items() if value.requires_grad] == ["loss"]
    assert num_choices > 4


def choices_of(orders, window=1, **options):
    batch = trajectory_batch(orders, **options)
    choices = TrajectoryChoices(window, truncated_windows=True, supervise_padding=True)
    return batch, choices(batch, MASK, row_draws(batch, 3))


def test_at_one_token_per_step_it_is_the_probability_of_the_choice():
    """By hand: exp(-2 * 0.5) against exp(-2 * 1.0) and exp(-2 * 2.0)."""
    objective = ExactOrderObjective(window=1, inverse_temperature=2.0, truncated_windows=True)
    batch = trajectory_batch([[1, 0, 2]] * 40)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    start = int(corrupted.is_candidate.sum(1).eq(3).nonzero()[0])
    row = corrupted.select([start])
    entropy = [[NAN, NAN, 1.0, 0.5, 2.0]]
    result = objective.terms(token_statistics_of([[NAN, NAN, NAN, 3.0, NAN]], entropy), row)
    share = math.exp(-1.0) / (math.exp(-1.0) + math.exp(-2.0) + math.exp(-4.0))
    assert result["ranking"].item() == pytest.approx(-math.log(share) / 2)
    assert result["reconstruction"].item() == 3.0
    assert result["order_agreement"].item() == 1.0


def test_a_state_is_one_that_decoding_was_in():
    """Two tokens per step: never between the two; all masked positions are candidates, the next step's are targets."""
    orders = [[0, 0, 1, 1, 2, 2]] * 30
    batch, corrupted = choices_of(orders, entropy=[[0.2, 0.1, 0.2, 0.1, 0.2, 0.1]] * 30)
    num_masked = corrupted.is_masked.sum(1)
    assert set(num_masked.tolist()) == {2, 4, 6}
    assert torch.equal(corrupted.is_candidate, corrupted.is_masked)
    now = batch.unmask_step.masked_fill(~corrupted.is_masked, 9).amin(1, keepdim=True)
    assert torch.equal(corrupted.token_weight > 0, corrupted.is_masked & (batch.unmask_step == now))


def test_only_the_block_that_is_decoded_has_candidates_and_a_window_goes_on_behind_it():
    _, corrupted = choices_of([[1, 0, 2, 3]] * 40, window=3, block_length=2)
    starts = corrupted.is_masked[:, 2:].sum(1)
    expected = {
        4: ([True, True, False, False], [True, True, True, False]),
        3: ([True, False, False, False], [True, False, True, True]),
        2: ([False, False, True, True], [False, False, True, True]),
        1: ([False, False, False, True], [False, False, False, True]),
    }
    assert set(starts.tolist()) == set(expected)
    for row, start in enumerate(starts.tolist()):
        candidates, asked = expected[start]
        assert corrupted.is_candidate[row, 2:].tolist() == candidates
        assert (corrupted.token_weight[row, 2:] > 0).tolist() == asked
        assert corrupted.is_target[row, 2:].tolist() == [a or b for a, b in zip(candidates, asked, strict=True)]


def test_what_was_never_revealed_is_a_candidate_and_no_target():
    _, corrupted = choices_of([[0, NEVER, 1]] * 20)
    assert (corrupted.is_candidate[:, 3] & corrupted.is_target[:, 3]).all()
    assert not corrupted.token_weight[:, 3].any()


def test_a_window_at_the_end_of_a_block_reaches_no_further_than_it_is_long():
    with pytest.raises(TabomError) as error:
        ExactOrderObjective(window=8).check_response_length(7)
    assert str(error.value) == "window: expected at most the response length of 7 tokens, got 8"


def test_reconstruction_is_that_of_trajectory_masking_in_steps():
    batch = random_batch(3)
    exact, masking = (
        ExactOrderObjective(window=2, rank_weight=0.0, truncated_windows=True),
        TabomObjective(window=2, rank_weight=0.0, truncated_windows=True, window_unit="steps"),
    )
    first, second = (objective.corrupt(batch, MASK, row_draws(batch, 1)) for objective in (exact, masking))
    assert torch.equal(first.noisy_ids, second.noisy_ids)
    assert torch.equal(first.token_weight > 0, second.is_target)
    statistics = random_statistics(batch.clean_ids.shape, 0)
    torch.testing.assert_close(exact.terms(statistics, first)["loss"], masking.terms(statistics, second)["loss"])


def test_a_large_tilt_of_the_choice_is_the_choice_alone_and_none_is_the_reference():
    batch, values = random_batch(1), {}
    for rank_tilt in (None, 0.0, 200.0):
        objective = ExactOrderObjective(window=2, truncated_windows=True, rank_tilt=rank_tilt)
        corrupted = objective.corrupt(batch, MASK, row_draws(batch, 1))
        shape = corrupted.is_target.shape
        model, reference = random_statistics(shape, 0), random_statistics(shape, 1)
        values[rank_tilt] = objective.terms(model, corrupted, reference)["ranking"]
        at_reference = objective.terms(reference, corrupted, reference)["ranking"]
        assert (at_reference.abs() < 1e-12) == (rank_tilt == 0.0)
    torch.testing.assert_close(values[200.0], values[None])
    assert values[0.0] < values[None]


def test_weights_and_advantages_of_rows():
    """Only what did better than its query on average is an example; its weight is that of its part of the loss."""
    batch = random_batch(1)
    objective = ExactOrderObjective(window=2, truncated_windows=True, inverse_temperature=BETA)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch, 1))
    model = random_statistics(corrupted.is_target.shape, 0)
    rows = [
        objective.terms(type(model)(*(None if v is None else v[[row]] for v in model)), corrupted.select([row]))
        for row in range(5)
    ]
    has_choice = torch.tensor([bool(row["ranking"] > 0) for row in rows])
    reconstruction, ranking = (torch.stack([row[name] for row in rows]) for name in ("reconstruction", "ranking"))
    weight, advantage = torch.tensor([0.0, 1.0, 3.0, 1.0, 0.0]), torch.tensor([0.5, -0.5, 0.5, 0.0, 0.5])
    weighted = objective.corrupt(dataclasses.replace(batch, row_weight=weight), MASK, row_draws(batch, 1))
    assert has_choice[[0, 2]].all()
    expected = (weight * reconstruction).mean() + (weight * ranking)[has_choice].mean()
    torch.testing.assert_close(objective.terms(model, weighted)["loss"].detach(), expected)
    compared = objective.corrupt(dataclasses.replace(batch, advantage=advantage), MASK, row_draws(batch, 1))
    expected = ranking[has_choice & (advantage > 0)].mean()
    torch.testing.assert_close(objective.terms(model, compared)["ranking"], expected)


def test_log_odds_order_like_the_confidence_and_do_not_saturate():
    confidence = torch.tensor([0.0, 1e-30, 0.5, 0.9999, 0.99999, 1 - 2**-24, 1.0], requires_grad=True)
    statistics = token_statistics_of(torch.zeros(7))._replace(confidence=confidence)
    odds = energies(statistics, "log_odds")
    (gradient,) = torch.autograd.grad(odds.sum(), confidence)
    assert odds.isfinite().all()
    assert gradient.isfinite().all()
    assert (odds.diff()[1:5] < 0).all()
    assert odds[3].item() == pytest.approx(math.log(1e-4 / 0.9999), abs=1e-3)
    assert odds[-1].item() == pytest.approx(math.log(2**-24), abs=1e-3)


def test_no_target_at_all_gives_a_zero_that_is_still_attached():
    objective = ExactOrderObjective(window=1, truncated_windows=True, rank_tilt=1.0, supervise_padding=False)
    batch = trajectory_batch([[0, 1], [1, 0]])
    batch = dataclasses.replace(batch, is_filler=batch.is_response)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    assert not corrupted.is_target.any()
    model = random_statistics(corrupted.is_target.shape, 0)
    result = objective.terms(model, corrupted, model)
    result["loss"].backward()
    assert [value.item() for value in result.values()] == [0.0] * 4
    assert not model.entropy.grad.any()


def test_what_is_missing_is_an_error():
    objective = ExactOrderObjective(window=1, rank_tilt=1.0)
    assert objective.needs_reference
    assert not ExactOrderObjective().needs_reference
    batch = random_batch(0)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    model = random_statistics(corrupted.is_target.shape, 0)
    with pytest.raises(TabomError, match=r"^rank_tilt: expected statistics of a reference model, got none$"):
        objective.terms(model, corrupted)
    with pytest.raises(TabomError, match=r"^is_candidate: expected the candidates"):
        objective.terms(model, dataclasses.replace(corrupted, is_candidate=None), model)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank_tilt": -1.0}, "rank_tilt: expected at least 0, got -1.0"),
        ({"tilt": -1.0}, "tilt: expected at least 0, got -1.0"),
        ({"rank_weight": -1.0}, "rank_weight: expected at least 0, got -1.0"),
        ({"inverse_temperature": 0.0}, "inverse_temperature: expected above 0, got 0.0"),
        ({"window": 0}, "window: expected at least 1, got 0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(TabomError) as error:
        ExactOrderObjective(**options)
    assert str(error.value) == message
