"""Reconstruction of the next steps, and a teacher that is told the answer everywhere else."""

import dataclasses

import pytest
import torch
from helpers import row_draws, token_statistics_of, trajectory_batch

from tabom.errors import TabomError
from tabom.objectives import TadObjective
from tabom.types import NEVER, NO_TOKEN

MASK, PROMPT = 99, 2
NAN = float("nan")
STEPS = [[0, 1, 1, 2, 3, 4], [4, 3, 2, 1, 0, 0], [4, 0, NEVER, 1, 2, 3], [0, 0, 0, 0, 0, 0]]


def batch_of(num_copies=1, **fields):
    batch = trajectory_batch(STEPS * num_copies)
    prompts = torch.full((len(batch.query_ids), 5), NO_TOKEN)
    for row in range(len(prompts)):
        prompts[row, row % 4 :] = 70 + row % 4
    return dataclasses.replace(batch, teacher_prompt_ids=prompts, **fields)


def corrupt(objective, batch, seed=0):
    return objective.corrupt(batch, MASK, row_draws(batch, seed))


@pytest.mark.parametrize("window", [1, 2, 8])
def test_states_and_what_is_asked_at_them(window):
    """All states but the last come equally often; what is revealed by the next steps is weighed 1, the rest 0."""
    num_copies = 400
    batch = batch_of(num_copies)
    corrupted = corrupt(TadObjective(window), batch)
    seen = {}
    for row in range(len(batch.query_ids)):
        step = STEPS[row % 4]
        shown = {i for i, token in enumerate(corrupted.noisy_ids[row, PROMPT:].tolist()) if token != MASK}
        now = len({step[i] for i in shown})
        order = sorted({s for s in step if s != NEVER})
        later = order[now : now + window]
        targets, weight = corrupted.is_target[row, PROMPT:].tolist(), corrupted.token_weight[row, PROMPT:].tolist()
        assert [bool(w) for w in weight] == [s in later for s in step]
        assert targets == [s != NEVER and i not in shown for i, s in enumerate(step)]
        seen.setdefault(row % 4, []).append(now)
    for row, states in seen.items():
        num_states = len({s for s in STEPS[row] if s != NEVER})
        for state in range(num_states):
            assert states.count(state) / num_copies == pytest.approx(1 / num_states, abs=0.08)


def test_the_teacher_sees_its_own_prompt_and_the_same_response():
    batch = batch_of(3)
    corrupted = corrupt(TadObjective(2), batch)
    canvas = corrupted.reference_canvas
    assert torch.equal(canvas.noisy_ids[:, 5:], corrupted.noisy_ids[:, PROMPT:])
    assert torch.equal(canvas.is_target[:, 5:], corrupted.is_target[:, PROMPT:])
    assert torch.equal(canvas.attention_mask[:, 5:], corrupted.attention_mask[:, PROMPT:])
    assert not canvas.is_target[:, :5].any()
    is_there = batch.teacher_prompt_ids != NO_TOKEN
    assert torch.equal(canvas.attention_mask[:, :5], is_there)
    assert torch.equal(canvas.noisy_ids[:, :5][is_there], batch.teacher_prompt_ids[is_there])
    assert canvas.noisy_ids.min() >= 0


def oracle(corrupted, nll, divergence, weights, reduction, scales):
    """Loss and gradients by nll and divergence as plain loops."""
    loss, slopes = 0.0, [torch.zeros_like(nll), torch.zeros_like(nll)]
    for values, slope, scale, wanted in zip((nll, divergence), slopes, scales, (True, False), strict=True):
        positions = {}
        for row, flags in enumerate(corrupted.is_target.tolist()):
            found = [k for k, f in enumerate(flags) if f and bool(corrupted.token_weight[row, k]) == wanted]
            positions |= {row: found} if found else {}
        total = sum(map(len, positions.values()))
        for row, found in positions.items():
            for k in found:
                share = 1 / total if reduction == "batch_tokens" else 1 / len(found) / len(positions)
                slope[row, k] = scale * weights[row] * share
                loss += float(slope[row, k] * values[row, k])
    return loss, slopes


@pytest.mark.parametrize("reduction", ["trajectories", "batch_tokens"])
@pytest.mark.parametrize("supervise_padding", [True, False])
@pytest.mark.parametrize("is_weighted", [False, True])
def test_value_and_gradient_equal_the_definition(reduction, supervise_padding, is_weighted):
    weights = [1.0] * 12 if not is_weighted else torch.linspace(0.5, 1.5, 12).tolist()
    batch = batch_of(3, row_weight=torch.tensor(weights) if is_weighted else None)
    is_filler = torch.zeros_like(batch.is_filler)
    is_filler[:, -2:] = True
    batch = dataclasses.replace(batch, is_filler=is_filler)
    objective = TadObjective(2, 0.5, 3.0, reduction=reduction, supervise_padding=supervise_padding)
    corrupted = corrupt(objective, batch)
    assert bool((corrupted.is_target & is_filler).any()) == supervise_padding
    generator = torch.Generator().manual_seed(0)
    nll, divergence = 4 * torch.rand(2, *batch.clean_ids.shape, generator=generator, dtype=torch.float64)
    blank = ~corrupted.is_target
    statistics = token_statistics_of(nll.masked_fill(blank, NAN), requires_grad=True)
    measured = divergence.masked_fill(blank, NAN).requires_grad_()
    result = objective.terms(statistics._replace(divergence=measured), corrupted, None)
    gradients = torch.autograd.grad(result["loss"], [statistics.nll, measured])
    loss, slopes = oracle(corrupted, nll, divergence, weights, reduction, (0.5, 3.0))
    assert result["loss"].item() == pytest.approx(loss)
    torch.testing.assert_close(gradients, tuple(slopes))
    plain, _ = oracle(corrupted, nll, divergence, [1.0] * 12, reduction, (1.0, 0.0))
    other, _ = oracle(corrupted, nll, divergence, [1.0] * 12, reduction, (0.0, 1.0))
    assert result["reconstruction"].item() == pytest.approx(plain)
    assert result["teacher_kl"].item() == pytest.approx(other)
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_a_window_as_long_as_the_response_is_reconstruction_alone():
    batch = batch_of()
    objective = TadObjective(8)
    corrupted = corrupt(objective, batch)
    nll = torch.rand(batch.clean_ids.shape, dtype=torch.float64)
    statistics = token_statistics_of(nll)._replace(divergence=torch.full_like(nll, NAN))
    result = objective.terms(statistics, corrupted)
    assert result["loss"] == result["reconstruction"]
    assert result["teacher_kl"] == 0


def test_bad_input():
    objective = TadObjective()
    with pytest.raises(TabomError, match=r"^teacher_prompt: expected training data that tell a teacher the answer"):
        corrupt(objective, trajectory_batch(STEPS))
    with pytest.raises(TabomError, match=r"^query query0: expected an unmasking order"):
        corrupt(objective, trajectory_batch([[NEVER] * 3]))
    corrupted = corrupt(objective, batch_of())
    with pytest.raises(TabomError, match=r"^divergence: expected a batch that TadObjective\.corrupt made"):
        objective.terms(token_statistics_of(torch.zeros(corrupted.clean_ids.shape)), corrupted)


def test_a_wording_without_a_place_for_the_answer():
    with pytest.raises(TabomError) as error:
        TadObjective(teacher_prompt="Answer: {}")
    assert str(error.value) == (
        "teacher_prompt: expected a text with {answer} in the place of the answer, got 'Answer: {}'"
    )
