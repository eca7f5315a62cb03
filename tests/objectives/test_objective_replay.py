"""What replay adds to a loss, against loops over logits."""

import copy
import dataclasses
import math

import pytest
import torch
from helpers import TINY, row_draws, trajectory_batch

from tabom.backbones import NewTinyDLM
from tabom.corruption import UniformMasking
from tabom.errors import TabomError
from tabom.objectives import Replay, Warmup
from tabom.seeding import RowDraws
from tabom.types import NEVER


@pytest.fixture
def models(tokenizer):
    """A model and its base, in float64; with dropout nowhere."""
    torch.manual_seed(0)
    base = NewTinyDLM(**TINY, initializer_range=0.5).load(tokenizer).double()
    model = copy.deepcopy(base)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model, base


def rows():
    """Three rows of six response tokens, of which decoding left a mask in one (never asked for)."""
    ids = torch.randint(3, 90, (3, 6), generator=torch.Generator().manual_seed(0))
    ids[1, 2] = 1  # the mask token
    return trajectory_batch([[NEVER] * 6] * 3, clean_ids=ids.tolist())


def terms(replay, model, base, *, loss=2.0, step=0, batch=None):
    batch = rows() if batch is None else batch
    draws = row_draws(batch)
    loss = torch.tensor(loss, dtype=torch.float64)
    return replay.terms(loss, batch, backbone=model, base=base, step=step, draws=draws)


def log_softmax(scores):
    highest = max(scores)
    total = math.fsum(math.exp(score - highest) for score in scores)
    return [score - highest - math.log(total) for score in scores]


def by_loop(model, base):
    """Mean divergence of each row and then over rows, and its gradient by the model's logits, one number at a time."""
    batch = rows()
    corrupted = UniformMasking()(batch, model.mask_token_id, row_draws(batch))
    logits = [part.head.logits(part(corrupted.noisy_ids, corrupted.attention_mask)) for part in (model, base)]
    counts = corrupted.is_target.sum(1).tolist()
    assert min(counts) >= 1
    assert not corrupted.is_target[1, 4]
    divergence, of_logits = 0.0, torch.zeros_like(logits[0])
    for row, column in corrupted.is_target.nonzero().tolist():
        log_q, log_p = (log_softmax(each[row, column].tolist()) for each in logits)
        share = 1 / counts[row] / 3
        for v, (q, p) in enumerate(zip(log_q, log_p, strict=True)):
            divergence += share * math.exp(p) * (p - q)
            of_logits[row, column, v] = share * (math.exp(q) - math.exp(p))
    return divergence, logits[0], of_logits


def test_value_and_gradient_are_those_of_a_plain_loop(models):
    model, base = models
    divergence, logits, of_logits = by_loop(model, base)
    result = terms(Replay(weight=3.0), model, base)
    assert divergence > 1e-2
    assert {name: value.item() for name, value in result.items()} == pytest.approx(
        {"loss": 2.0 + 3.0 * divergence, "objective": 2.0, "replay_kl": divergence}, rel=1e-10
    )
    weights = list(model.parameters())
    expected = torch.autograd.grad(logits, weights, 3.0 * of_logits)
    torch.testing.assert_close(torch.autograd.grad(result["loss"], weights), expected, rtol=1e-9, atol=1e-11)


def test_the_base_is_not_differentiated(models):
    model, base = models
    assert all(parameter.requires_grad for parameter in base.parameters())
    seen = []
    base.register_forward_hook(lambda _, inputs, hidden: seen.append(hidden.requires_grad))
    terms(Replay(), model, base)["loss"].backward()
    assert seen == [False]
    assert all(parameter.grad is None for parameter in base.parameters())
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_where_the_model_is_the_base_there_is_nothing_to_add(models):
    _, base = models
    result = terms(Replay(), base, base)
    assert (result["loss"], result["replay_kl"]) == (2.0, 0.0)
    gradients = torch.autograd.grad(result["loss"], list(base.parameters()))
    assert max(gradient.abs().max() for gradient in gradients) < 1e-15


def test_only_the_loss_is_attached(models):
    result = terms(Replay(weight_warmup=Warmup(2)), *models)
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_the_weight_warms_up(models):
    replay = Replay(weight=4.0, weight_warmup=Warmup(num_steps=4, start=2.0))
    for step, weight in ((0, 2.0), (1, 2.5), (4, 4.0), (9, 4.0)):
        result = terms(replay, *models, step=step)
        assert result["replay_weight"] == weight
        assert result["loss"].item() == pytest.approx(2.0 + weight * result["replay_kl"].item(), rel=1e-12)


def test_the_mean_over_parts_of_a_batch_is_that_of_the_batch(models):
    """Masks of a row do not depend on the rows beside it."""
    batch = dataclasses.replace(rows(), row_numbers=torch.tensor([5, 0, 2]))

    def divergence(part):
        draws, loss = RowDraws.of_numbers(0, part.row_numbers), torch.zeros((), dtype=torch.float64)
        model, base = models
        return Replay().terms(loss, part, backbone=model, base=base, step=0, draws=draws)["replay_kl"]

    parts = [divergence(batch.select([row])) for row in range(3)]
    torch.testing.assert_close(torch.stack(parts).mean(), divergence(batch), rtol=1e-10, atol=0)
    assert len(set(map(float, parts))) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": -1.0}, "replay.weight: expected at least 0, got -1.0"),
        ({"weight": math.inf}, "replay.weight: expected at least 0 and finite, got inf"),
        (
            {"weight_warmup": Warmup(5, start=-0.5)},
            "replay.weight_warmup.start: expected at least 0, got -0.5",
        ),
    ],
)
def test_bad_settings(options, message):
    with pytest.raises(TabomError) as error:
        Replay(**options)
    assert str(error.value) == message
