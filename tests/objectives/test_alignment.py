"""Hidden states that stay near those of the causal model."""

import copy
import math

import pytest
import torch
from helpers import a2d_config, trajectory_batch

from tabom.backbones.layers import layer_states
from tabom.backbones.stock import A2DQwen3Backbone
from tabom.corruption import UniformMasking
from tabom.errors import TabomError
from tabom.functional.alignment import layer_distance
from tabom.objectives import Alignment
from tabom.seeding import RowDraws

MASK = 30


def model(**changes):
    torch.manual_seed(1)
    return A2DQwen3Backbone.from_config(a2d_config(vocab_size=32, **changes)).double()


@pytest.fixture
def corrupted():
    batch = trajectory_batch([[3, 1, 2, 0], [0, 1, 2, 3]])
    batch.attention_mask[1, 0] = False
    clean = torch.randint(5, 20, batch.clean_ids.shape, generator=torch.Generator().manual_seed(0))
    batch = type(batch)(**{**vars(batch), "clean_ids": clean})
    return UniformMasking()(batch, MASK, RowDraws.of_numbers(1, torch.arange(2)))


def cosine_distance(one, other):
    dot, first, second = (sum(float(x) * float(y) for x, y in zip(a, b, strict=True))
                          for a, b in ((one, other), (one, one), (other, other)))  # fmt: skip
    return 1 - dot / math.sqrt(first * second)


def test_distance_equals_a_loop():
    torch.manual_seed(0)
    ours, theirs = ([torch.randn(2, 3, 4) for _ in range(3)] for _ in range(2))
    where = torch.tensor([[True, False, True], [False, True, True]])
    expected = [
        cosine_distance(one[row, place], other[row, place])
        for one, other in zip(ours, theirs, strict=True)
        for row, place in where.nonzero().tolist()
    ]
    assert float(layer_distance(ours, theirs, where)) == pytest.approx(sum(expected) / len(expected), rel=1e-6)


def test_terms_equal_a_loop_over_layers_of_the_causal_model(corrupted):
    """The reference is computed here as transformers computes it: causal, row by row, without padding."""
    backbone = model()
    base = copy.deepcopy(backbone)
    torch.nn.init.normal_(backbone.transformer.base_model.layers[0].mlp.up_proj.weight, std=0.5)
    alignment = Alignment(weight=0.5)
    with alignment.watching(backbone) as states:
        backbone(corrupted.noisy_ids, corrupted.attention_mask)
    terms = alignment.terms(torch.tensor(2.0), corrupted, states, base)
    causal = copy.deepcopy(base.transformer)
    causal.config.is_causal = True
    distances: list[float] = []
    for row in range(2):
        is_real = corrupted.attention_mask[row]
        with layer_states(causal) as reference, torch.no_grad():
            size = int(is_real.sum())
            mask = torch.full((1, 1, size, size), -torch.inf, dtype=torch.double).triu(1)
            causal.base_model(input_ids=corrupted.clean_ids[row, is_real][None], attention_mask=mask)
        with layer_states(backbone) as ours, torch.no_grad():
            backbone(corrupted.noisy_ids[row, is_real][None], torch.ones(1, size, dtype=torch.bool))
        pairs = zip(ours, reference, strict=True)
        distances += [cosine_distance(a, b) for one, other in pairs for a, b in zip(one[0], other[0], strict=True)]
    assert terms["alignment"].item() == pytest.approx(sum(distances) / len(distances), rel=1e-5)
    assert terms["loss"].item() == pytest.approx(2 + 0.5 * terms["alignment"].item())
    terms["loss"].backward()
    assert any(parameter.grad is not None for parameter in backbone.parameters())
    assert all(parameter.grad is None for parameter in base.parameters())
    assert base.block_size is None


def test_without_a_weight_nothing_is_collected(corrupted):
    backbone = model()
    with Alignment().watching(backbone) as states:
        backbone(corrupted.noisy_ids, corrupted.attention_mask)
    assert states == []


def test_noisy_copies_of_a_block_model_are_left_out(corrupted):
    """Its clean columns and its last noisy block count; without masks it is the base's own states that are compared."""
    backbone = model(block_size=1)
    base = copy.deepcopy(backbone)
    alignment = Alignment(weight=1.0)
    with alignment.watching(backbone) as states:
        backbone.denoise(corrupted.noisy_ids, corrupted.clean_ids, corrupted.attention_mask)
    assert states[0].shape[1] > corrupted.clean_ids.shape[1]
    with alignment.watching(backbone) as clean:
        backbone.denoise(corrupted.clean_ids, corrupted.clean_ids, corrupted.attention_mask)
    assert alignment.terms(torch.tensor(0.0), corrupted, clean, base)["alignment"].item() == pytest.approx(0, abs=1e-9)


def test_a_training_logs_it_and_learns_from_it(stage):
    options = ("--trainer.max_steps=2", "--model.validation=null", "--trainer.callbacks=null")
    plain = stage("fit", "sft_sd", *options)
    aligned = stage("fit", "sft_sd", *options, "--model.alignment.weight=1.0")
    assert 0 < float(aligned.trainer.callback_metrics["train/alignment"]) < 2
    pairs = zip(plain.model.backbone.parameters(), aligned.model.backbone.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in pairs)


def test_bad_settings(stage):
    with pytest.raises(TabomError, match=r"^alignment\.weight: expected at least 0, got -1"):
        Alignment(weight=-1.0)
    with pytest.raises(TabomError) as error:
        stage("fit", "sft_sd", "--model.alignment.weight=1.0", '--model.backbone.lora={"target_modules": ["q_proj"]}')
    assert str(error.value) == (
        "alignment.weight: expected 0 unless all weights of a pretrained decoder are trained, which a copy of it is "
        "compared with, got 1 and TinyDLM with an adapter"
    )
