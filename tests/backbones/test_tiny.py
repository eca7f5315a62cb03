import dataclasses
import json

import pytest
import torch
from helpers import TINY, corrupted_batch

from tabom.backbones import NewTinyDLM, PretrainedBackbone
from tabom.backbones.target_pass import TargetPass
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import TabomError
from tabom.functional.head import Head
from tabom.functional.token_statistics import token_statistics


@pytest.fixture
def backbone(checkpoint, tokenizer):
    return PretrainedBackbone(str(checkpoint)).load(tokenizer).eval()


def ids_and_mask(num_rows=2, length=10):
    return torch.randint(3, 99, (num_rows, length)), torch.ones(num_rows, length, dtype=torch.bool)


def test_attention_looks_both_ways(backbone):
    ids, mask = ids_and_mask()
    changed_end, changed_start = ids.clone(), ids.clone()
    changed_end[:, -1] = 4 + (ids[:, -1] == 4)
    changed_start[:, 0] = 4 + (ids[:, 0] == 4)
    hidden = backbone(ids, mask)
    assert (backbone(changed_end, mask)[:, 0] - hidden[:, 0]).abs().max() > 1e-3
    assert (backbone(changed_start, mask)[:, -1] - hidden[:, -1]).abs().max() > 1e-3


@pytest.mark.parametrize(("left", "right"), [(4, 0), (0, 3), (5, 2)])
def test_padding_changes_nothing(backbone, left, right):
    ids, mask = ids_and_mask()
    padded = torch.nn.functional.pad(ids, (left, right), value=0)
    padded_mask = torch.nn.functional.pad(mask, (left, right), value=False)
    hidden = backbone(padded, padded_mask)[:, left : left + ids.shape[1]]
    torch.testing.assert_close(hidden, backbone(ids, mask), rtol=1e-4, atol=1e-5)
    other = torch.where(padded_mask, padded, 7)
    torch.testing.assert_close(backbone(other, padded_mask)[padded_mask], backbone(padded, padded_mask)[padded_mask])


def test_save_and_load_keep_every_bit(backbone, tokenizer, tmp_path):
    ids, mask = ids_and_mask()
    backbone.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    again = PretrainedBackbone(str(tmp_path)).load(tokenizer).eval()
    assert again.fingerprint() == backbone.fingerprint()
    assert torch.equal(again(ids, mask), backbone(ids, mask))
    assert json.loads((tmp_path / "config.json").read_text())["is_causal"] is False


def test_fingerprint_follows_the_weights(backbone):
    before = backbone.fingerprint()
    with torch.no_grad():
        next(backbone.parameters())[0, 0] += 1e-3
    assert backbone.fingerprint() != before


def test_vocabulary_and_mask_come_from_the_tokenizer(tokenizer):
    backbone = NewTinyDLM(**TINY).load(tokenizer)
    assert (backbone.vocab_size, backbone.mask_token_id) == (99, tokenizer.mask_token_id)


def test_only_targets_meet_the_vocabulary(backbone, monkeypatch):
    ids, mask = ids_and_mask()
    is_target = torch.zeros_like(mask)
    is_target[0, 3] = is_target[1, 5] = is_target[1, 6] = True
    seen = []
    whole = Head.wide_logits
    monkeypatch.setattr(Head, "wide_logits", lambda head, hidden: seen.append(hidden.shape) or whole(head, hidden))
    noisy = ids.masked_fill(is_target, backbone.mask_token_id)
    batch = dataclasses.replace(
        corrupted_batch(is_target.tolist()), clean_ids=ids, noisy_ids=noisy, attention_mask=mask
    )
    statistics = TargetPass(backbone, batch).statistics()
    assert seen == [(3, 16)]
    expected = token_statistics(backbone.logits(backbone(noisy, mask)), ids)
    torch.testing.assert_close(statistics.nll, expected.nll.where(is_target, 0.0))
    torch.testing.assert_close(statistics.entropy, expected.entropy.where(is_target, 0.0))


def test_no_target_leaves_a_graph_behind(backbone):
    ids, mask = ids_and_mask()
    nothing = corrupted_batch([[False] * ids.shape[1]] * 2)
    batch = dataclasses.replace(nothing, clean_ids=ids, noisy_ids=ids, attention_mask=mask)
    TargetPass(backbone, batch).statistics().nll.sum().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hidden_size": 18, "num_heads": 4}, "hidden_size: expected a multiple of 2 * num_heads = 8, got 18"),
        ({"num_layers": 0}, "num_layers: expected at least 1, got 0"),
        ({"rope_theta": 0.0}, "rope_theta: expected a number above 0, got 0.0"),
    ],
)
def test_bad_sizes(settings, message):
    with pytest.raises(TabomError) as error:
        NewTinyDLM(**settings)
    assert str(error.value) == message


def test_tokenizer_of_another_model(backbone, checkpoint, tmp_path):
    tokenizer = load_tokenizer("characters")
    tokenizer.add_tokens(["<new>"])
    with pytest.raises(TabomError) as error:
        PretrainedBackbone(str(checkpoint)).load(tokenizer)
    assert str(error.value) == "tokenizer: expected at most 99 tokens, which the model has, got 100"
    tokenizer = load_tokenizer("characters")
    tokenizer.mask_token = "<eos>"
    with pytest.raises(TabomError) as error:
        PretrainedBackbone(str(checkpoint)).load(tokenizer)
    assert str(error.value) == "tokenizer: expected mask token id 1, which the model has, got 2"
