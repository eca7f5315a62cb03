"""Targets tilted from the reference, weights and advantages of rows: the same in every objective."""

import dataclasses
import math

import pytest
import torch
from helpers import row_draws, trajectory_batch

from tabom.errors import TabomError
from tabom.functional.divergence import kl_divergence
from tabom.functional.token_statistics import token_statistics
from tabom.objectives import (
    DInferObjective,
    DParallelObjective,
    NelboObjective,
    PaplObjective,
    Ranking,
    T3DObjective,
    TabomObjective,
)
from tabom.types import TokenStatistics

MASK = 99
SIZE = 30
WINDOW = {"window": 4, "truncated_windows": True}
MAKERS = {
    "mean": NelboObjective,
    "inverse_ratio": lambda **options: NelboObjective(weighting="inverse_ratio", **options),
    "cart": lambda **options: NelboObjective(weighting="cart", reduction="batch_tokens", **options),
    "papl": PaplObjective,
    "dparallel": lambda **options: DParallelObjective(block_length=4, **options),
    "dinfer": DInferObjective,
    "dinfer_sum": lambda **options: DInferObjective(reduction="sum", **options),
    "tabom": lambda **options: TabomObjective(**WINDOW, **options),
    "masking": lambda **options: TabomObjective(**WINDOW, rank_weight=0.0, reduction="batch_tokens", **options),
    "skip_inverted": lambda **options: TabomObjective(**WINDOW, ranking=Ranking(skip_inverted=True), **options),
}


def batch_of(**fields):
    generator = torch.Generator().manual_seed(0)
    orders = [torch.randperm(8, generator=generator).tolist() for _ in range(4)]
    batch = trajectory_batch(orders, entropy=torch.rand(4, 8, generator=generator).tolist())
    return dataclasses.replace(batch, **fields)


def passes(corrupted):
    """Logits of model and reference, and what a training step makes of them."""
    generator = torch.Generator().manual_seed(1)
    shape = (*corrupted.is_target.shape, SIZE)
    logits, base = (2 * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    logits.requires_grad_()
    log_probs, ids = logits.log_softmax(-1), corrupted.clean_ids.clamp(max=SIZE - 1)
    statistics = TokenStatistics(
        nll=-log_probs.gather(-1, ids[..., None]).squeeze(-1),
        entropy=-(log_probs.exp() * log_probs).sum(-1),
        confidence=log_probs.exp().amax(-1),
        is_correct=log_probs.argmax(-1) == ids,
        divergence=kl_divergence(base, logits),
    )
    return logits, base, ids, statistics, token_statistics(base, ids)


def loops(logits, base, ids, tilts):
    """KL(q || p) at every position, by loops over the vocabulary; differentiable."""
    rows = []
    for row, tilt in enumerate(tilts):
        values = []
        for place in range(logits.shape[1]):
            mass = [p * math.exp(tilt * (v == ids[row, place])) for v, p in enumerate(base[row, place].exp().tolist())]
            q = [m / sum(mass) for m in mass]
            log_p = logits[row, place].log_softmax(0)
            values.append(sum(b * (math.log(b) - log_p[v]) for v, b in enumerate(q)))
        rows.append(torch.stack(values))
    return torch.stack(rows)


@pytest.mark.parametrize("name", MAKERS)
def test_loss_and_gradient_are_those_of_loops_over_the_vocabulary(name):
    """What the objective makes of negative log-likelihoods, with the divergences of the loops in their place."""
    objective, plain = MAKERS[name](tilt=1.5), MAKERS[name]()
    corrupted = objective.corrupt(batch_of(), MASK, row_draws(batch_of()))
    logits, base, ids, statistics, reference = passes(corrupted)
    got = objective.terms(statistics, corrupted, reference)
    weights = statistics.nll  # PAPL's, which are not differentiated
    expected = plain.terms(statistics, corrupted, reference)
    difference = loops(logits, base, ids, [1.5] * len(ids)) - statistics.nll
    slopes = torch.autograd.grad(expected["loss"], weights, retain_graph=True)[0].detach()
    moved = expected["loss"] + (slopes * difference).where(corrupted.is_target, 0.0).sum()
    torch.testing.assert_close({**got, "loss": moved}, {**expected, "loss": got["loss"]})
    gradients = [torch.autograd.grad(loss, logits, retain_graph=True)[0] for loss in (got["loss"], moved)]
    torch.testing.assert_close(*gradients, rtol=1e-9, atol=1e-12)
    assert gradients[0].abs().max() > 1e-3
    assert (got["loss"] - expected["loss"]).abs() > 1e-2


@pytest.mark.parametrize("name", MAKERS)
def test_weights_of_rows_are_those_of_the_loss(name):
    """Weights 0 and 2 in turn: a row of weight 0 has no gradient, the loss is linear in them."""
    losses = []
    for weight in ([1.0, 1.0, 1.0, 1.0], [0.0, 2.0, 0.0, 2.0], [2.0, 0.0, 2.0, 0.0]):
        batch, objective = batch_of(row_weight=torch.tensor(weight)), MAKERS[name](tilt=0.5)
        corrupted = objective.corrupt(batch, MASK, row_draws(batch))
        logits, _, _, statistics, reference = passes(corrupted)
        result = objective.terms(statistics, corrupted, reference)
        (gradient,) = torch.autograd.grad(result["loss"], logits)
        counts = (corrupted.row_weight > 0) & corrupted.is_target.any(1)
        assert torch.equal(gradient.flatten(1).any(1), counts)
        losses.append(result["loss"].detach())
    torch.testing.assert_close(losses[0], (losses[1] + losses[2]) / 2)


@pytest.mark.parametrize("name", MAKERS)
def test_an_advantage_scales_the_tilt_of_its_row(name):
    advantage = torch.tensor([0.5, -0.5, 0.75, -0.75], dtype=torch.float64)
    objective, batch = MAKERS[name](tilt=2.0), batch_of(advantage=advantage)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    logits, base, ids, statistics, reference = passes(corrupted)
    got = objective.target_losses(statistics, corrupted, reference)
    tilts = (2.0 * corrupted.advantage).tolist()
    assert tilts[:4] == [1.0, -1.0, 1.5, -1.5]
    torch.testing.assert_close(got[corrupted.is_target], loops(logits, base, ids, tilts)[corrupted.is_target])


def test_the_order_of_a_failure_is_no_example():
    advantage = torch.tensor([0.5, -0.5, 0.75, -0.75], dtype=torch.float64)
    objective = TabomObjective(**WINDOW, tilt=2.0)
    batch, some = batch_of(advantage=advantage), [0, 2]
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    _, _, _, statistics, reference = passes(corrupted)
    part, few = (type(values)(*(None if v is None else v[some] for v in values)) for values in (statistics, reference))
    expected = objective.terms(part, corrupted.select(some), few)["ranking"]
    torch.testing.assert_close(objective.terms(statistics, corrupted, reference)["ranking"], expected)


def test_limits_are_the_reference_and_cross_entropy():
    batch = batch_of()
    terms = {}
    for tilt in (None, 0.0, 80.0):
        objective = NelboObjective(tilt=tilt)
        corrupted = objective.corrupt(batch, MASK, row_draws(batch))
        _, _, _, statistics, reference = passes(corrupted)
        terms[tilt] = objective.terms(statistics, corrupted, reference)["loss"]
    at_base = NelboObjective().terms(statistics._replace(nll=statistics.divergence), corrupted)["loss"]
    torch.testing.assert_close(terms[0.0], at_base)
    torch.testing.assert_close(terms[80.0], terms[None])


def test_a_tilt_needs_the_reference_and_no_tilt_needs_none():
    assert [(o.needs_reference, o.needs_divergence) for o in (NelboObjective(), NelboObjective(tilt=0.0))] == [
        (False, False),
        (True, True),
    ]
    assert TabomObjective(ranking=Ranking(skip_inverted=True)).needs_reference
    assert T3DObjective().needs_reference
    assert not T3DObjective().needs_divergence
    objective = TabomObjective(**WINDOW, tilt=1.0)
    corrupted = objective.corrupt(batch_of(), MASK, row_draws(batch_of()))
    _, _, _, statistics, reference = passes(corrupted)
    for measured, base in ((statistics, None), (statistics._replace(divergence=None), reference)):
        with pytest.raises(TabomError, match=r"^tilt: expected statistics of a reference model"):
            objective.terms(measured, corrupted, base)


@pytest.mark.parametrize("name", MAKERS)
def test_a_tilt_below_zero_is_an_error(name):
    with pytest.raises(TabomError) as error:
        MAKERS[name](tilt=-0.5)
    assert str(error.value) == "tilt: expected at least 0, got -0.5"


def test_what_is_not_asked_for_is_never_read():
    objective = NelboObjective(tilt=1.0)
    corrupted = objective.corrupt(batch_of(), MASK, row_draws(batch_of()))
    _, _, _, statistics, reference = passes(corrupted)
    nothing = ~corrupted.is_target
    blank = [
        values._replace(**{name: getattr(values, name).detach().masked_fill(nothing, math.nan) for name in names})
        for values, names in ((statistics, ("nll", "divergence")), (reference, ("nll",)))
    ]
    inputs = [blank[0].nll.requires_grad_(), blank[0].divergence.requires_grad_()]
    result = objective.terms(blank[0], corrupted, blank[1])["loss"]
    torch.testing.assert_close(result, objective.terms(statistics, corrupted, reference)["loss"])
    for gradient in torch.autograd.grad(result, inputs):
        assert not gradient[nothing].any()
