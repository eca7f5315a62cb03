"""LLaDA2 against numbers recorded from the official model on a tiny checkpoint.

The README of the second golden folder, section A, says how they were made.
"""

import pytest
import torch
from safetensors.torch import load_file

from tabom.backbones.llada2 import Llada2Backbone

TOLERANCE = {"rtol": 1e-5, "atol": 3e-5}
"""Processors add up in different orders; a second implementation was 1.5e-5 from the recordings."""


@pytest.fixture(scope="module")
def recorded(golden_v2):
    """(backbone, recorded tensors)."""
    folder = golden_v2 / "llada2_tiny"
    return Llada2Backbone.from_pretrained(folder), load_file(folder / "golden.safetensors")


def run(backbone, ids, mask, positions=None, **options):
    """Of transformers' own model, with a mask that is given from outside."""
    positions = torch.arange(ids.shape[1])[None] if positions is None else positions
    return backbone.transformer.base_model(
        ids, attention_mask=mask, position_ids=positions.expand(len(ids), -1), **options
    )


def test_hidden_states_and_logits(recorded):
    backbone, tensors = recorded
    with torch.no_grad():
        output = run(backbone, tensors["input_ids"], tensors["attention_mask"], output_hidden_states=True)
        logits = backbone.logits(output.last_hidden_state)
    torch.testing.assert_close(logits, tensors["logits"], **TOLERANCE)
    assert len(output.hidden_states) == 4
    for index, state in enumerate(output.hidden_states):
        torch.testing.assert_close(state, tensors[f"hidden_states.{index}"], **TOLERANCE)


def test_router(recorded):
    backbone, tensors = recorded
    gates = [layer.mlp.gate for layer in backbone.transformer.model.layers[1:]]
    found = []
    hooks = [gate.register_forward_hook(lambda _gate, _inputs, output: found.append(output)) for gate in gates]
    with torch.no_grad():
        run(backbone, tensors["input_ids"], tensors["attention_mask"])
    for hook in hooks:
        hook.remove()
    for index, (logits, weights, chosen) in enumerate(found):
        torch.testing.assert_close(logits, tensors[f"router_logits.{index}"].flatten(0, 1), **TOLERANCE)
        assert torch.equal(chosen.sort(-1).values, tensors[f"router_topk_idx.{index}"].flatten(0, 1).sort(-1).values)
        torch.testing.assert_close(weights.sum(-1), torch.full((48,), 2.5))


def test_training_loss_and_gradients(recorded):
    backbone, tensors = recorded
    ids = torch.cat([tensors["train.noisy_input_ids"], tensors["train.input_ids"]], 1)
    positions = torch.arange(24)[None].repeat(1, 2)
    hidden = run(backbone, ids, tensors["train.attention_mask_2L"][None, None].expand(2, 1, -1, -1), positions)
    logits = backbone.logits(hidden.last_hidden_state[:, :24])
    torch.testing.assert_close(logits, tensors["train.logits"], **TOLERANCE)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), tensors["train.labels"].flatten())
    torch.testing.assert_close(loss, tensors["train.loss"], **TOLERANCE)
    gradients = torch.autograd.grad(loss, parameters := list(backbone.transformer.parameters()))
    names = [name for name, _ in backbone.transformer.named_parameters()]
    original = backbone.naming.original_state(dict(zip(names, gradients, strict=True)))
    assert len(names) == len(parameters)
    expected = {key.removeprefix("train.grad."): t for key, t in tensors.items() if key.startswith("train.grad.")}
    assert len(expected) == 7
    for name, gradient in expected.items():
        torch.testing.assert_close(original[name], gradient, **TOLERANCE, msg=name)
