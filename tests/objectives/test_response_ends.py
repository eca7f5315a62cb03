"""Responses without an end and responses that are nothing but their end, with every objective.

Filler is learnt where ``supervise_padding`` says so, and else gets no gradient.
"""

import copy
import inspect

import pytest
import torch
from helpers import TINY, row_draws

import tabom.objectives
from tabom.backbones import NewTinyDLM
from tabom.data.encoding import Row, collate_rows
from tabom.modules.reference import Reference, measure
from tabom.objectives import (
    DOpsdObjective,
    DParallelObjective,
    ExactOrderObjective,
    GiftObjective,
    LiftObjective,
    NelboObjective,
    Objective,
    Ranking,
    T3DObjective,
    TabomObjective,
)

EOS, LENGTH = 2, 8
LATER_STEPS = {"future": "later_steps", "retain_ratio": 1.0}
SETTINGS = {
    DParallelObjective: {"block_length": 3},
    TabomObjective: {"window": 4},
    DOpsdObjective: LATER_STEPS,
}
CLASSES = [
    kind
    for kind in vars(tabom.objectives).values()
    if inspect.isclass(kind) and issubclass(kind, Objective) and not inspect.isabstract(kind)
]
VARIANTS = {
    **{kind.__name__: (kind, SETTINGS.get(kind, {})) for kind in CLASSES},
    "inverse ratio": (NelboObjective, {"weighting": "inverse_ratio"}),
    "cart": (NelboObjective, {"weighting": "cart"}),
    "batch tokens": (NelboObjective, {"reduction": "batch_tokens"}),
    "stratified": (NelboObjective, {"stratified_ratios": True}),
    "mostly masked": (T3DObjective, {"states": "mostly_masked", "random_ratio": 0.5}),
    "one block": (T3DObjective, {"states": "one_block", "path": "prefix_levels", "block_length": 3}),
    "global": (TabomObjective, {"window": LENGTH, "truncated_windows": True}),
    "steps": (TabomObjective, {"window": 2, "window_unit": "steps", "ties": "positional", "reduction": "batch_tokens"}),
    "tilted": (TabomObjective, {"window": 4, "tilt": 2.0}),
    "tilted order": (ExactOrderObjective, {"window": 4, "rank_tilt": 1.0, "energy": "log_odds"}),
    "LIFT, tilted": (LiftObjective, {"policy": "random", "tilt": 2.0}),
    "GIFT, tilted": (GiftObjective, {"tilt": 2.0}),
    "d-OPSD, forward": (DOpsdObjective, {**LATER_STEPS, "teacher": "current", "direction": "forward", "clip": None}),
    "jumps": (TabomObjective, {"window": 2, "starts": "non_left_to_right"}),
    **{
        name: (TabomObjective, {"window": 4, "ranking": Ranking(**options)})
        for name, options in {
            "logistic": {"surrogate": "logistic"},
            "Plackett-Luce": {"surrogate": "plackett_luce"},
            "Boltzmann KL": {"surrogate": "boltzmann_kl"},
            "Boltzmann KL, recorded": {"surrogate": "boltzmann_kl", "target": "recorded"},
            "entropy bonus": {"surrogate": "entropy_bonus"},
            "all pairs": {"pairs": "all"},
            "shuffled": {"order": "shuffled"},
            "gaps": {"min_gap": 0.0, "skip_inverted": True},
        }.items()
    },
}
TEXT = [11, 12, 13, 14, 15, 16, 17, 18]
RESPONSES = {"wholly text": [TEXT], "nothing but the end": [[EOS] * LENGTH], "both": [TEXT, [EOS] * LENGTH]}


@pytest.fixture(scope="module")
def models(tokenizer):
    torch.manual_seed(0)
    model = NewTinyDLM(**TINY, initializer_range=0.5).load(tokenizer).double()
    base = copy.deepcopy(model)
    for parameter in model.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return model, base


def rows_of(responses, seed):
    """Decoded in blocks of 4; the last three positions of a finished row in one further step, without entropies."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for number, ids in enumerate(responses):
        step = torch.cat([torch.randperm(4, generator=generator), 4 + torch.randperm(4, generator=generator)])
        entropy = torch.rand(LENGTH, generator=generator)
        if ids[-1] == EOS:
            step[5:], entropy[5:] = 8, torch.nan
        told = [9] * (4 + number)
        row = Row(str(number), [7] * 3, ids, step.tolist(), entropy.tolist(), block_length=4, teacher_prompt_ids=told)
        rows.append(row)
    return rows


def terms_of(objective, models, batch, seed):
    """As a training step computes them."""
    model, base = models
    options = {"backbone": model, "reference": Reference(), "base": base, "step": 0}
    measured = measure(objective, batch, draws=row_draws(batch, seed), **options)
    return objective.terms(*measured), measured.statistics


@pytest.mark.parametrize("supervise_padding", [True, False])
@pytest.mark.parametrize("responses", RESPONSES.values(), ids=RESPONSES)
@pytest.mark.parametrize(("kind", "settings"), VARIANTS.values(), ids=VARIANTS)
def test_loss_and_gradients(models, kind, settings, responses, supervise_padding):
    objective = kind(supervise_padding=supervise_padding, **settings)
    num_learnt = torch.zeros(len(responses), LENGTH)
    for seed in range(60 if kind is DOpsdObjective else 12):  # which takes one step of a row alone
        batch = collate_rows(rows_of(responses, seed), pad_token_id=0, eos_token_id=EOS)
        result, statistics = terms_of(objective, models, batch, seed)
        assert all(torch.isfinite(value) for value in result.values())
        asked = [part for part in (statistics.nll, statistics.entropy, statistics.confidence) if part.requires_grad]
        asked += [part for part in (statistics.sampled_nll, statistics.divergence) if part is not None]
        gradients = torch.autograd.grad(result["loss"], asked, retain_graph=True, materialize_grads=True)
        size = sum(gradient.abs() for gradient in gradients)
        size = size.view(-1, *batch.is_filler.shape).sum(0)  # complements stand behind the rows
        assert not size[~batch.is_response].any()
        assert size.isfinite().all()
        num_learnt += (size[:, -LENGTH:] > 0).float()
    model, _ = models
    model.zero_grad()
    result["loss"].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
    is_filler = batch.is_filler[:, -LENGTH:]
    assert num_learnt[~is_filler].all()
    assert bool(num_learnt[is_filler].any()) == (supervise_padding and bool(is_filler.any()))
