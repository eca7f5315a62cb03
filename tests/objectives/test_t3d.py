"""T3D: values and gradients against plain loops over the equations, and the states it trains on."""

import dataclasses
import inspect
import math

import pytest
import torch
from helpers import row_draws, token_statistics_of, trajectory_batch

from tabom.errors import TabomError
from tabom.objectives.t3d import T3DObjective
from tabom.types import NEVER

MASK = 99
NAN = float("nan")
FORMS = ("rank_weighted", "prefix_levels")
STATES = ("uniform", "mostly_masked", "one_block")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_batch(seed, num_rows=4, length=11, prompt_length=2):
    """Several tokens per step, repeated and missing entropies, positions never revealed, short rows, filler."""
    generator = seeded(seed)
    shape = (num_rows, length)
    step = torch.randint(NEVER, 6, shape, generator=generator)
    step[:, 0] = step[:, 0].clamp(min=0)
    entropy = torch.randint(0, 3, shape, generator=generator).double() / 2
    entropy[torch.rand(shape, generator=generator) < 0.1] = NAN
    batch = trajectory_batch(step.tolist(), entropy=entropy.tolist(), prompt_length=prompt_length)
    is_response, is_filler = batch.is_response.clone(), batch.is_filler.clone()
    for row in range(num_rows):
        num_tokens = int(torch.randint(1, length + 1, (), generator=generator))
        is_response[row, prompt_length + num_tokens :] = False
        is_filler[row, prompt_length + 1 + row :] = True
    is_filler &= is_response
    return dataclasses.replace(
        batch, is_response=is_response, is_filler=is_filler, attention_mask=is_response | ~is_response.cummax(1).values
    )


def random_statistics(shape, seed):
    """Of the model, with gradients, and of the reference."""
    values = [3 * torch.rand(shape, generator=seeded(seed + i), dtype=torch.float64) for i in range(4)]
    nll, sampled = values[0].requires_grad_(), values[1].requires_grad_()
    model = token_statistics_of(nll)._replace(nll=nll, sampled_nll=sampled)
    return model, token_statistics_of(values[2])._replace(sampled_nll=values[3])


def minus_log_sigmoid(x):
    return -torch.log(1 / (1 + torch.exp(-x)))


def mean(values):
    return torch.stack(values).mean() if values else torch.zeros((), dtype=torch.float64)


def decoding_keys(batch, row):
    """What came first by Definition 1; what was never revealed comes last."""
    steps, entropies = batch.unmask_step[row].tolist(), batch.unmask_entropy[row].tolist()
    places = [i for i, is_in in enumerate(batch.is_response[row].tolist()) if is_in]
    incomplete = {steps[i] for i in places if math.isnan(entropies[i])}
    return {
        i: (math.inf, 0.0) if steps[i] == NEVER else (steps[i], 0.0 if steps[i] in incomplete else entropies[i])
        for i in places
    }


def path_loss(objective, batch, row, asked, nll):
    keys = decoding_keys(batch, row)
    places = sorted(keys)
    length = objective.block_length or len(places)
    blocks = [places[start : start + length] for start in range(0, len(places), length)]
    ranks = {i: sum(keys[j] < keys[i] for j in block) for block in blocks for i in block}
    sizes = {i: len(block) for block in blocks for i in block}
    if objective.path == "rank_weighted":
        return mean([(sizes[i] - (ranks[i] + 1) + 1) / sizes[i] * nll[row, i] for i in asked])
    levels = []
    for s in range(1, math.ceil(max(sizes.values()) / objective.path_tokens) + 1):
        level = [nll[row, i] for i in asked if ranks[i] < s * objective.path_tokens]
        levels += [mean(level)] if level else []
    return mean(levels)


def oracle(objective, batch, corrupted, model, reference, *, one_block):
    """All terms by loops."""
    is_masked = corrupted.is_masked
    real, fake, path, reconstruction, ratios = [], [], [], [], []
    for row in range(len(is_masked)):
        revealed = [i for i, key in decoding_keys(batch, row).items() if key[0] != math.inf]
        if not objective.supervise_padding:
            revealed = [i for i in revealed if not batch.is_filler[row, i]]
        if one_block:
            places = [i for i, is_in in enumerate(batch.is_response[row].tolist()) if is_in]
            length = objective.block_length or len(places)
            last = max(i for i in places if corrupted.attention_mask[row, i])
            current = (last - places[0]) // length
            revealed = [i for i in revealed if (i - places[0]) // length == current]
        masked = [i for i in revealed if is_masked[row, i]]
        if masked:
            ratio = mean([reference.nll[row, i] - model.nll[row, i] for i in masked])
            fake_ratio = mean([reference.sampled_nll[row, i] - model.sampled_nll[row, i] for i in masked])
            real.append(minus_log_sigmoid(objective.beta * ratio))
            fake.append(-objective.fake_weight * torch.log(1 - 1 / (1 + torch.exp(-objective.beta * fake_ratio))))
            reconstruction.append(mean([model.nll[row, i] for i in masked]))
            ratios.append(ratio)
        asked = revealed if objective.path == "prefix_levels" else masked
        if asked:
            path.append(path_loss(objective, batch, row, asked, model.nll))
    terms = {"real": mean(real), "fake": mean(fake), "path": mean(path)}
    loss = terms["real"] + terms["fake"] + objective.path_weight * terms["path"]
    return {"loss": loss, **terms, "reconstruction": mean(reconstruction), "log_ratio": mean(ratios)}


@pytest.mark.parametrize("supervise_padding", [True, False])
@pytest.mark.parametrize("states", STATES)
@pytest.mark.parametrize("path", FORMS)
def test_values_and_gradients_are_those_of_the_equations(path, states, supervise_padding):
    for seed, block_length in enumerate([3, 4, 8, None] * 5):
        objective = T3DObjective(
            beta=0.7,
            fake_weight=0.4,
            path_weight=1.3,
            path=path,
            path_tokens=1 + seed % 3 if path == "prefix_levels" else 4,
            block_length=block_length,
            states=states,
            supervise_padding=supervise_padding,
        )
        batch = random_batch(seed)
        corrupted = objective.corrupt(batch, MASK, row_draws(batch, seed))
        model, reference = random_statistics(corrupted.is_target.shape, seed)
        result = objective.terms(model, corrupted, reference)
        gradients = torch.autograd.grad(result["loss"], [model.nll, model.sampled_nll])
        expected = oracle(objective, batch, corrupted, model, reference, one_block=states == "one_block")
        torch.testing.assert_close(result, expected, rtol=1e-6, atol=1e-7)
        if not corrupted.is_target.any():
            assert not any(gradient.any() for gradient in gradients)
            continue
        of_loops = torch.autograd.grad(expected["loss"], [model.nll, model.sampled_nll])
        torch.testing.assert_close(gradients, of_loops, rtol=1e-6, atol=1e-7)
        assert not gradients[0][~corrupted.is_target].any()


def test_what_is_not_asked_for_is_never_read():
    objective = T3DObjective(path="prefix_levels")
    batch = random_batch(0)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    model, reference = random_statistics(corrupted.is_target.shape, 0)
    hole = ~corrupted.is_target

    def with_holes(statistics):
        nll, sampled = (v.detach().masked_fill(hole, NAN) for v in (statistics.nll, statistics.sampled_nll))
        nll.requires_grad_()
        return statistics._replace(nll=nll, sampled_nll=sampled)

    holed = with_holes(model)
    result = objective.terms(holed, corrupted, with_holes(reference))
    torch.testing.assert_close(result, objective.terms(model, corrupted, reference))
    result["loss"].backward()
    assert holed.nll.grad.isfinite().all()


def one_row(objective):
    """Four tokens decoded from right to left, all of them masked."""
    batch = trajectory_batch([[3, 2, 1, 0]] * 40, prompt_length=0)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    (row, *_) = corrupted.is_masked.all(1).nonzero().flatten().tolist()
    fields = {field.name: getattr(corrupted, field.name) for field in dataclasses.fields(corrupted)}
    tensors = {name: value[row : row + 1] for name, value in fields.items() if isinstance(value, torch.Tensor)}
    return dataclasses.replace(corrupted, **tensors)


def test_terms_by_hand():
    objective = T3DObjective(beta=0.5, fake_weight=2.0, path_weight=3.0, block_length=2)
    model = token_statistics_of([[1.0, 2.0, 3.0, 4.0]])._replace(sampled_nll=torch.tensor([[1.0, 1.0, 1.0, 1.0]]))
    reference = token_statistics_of([[2.0] * 4])._replace(sampled_nll=torch.tensor([[0.0, 0.0, 2.0, 4.0]]))
    result = objective.terms(model, one_row(objective), reference)
    real = math.log(1 + math.exp(0.5 * 0.5))  # l - l_ref = -2.5 + 2
    fake = 2 * math.log(1 + math.exp(0.5 * 0.5))  # -1 + 1.5
    path = (1.0 / 2 + 2.0 + 3.0 / 2 + 4.0) / 4  # the right one of each block was first
    expected = {"real": real, "fake": fake, "path": path, "reconstruction": 2.5, "log_ratio": -0.5}
    expected = {"loss": real + fake + 3 * path, **expected}
    torch.testing.assert_close(result, {name: torch.tensor(value) for name, value in expected.items()})


def test_both_forms_of_the_path_by_hand():
    nll = token_statistics_of([[1.0, 2.0, 3.0, 4.0]])._replace(sampled_nll=torch.zeros(1, 4))
    options = [
        {"path": "rank_weighted", "block_length": None},
        {"path": "prefix_levels", "block_length": None, "path_tokens": 1},
        {"path": "prefix_levels", "block_length": 2, "path_tokens": 1},
        {"path": "prefix_levels", "block_length": 2, "path_tokens": 2},
    ]
    expected = [(1 / 4 + 2 * 2 / 4 + 3 * 3 / 4 + 4) / 4, (4 + 3.5 + 3 + 2.5) / 4, (3.0 + 2.5) / 2, 2.5]
    objectives = [T3DObjective(**settings) for settings in options]
    paths = [objective.terms(nll, one_row(objective), nll)["path"].item() for objective in objectives]
    assert paths == pytest.approx(expected)


def test_a_model_that_equals_its_reference_cannot_tell():
    objective = T3DObjective(path_weight=0.0)
    batch = random_batch(1)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    model, _ = random_statistics(corrupted.is_target.shape, 0)
    result = objective.terms(model, corrupted, model)
    assert result["loss"].item() == pytest.approx(1.5 * math.log(2))
    assert result["log_ratio"].item() == 0


def test_rows_without_targets_do_not_count():
    objective = T3DObjective()
    batch = random_batch(2)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    model, reference = random_statistics(corrupted.is_target.shape, 0)
    full = objective.terms(model, corrupted, reference)
    is_target = torch.cat([corrupted.is_target, torch.zeros_like(corrupted.is_target)])
    doubled = {
        field: torch.cat([getattr(corrupted, field)] * 2)
        for field in ("clean_ids", "noisy_ids", "attention_mask", "is_masked", "order", "recorded_entropy")
    }
    doubled["token_weight"] = torch.cat([corrupted.token_weight, torch.zeros_like(corrupted.token_weight)])
    twice = dataclasses.replace(corrupted, is_target=is_target, query_ids=corrupted.query_ids * 2, **doubled)
    both = [
        values._replace(nll=torch.cat([values.nll] * 2), sampled_nll=torch.cat([values.sampled_nll] * 2))
        for values in (model, reference)
    ]
    torch.testing.assert_close(objective.terms(both[0], twice, both[1]), full)


@pytest.mark.parametrize("path", FORMS)
def test_no_target_at_all_gives_a_zero_that_is_still_attached(path):
    batch = random_batch(3)
    batch = dataclasses.replace(batch, is_filler=batch.is_response)
    objective = T3DObjective(path=path, supervise_padding=False)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    model, reference = random_statistics(corrupted.is_target.shape, 0)
    result = objective.terms(model, corrupted, reference)
    assert {name: value.item() for name, value in result.items()} == dict.fromkeys(result, 0.0)
    result["loss"].backward()
    assert not model.nll.grad.any()


def test_only_the_loss_is_attached():
    objective = T3DObjective()
    batch = random_batch(0)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    model, reference = random_statistics(corrupted.is_target.shape, 0)
    result = objective.terms(model, corrupted, reference)
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_every_mean_is_taken_over_all_processes():
    """Five counts in every call, whatever the data hold: a process that skips one would hang the others."""
    counts = []
    for is_filler in (False, True):
        objective = T3DObjective(supervise_padding=False)
        batch = random_batch(0)
        batch = dataclasses.replace(batch, is_filler=batch.is_response & is_filler)
        corrupted = objective.corrupt(batch, MASK, row_draws(batch))
        model, reference = random_statistics(corrupted.is_target.shape, 0)
        alone = objective.terms(model, corrupted, reference)["loss"]
        calls = []
        objective.mean_over_ranks = lambda count, calls=calls: calls.append(count) or 2 * count
        torch.testing.assert_close(objective.terms(model, corrupted, reference)["loss"], alone / 2)
        counts.append(len(calls))
    assert counts == [5, 5]


def states_of(objective, batch):
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    return corrupted, corrupted.noisy_ids[:, 2:] != MASK


def test_uniform_states_are_the_timesteps_of_the_trajectory():
    """Tokens of one step are masked together; everything that is masked is asked for."""
    num_rows = 3000
    batch = trajectory_batch([[1, 0, NEVER, 2, 0, 1]] * num_rows)
    corrupted, is_visible = states_of(T3DObjective(), batch)
    assert is_visible.unique(dim=0).tolist() == [
        [False] * 6,
        [False, True, False, False, True, False],
        [True, True, False, False, True, True],
    ]
    shares = is_visible.sum(1).bincount().double() / num_rows
    torch.testing.assert_close(shares, torch.tensor([1, 0, 1, 0, 1]).double() / 3, rtol=0, atol=0.03)
    is_revealed = batch.is_response & (batch.unmask_step != NEVER)
    assert torch.equal(corrupted.is_target, corrupted.is_masked & is_revealed)


def test_settings_reach_the_mostly_masked_states():
    """Reversed order: what is visible at the released states was decoded last, so it stands left."""
    batch = trajectory_batch([[3, 2, 1, 0]] * 400)
    corrupted, _ = states_of(T3DObjective(states="mostly_masked", random_ratio=0.0, block_length=2), batch)
    visible = ~corrupted.is_masked[:, 2:]
    assert visible.any()
    assert visible.unique(dim=0).tolist() == [[False] * 4, [True, False, True, False]]
    randomised, _ = states_of(T3DObjective(states="mostly_masked", random_ratio=1.0), batch)
    assert not (randomised.noisy_ids == MASK).any()
    assert randomised.is_masked.any()


@pytest.mark.parametrize("supervise_padding", [True, False])
@pytest.mark.parametrize("states", STATES)
def test_prefix_levels_ask_for_visible_tokens_too(states, supervise_padding):
    batch = random_batch(4)
    narrow, wide = (
        T3DObjective(states=states, path=path, supervise_padding=supervise_padding).corrupt(
            batch, MASK, row_draws(batch)
        )
        for path in FORMS
    )
    learnt = batch.is_response & (batch.unmask_step != NEVER)
    learnt = learnt if supervise_padding else learnt & ~batch.is_filler
    if states == "one_block":  # of eight
        number = batch.is_response.long().cumsum(1) - 1
        last = (number * (batch.is_response & narrow.attention_mask)).amax(1, keepdim=True)
        learnt = learnt & (number // 8 == last // 8)
    assert torch.equal(wide.is_target, learnt)
    assert torch.equal(narrow.is_target, learnt & narrow.is_masked)
    assert torch.equal(wide.noisy_ids, narrow.noisy_ids)


def test_the_reference_it_asks_for():
    objective = T3DObjective(sample_temperature=0.7, reference_interval=10)
    wishes = (objective.needs_reference, objective.sample_temperature, objective.reference_interval)
    assert wishes == (True, 0.7, 10)


def test_the_defaults_are_the_paper_s():
    defaults = {name: value.default for name, value in inspect.signature(T3DObjective).parameters.items()}
    assert defaults == {
        "beta": 0.1,
        "fake_weight": 0.5,
        "path_weight": 0.2,
        "path": "rank_weighted",
        "path_tokens": 4,
        "block_length": 8,
        "states": "uniform",
        "random_ratio": 0.1,
        "sample_temperature": 0.0,
        "reference_interval": None,
        "supervise_padding": True,
    }


def test_missing_statistics_and_weights_are_errors():
    objective = T3DObjective()
    batch = random_batch(0)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    model, reference = random_statistics(corrupted.is_target.shape, 0)
    unweighted = dataclasses.replace(corrupted, token_weight=None)
    message = "reference: expected statistics of a reference model and of its sampled tokens, got none"
    for arguments, expected in [
        ((model, corrupted), message),
        ((model, corrupted, reference._replace(sampled_nll=None)), message),
        ((model._replace(sampled_nll=None), corrupted, reference), message),
        (
            (model, unweighted, reference),
            "token_weight: expected the weights that T3DObjective.corrupt gives, got none",
        ),
    ]:
        with pytest.raises(TabomError) as error:
            objective.terms(*arguments)
        assert str(error.value) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": 0.0}, "beta: expected above 0, got 0.0"),
        ({"beta": NAN}, "beta: expected above 0, got nan"),
        ({"fake_weight": -1.0}, "fake_weight: expected at least 0, got -1.0"),
        ({"path_weight": -1.0}, "path_weight: expected at least 0, got -1.0"),
        ({"path_tokens": 0}, "path_tokens: expected at least 1, got 0"),
        ({"block_length": 0}, "block_length: expected at least 1, got 0"),
        ({"random_ratio": 2.0}, "random_ratio: expected at least 0 and at most 1, got 2.0"),
        ({"sample_temperature": -1.0}, "sample_temperature: expected at least 0, got -1.0"),
        ({"reference_interval": 0}, "reference_interval: expected at least 1, got 0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(TabomError) as error:
        T3DObjective(**options)
    assert str(error.value) == message
