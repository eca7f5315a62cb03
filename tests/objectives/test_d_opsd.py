"""A teacher that sees part of what was decoded later, against loops over the vocabulary."""

import dataclasses
import math

import pytest
import torch
from helpers import row_draws, token_statistics_of, trajectory_batch

from tabom.errors import TabomError
from tabom.functional.divergence import top_k_divergence
from tabom.functional.head import Head
from tabom.objectives import DOpsdObjective
from tabom.types import NEVER

MASK, PROMPT = 99, 2
STEPS = [[0, 1, 1, 2, 3, 4, 5, 5, 6], [2, 0, 0, 1, 3, 5, 4, 7, 6], [0, 1, 2, 3, 4, 5, 6, 7, 8]]


def batch_of(steps=STEPS, num_copies=40, **options):
    batch = trajectory_batch(steps * num_copies, **options)
    return dataclasses.replace(
        batch, clean_ids=torch.arange(10, 10 + batch.clean_ids.shape[1]).expand_as(batch.clean_ids)
    )


def corrupt(objective, batch, seed=0):
    return objective.corrupt(batch, MASK, row_draws(batch, seed))


def rows(corrupted, steps):
    """(steps of the row, positions of the response that the student sees, what the teacher sees besides, targets)."""
    for row in range(len(corrupted.noisy_ids)):
        student, teacher = corrupted.noisy_ids[row, PROMPT:], corrupted.reference_canvas.noisy_ids[row, PROMPT:]
        shown = {i for i, token in enumerate(student.tolist()) if token != MASK}
        more = {i for i, token in enumerate(teacher.tolist()) if token != MASK} - shown
        targets = {i for i, flag in enumerate(corrupted.is_target[row, PROMPT:].tolist()) if flag}
        yield steps[row % len(steps)], shown, more, targets


@pytest.mark.parametrize("ratio", [0.25, 0.5, 1.0])
def test_the_teacher_sees_a_share_of_what_later_steps_reveal(ratio):
    batch = batch_of()
    corrupted = corrupt(DOpsdObjective("later_steps", ratio, "student"), batch)
    for step, shown, more, targets in rows(corrupted, STEPS):
        now = len({step[i] for i in shown})
        assert shown == {i for i, s in enumerate(step) if s < now}
        future = {i for i, s in enumerate(step) if s > now}
        assert more <= future
        assert len(more) == int(len(future) * ratio)
        assert targets == ({i for i, s in enumerate(step) if s == now} if more else set())
    canvas = corrupted.reference_canvas
    assert torch.equal(canvas.is_target, corrupted.is_target)
    is_seen = canvas.noisy_ids != MASK
    assert torch.equal(canvas.noisy_ids[is_seen], batch.clean_ids[is_seen])
    drawn = {tuple(sorted(more)) for step, shown, more, _ in rows(corrupted, STEPS) if step == STEPS[2] and not shown}
    assert len(drawn) > 1 or ratio == 1


def test_the_teacher_sees_a_share_of_all_later_blocks():
    """Blocks of 3: decoding is in one of them, and the last one has none after it."""
    steps = [[0, 2, 1, 3, 4, 5, 8, 7, 6]]
    corrupted = corrupt(DOpsdObjective(retain_ratio=0.5, selection="student"), batch_of(steps, 200, block_length=3))
    seen = set()
    for _, shown, more, targets in rows(corrupted, steps):
        block = len(shown) // 3
        assert more <= set(range(3 * block + 3, 9))
        assert len(more) == (3, 1, 0)[block]
        assert len(targets) == (block < 2)
        seen |= more
    assert seen == {3, 4, 5, 6, 7, 8}


def test_a_block_behind_the_end_of_the_text_tells_nothing():
    batch = batch_of([[0, 1, 2, 3, 4, 5]], 50, block_length=2)
    is_filler = torch.zeros_like(batch.is_filler)
    is_filler[:, -2:] = True
    corrupted = corrupt(
        DOpsdObjective(retain_ratio=1.0, selection="student"), dataclasses.replace(batch, is_filler=is_filler)
    )
    assert {(len(shown) // 2, len(more)) for _, shown, more, _ in rows(corrupted, [[]])} == {(0, 4), (1, 0), (2, 0)}


def test_the_teacher_selects_among_what_is_masked_for_it_in_the_block():
    steps = [[0, 2, 1, 3, 4, 5]]
    for future, candidates in (("later_blocks", {0, 1, 2}), ("later_steps", None)):
        corrupted = corrupt(DOpsdObjective(future, 0.5), batch_of(steps, 100, block_length=3))
        for _, shown, more, targets in rows(corrupted, steps):
            if more:
                block = set(range(3)) if len(shown) < 3 else set(range(3, 6))
                assert targets == block - shown - more
                assert candidates is None or targets <= candidates


def log_softmax(scores):
    total = math.log(math.fsum(math.exp(score) for score in scores))
    return [score - total for score in scores]


def divergence_loop(teacher, student, k, direction, clip):
    """Value and gradient by the student's logits, one number at a time."""
    likeliest = sorted(range(len(teacher)), key=lambda v: -teacher[v])[:k]
    p, q = (log_softmax([scores[v] for v in likeliest]) for scores in (teacher, student))
    value, slopes = 0.0, [0.0] * k  # by the renormalised log-probabilities of the student
    for i in range(k):
        first, second = (p[i], q[i]) if direction == "forward" else (q[i], p[i])
        term = math.exp(first) * (first - second)
        if clip is None or term <= clip:
            value += term
            slopes[i] = -math.exp(p[i]) if direction == "forward" else math.exp(q[i]) * (q[i] - p[i] + 1)
        else:
            value += clip
    gradient = [0.0] * len(student)
    for i, v in enumerate(likeliest):
        gradient[v] = slopes[i] - math.exp(q[i]) * sum(slopes)
    return value, gradient


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize("direction", ["forward", "reverse"])
@pytest.mark.parametrize("k", [3, 7])
def test_divergence_of_the_likeliest_tokens(k, direction, clip):
    generator = torch.Generator().manual_seed(k)
    teacher, student = (2 * torch.randn(6, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    student.requires_grad_()
    head = Head(torch.eye(7, dtype=torch.float64), torch.linspace(0, 1, 7, dtype=torch.float64))
    got = top_k_divergence(teacher, head, student, head, k=k, direction=direction, clip=clip)
    (gradient,) = torch.autograd.grad(got.sum(), student)
    expected = [
        divergence_loop((teacher[row] + head.bias).tolist(), (student[row] + head.bias).tolist(), k, direction, clip)
        for row in range(6)
    ]
    torch.testing.assert_close(got, torch.tensor([value for value, _ in expected]).double())
    torch.testing.assert_close(gradient, torch.tensor([slopes for _, slopes in expected]).double())
    assert gradient.abs().max() > 1e-2


def test_a_clip_moves_the_minimum_away_from_the_teacher():
    """Each likely token gives up most of its mass, to one whose own term is cut."""
    teacher, head = torch.zeros(1, 20, dtype=torch.float64), Head(torch.eye(20, dtype=torch.float64))
    share = torch.full((1, 20), 0.05 / math.e, dtype=torch.float64)
    share[0, 0] = 1 - share[0, 1:].sum()
    options = {"k": 20, "direction": "reverse"}
    values = [
        [
            top_k_divergence(teacher, head, student, head, clip=clip, **options).item()
            for student in (teacher, share.log())
        ]
        for clip in (0.05, None)
    ]
    (same, away), (unclipped_same, unclipped_away) = values
    assert same == pytest.approx(0.0, abs=1e-12)
    assert away == pytest.approx(0.05 - 19 * 0.05 / math.e)
    assert unclipped_same == pytest.approx(0.0, abs=1e-12)
    assert unclipped_away > 0.1


def test_a_soft_cap_and_few_tokens():
    hidden, other = torch.randn(4, 3, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    head = Head(torch.randn(9, 3, dtype=torch.float64), None, 1.5)
    got = top_k_divergence(hidden, head, other, head, k=20, direction="forward", clip=None)
    log_p, log_q = (head.logits(states).log_softmax(-1) for states in (hidden, other))
    expected = (log_p.exp() * (log_p - log_q)).sum(-1)
    torch.testing.assert_close(got, expected)
    gradients = [torch.autograd.grad(values.sum(), other, retain_graph=True)[0] for values in (got, expected)]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("selection", ["teacher", "student"])
def test_value_and_gradient_equal_the_definition(selection):
    """The sum over the positions of the step, and the mean over the rows that have any, times the rows' weights."""
    batch = dataclasses.replace(batch_of(num_copies=4), row_weight=torch.linspace(0.5, 1.5, 12))
    objective = DOpsdObjective("later_steps", 0.5, selection)
    corrupted = corrupt(objective, batch)
    generator = torch.Generator().manual_seed(1)
    nll, divergence, confidence = torch.rand(3, *batch.clean_ids.shape, generator=generator, dtype=torch.float64)
    reference = token_statistics_of(nll, confidence=confidence)
    statistics = token_statistics_of(nll)._replace(divergence=divergence.requires_grad_())
    result = objective.terms(statistics, corrupted, reference)
    (gradient,) = torch.autograd.grad(result["loss"], divergence)
    expected, loss, likelihood, counted = torch.zeros_like(nll), 0.0, 0.0, []
    for row in range(12):
        number = sum(corrupted.token_weight[row].tolist())
        targets = [k for k, flag in enumerate(corrupted.is_target[row].tolist()) if flag]
        chosen = sorted(targets, key=lambda k: -float(confidence[row, k]))[: int(number)]
        counted += [(row, chosen)] if chosen else []
    assert 0 < len(counted) < 12
    for row, chosen in counted:
        likelihood += sum(float(nll[row, k]) for k in chosen) / len(chosen) / len(counted)
        for k in chosen:
            expected[row, k] = float(batch.row_weight[row]) / len(counted)
            loss += float(expected[row, k] * divergence[row, k].detach())
    assert result["loss"].item() == pytest.approx(loss)
    assert result["reconstruction"].item() == pytest.approx(likelihood)
    torch.testing.assert_close(gradient, expected)
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_bad_input():
    with pytest.raises(TabomError, match=r"^query query0: expected a trajectory that was decoded in several blocks"):
        corrupt(DOpsdObjective(), batch_of())
    batch = batch_of(num_copies=1, block_length=3)
    block = batch.block.clone()
    block[1] = 0
    with pytest.raises(TabomError, match=r"^query query1: expected a trajectory that was .*future=later_steps"):
        corrupt(DOpsdObjective(), dataclasses.replace(batch, block=block))
    with pytest.raises(TabomError, match=r"^query query0: expected an unmasking order"):
        corrupt(DOpsdObjective(), batch_of([[NEVER] * 4]))
    objective = DOpsdObjective("later_steps")
    corrupted = corrupt(objective, batch_of())
    with pytest.raises(
        TabomError, match=r"^divergence: expected a batch that DOpsdObjective\.corrupt made and a teacher"
    ):
        objective.terms(token_statistics_of(torch.zeros(corrupted.clean_ids.shape)), corrupted)
