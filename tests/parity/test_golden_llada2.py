"""LLaDA2 against numbers recorded from the official model on a tiny checkpoint.

The README of the second golden folder, section A, says how they were made.
"""

import pytest
import torch
from safetensors.torch import load_file

from tabom.backbones.llada2 import Llada2Backbone

TOLERANCE = {"rtol": 1e-5, "atol": 3e-5}
"""Processors add up in different orders; a second implementation was 1.5e-5 from the recordings."""


@pytest.fixture
def recorded(golden_v2):
    """(backbone, recorded tensors)."""
    folder = golden_v2 / "llada2_tiny"
    backbone = Llada2Backbone.from_pretrained(folder)
    assert backbone.block_size == 32
    backbone.block_size = 8
    return backbone, load_file(folder / "golden.safetensors")


def everywhere(ids):
    return torch.ones_like(ids, dtype=torch.bool)


def test_hidden_states_and_logits(recorded):
    backbone, tensors = recorded
    ids = tensors["input_ids"]
    with torch.no_grad():
        hidden = backbone(ids, everywhere(ids))
        torch.testing.assert_close(hidden, tensors["hidden_states.3"], **TOLERANCE)
        torch.testing.assert_close(backbone.logits(hidden), tensors["logits"], **TOLERANCE)
        states = backbone.transformer.base_model(
            ids, attention_mask=tensors["attention_mask"], output_hidden_states=True
        ).hidden_states
    assert len(states) == 4
    for index, state in enumerate(states):
        torch.testing.assert_close(state, tensors[f"hidden_states.{index}"], **TOLERANCE)


def test_router(recorded):
    backbone, tensors = recorded
    ids = tensors["input_ids"]
    found = []
    for layer in backbone.transformer.model.layers[1:]:
        layer.mlp.gate.register_forward_hook(lambda _gate, _inputs, output: found.append(output))
    with torch.no_grad():
        backbone(ids, everywhere(ids))
    assert len(found) == 2
    for index, (logits, weights, chosen) in enumerate(found):
        torch.testing.assert_close(logits, tensors[f"router_logits.{index}"].flatten(0, 1), **TOLERANCE)
        assert torch.equal(chosen.sort(-1).values, tensors[f"router_topk_idx.{index}"].flatten(0, 1).sort(-1).values)
        torch.testing.assert_close(weights.sum(-1), torch.full((48,), 2.5))


def test_training_loss_and_gradients(recorded):
    """A plain mean over masked tokens, without the weight 1 / t."""
    backbone, tensors = recorded
    noisy, clean, labels = (tensors[f"train.{name}"] for name in ("noisy_input_ids", "input_ids", "labels"))
    is_target = labels != -100
    hidden = backbone.denoise(noisy, clean, everywhere(clean), is_target)[is_target]
    logits = backbone.logits(hidden)
    torch.testing.assert_close(logits, tensors["train.logits"][is_target], **TOLERANCE)
    loss = torch.nn.functional.cross_entropy(logits, labels[is_target])
    torch.testing.assert_close(loss, tensors["train.loss"], **TOLERANCE)
    loss.backward()
    gradients = backbone.naming.original_state({n: p.grad for n, p in backbone.transformer.named_parameters()})
    expected = {key.removeprefix("train.grad."): t for key, t in tensors.items() if key.startswith("train.grad.")}
    assert len(expected) == 7
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, **TOLERANCE)
