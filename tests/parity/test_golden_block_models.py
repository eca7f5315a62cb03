"""Block-causal models against numbers recorded from SDAR and from dLLM's BD3LM code, on tiny checkpoints."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tabom.backbones.block_attention import Tokens
from tabom.backbones.stock import A2DQwen3Backbone, SdarBackbone
from tabom.functional.attention import sees

MASK, NO_LABEL = 127, -100
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
BD3LM = ["bd3lm_b4", "bd3lm_b4_right_shift", "bd3lm_b8_short_last"]


@pytest.fixture
def sdar(golden_v2):
    """(backbone, recorded tensors)."""
    folder = golden_v2 / "sdar_tiny"
    return SdarBackbone.from_pretrained(folder).eval(), load_file(folder / "golden.safetensors")


@pytest.fixture
def a2d(golden_v2):
    return A2DQwen3Backbone.from_pretrained(golden_v2 / "a2d_qwen3_tiny").eval()


def everywhere(ids):
    return torch.ones_like(ids, dtype=torch.bool)


def compare_gradients(backbone, loss, tensors, prefix):
    loss.backward()
    gradients = {name: p.grad for name, p in backbone.transformer.named_parameters()}
    names = [key.removeprefix(prefix) for key in tensors if key.startswith(prefix)]
    assert len(names) == 6
    for name in names:
        expected = tensors[prefix + name]
        scale = expected.abs().max()
        torch.testing.assert_close(gradients[name] / scale, expected / scale, **TOLERANCE)


def test_sdar_logits_and_hidden_states(sdar):
    backbone, tensors = sdar
    ids = tensors["input_ids"]
    hidden = backbone(ids, everywhere(ids))
    torch.testing.assert_close(hidden, tensors["hidden_states.2"], **TOLERANCE)
    torch.testing.assert_close(backbone.logits(hidden), tensors["logits"], **TOLERANCE)
    states = backbone.transformer.base_model(
        ids, attention_mask=tensors["attention_mask"][:, None], output_hidden_states=True
    ).hidden_states
    for index, state in enumerate(states):
        torch.testing.assert_close(state, tensors[f"hidden_states.{index}"], **TOLERANCE)


def test_sdar_training_loss_and_gradients(sdar):
    """The second recorded row holds two samples, which are two rows here."""
    backbone, tensors = sdar
    ids, labels, is_masked = (tensors[f"train.{name}"] for name in ("input_ids", "labels", "masked"))
    samples = [(0, 0, 24), (1, 0, 12), (1, 12, 24)]
    cut = {
        name: torch.nn.utils.rnn.pad_sequence([t[row, start:end] for row, start, end in samples], batch_first=True)
        for name, t in (("ids", ids), ("real", everywhere(ids)), ("masked", is_masked))
    }
    noisy = cut["ids"].masked_fill(cut["masked"], MASK)
    hidden = backbone.denoise(noisy, cut["ids"], cut["real"], cut["masked"])[cut["masked"]]
    logits = backbone.logits(hidden)
    torch.testing.assert_close(logits, tensors["train.logits_at_masked"], **TOLERANCE)
    losses = torch.nn.functional.cross_entropy(logits, cut["ids"][cut["masked"]], reduction="none")
    loss = (losses / tensors["train.p_mask"]).sum() / (labels != NO_LABEL).sum()
    torch.testing.assert_close(loss, tensors["train.loss"], **TOLERANCE)
    compare_gradients(backbone, loss, tensors, "train.grad.")


@pytest.mark.parametrize("name", BD3LM)
def test_bd3lm_training(name, a2d, golden_v2):
    """With dLLM's weights and normalisation.

    With a shift dLLM's trainer predicts the first token of a block from the noisy copy of the block before, and its
    sampler from clean tokens; here it is the clean ones in both.
    """
    cases = json.loads((golden_v2 / "loss_a2d.json").read_text())
    assert {case for case in cases if case.startswith("bd3lm_")} == set(BD3LM)
    settings, tensors = cases[name], load_file(golden_v2 / "loss_a2d.safetensors")
    tensors = {key.removeprefix(f"{name}/"): tensor for key, tensor in tensors.items() if key.startswith(f"{name}/")}
    a2d.block_size, a2d.shift = settings["block_size"], settings["right_shift_logits"]
    clean, labels = tensors["input_ids"], tensors["labels"]
    length = clean.shape[1]
    noisy = tensors["network_input_ids"][:, :length]
    hidden = a2d.denoise(noisy, clean, everywhere(clean))
    source = torch.arange(length)
    if a2d.shift:
        is_first = (source % settings["block_size"] == 0) & (source > 0)
        source = (source - 1).clamp(min=0) + length * is_first.long()
    torch.testing.assert_close(a2d.logits(hidden), tensors["logits"][:, source], **TOLERANCE)
    if a2d.shift:
        return
    is_learnable = labels != NO_LABEL
    is_masked = is_learnable & (noisy == MASK)
    num_learnable = is_learnable.sum(1, keepdim=True)
    divisor = {"token": num_learnable.sum(), "sequence": num_learnable * len(labels)}[settings["loss_norm_type"]]
    logits = a2d.logits(a2d.denoise(noisy, clean, everywhere(clean), is_masked))
    nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), clean, reduction="none")
    parts = (tensors["weights"] * nll / divisor).where(is_masked, 0.0)
    torch.testing.assert_close(parts, tensors["token_nll_weighted"], **TOLERANCE)
    torch.testing.assert_close(parts.sum(), tensors["loss"], **TOLERANCE)
    compare_gradients(a2d, parts.sum(), tensors, "grad.")


@pytest.mark.parametrize(("length", "size"), [(6, 1), (6, 6), (8, 4), (10, 4)])
def test_mask_over_both_copies(length, size, golden_v2):
    expected = load_file(golden_v2 / "loss_a2d.safetensors")[f"mask/l{length}_b{size}"]
    block = (torch.arange(length) // size).repeat(2)
    is_noisy = torch.arange(2 * length) < length
    got = sees(block[:, None], block, query_is_noisy=is_noisy[:, None], key_is_noisy=is_noisy)
    assert torch.equal(got, expected)


@pytest.mark.parametrize("size", [4, 8])
def test_bd3lm_forward(size, a2d, golden_v2):
    """dLLM's sampler counts blocks by column, so that padding on the left makes the first block short."""
    tensors = load_file(golden_v2 / "decode_a2d_bd3lm.safetensors")
    ids, positions, visible, expected = (
        tensors[f"forward_b{size}/{name}"] for name in ("input_ids", "position_ids", "attention_mask", "logits")
    )
    is_real = visible.any(2)[:, 0]
    block = (torch.arange(ids.shape[1]) // size).expand_as(ids)
    tokens = Tokens(block, torch.zeros_like(is_real), is_real)
    mask = a2d._mask(tokens, tokens)
    assert torch.equal(mask[:, 0][is_real], visible[:, 0][is_real])
    logits = a2d.logits(a2d._run(ids, positions, mask, None))
    torch.testing.assert_close(logits[is_real], expected[is_real], **TOLERANCE)
    a2d.block_size = size
    for row in range(len(ids)):
        if is_real[row].sum() % size == 0:  # blocks from the first token are those of the columns
            logits = a2d.logits(a2d(ids[row : row + 1], is_real[row : row + 1]))[0]
            torch.testing.assert_close(logits[is_real[row]], expected[row][is_real[row]], **TOLERANCE)
