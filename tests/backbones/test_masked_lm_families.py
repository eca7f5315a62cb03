"""Families of masked language models: those that can be decoded are, and the others are refused by name."""

import json

import pytest
import torch
from helpers import save_word_tokenizer
from safetensors.torch import load_file, save_file
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from tabom.backbones import PretrainedBackbone
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import TabomError

SIZES = {
    **{"vocab_size": 40, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64},
    **{"max_position_embeddings": 96, "embedding_size": 16, "dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 48},
    **{"d_model": 32, "encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "emb_dim": 32},
    **{"decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32, "num_key_value_heads": 2},
    **{"pad_token_id": 0, "mask_token_id": 1, "bos_token_id": 2, "eos_token_id": 2, "cls_token_id": 2},
    **{"sep_token_id": 2, "block_sizes": [1, 1], "d_head": 16, "n_head": 2, "d_inner": 32},
}


def saved(path, family, **changes):
    """A checkpoint of random weights, with a tokenizer."""
    known = CONFIG_MAPPING[family]().to_dict()
    sizes = {key: value for key, value in SIZES.items() if key in known}
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(CONFIG_MAPPING[family](**{**sizes, **changes}))
    for parameter in model.parameters():
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(path)
    save_word_tokenizer(path, 40, pad_token="w0", mask_token="w1", eos_token="w2", sep_token="w2")
    return path


def load(path, **settings):
    return PretrainedBackbone(str(path), **settings).load(load_tokenizer(str(path))).eval()


def logits(backbone, ids, mask):
    with torch.no_grad():
        return backbone.logits(backbone(ids, mask))


FAMILIES = {
    "esm": {},  # adds a bias behind its last matrix
    "esmc": {},
    "deberta": {},  # no attention that torch fuses, as the following ones
    "deberta-v2": {},
    "mpnet": {},
    "longformer": {"attention_window": 8},
    "roformer": {},
    "big_bird": {},
    "electra": {"tie_word_embeddings": False},
    "bert": {"tie_word_embeddings": False},
    "albert": {"tie_word_embeddings": False},
    "ernie": {"tie_word_embeddings": False},
    "nomic_bert": {"tie_word_embeddings": False},
    "roberta": {"tie_word_embeddings": False},
    "flaubert": {},
}
ids = torch.arange(4, 34)[None] % 36 + 4
mask = torch.ones_like(ids, dtype=torch.bool)


@pytest.mark.parametrize("family", FAMILIES)
def test_logits_padding_and_what_is_saved(tmp_path, family):
    path = saved(tmp_path / "model", family, **FAMILIES[family])
    backbone = load(path)
    with torch.no_grad():
        expected = AutoModelForMaskedLM.from_pretrained(path)(input_ids=ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(logits(backbone, ids, mask), expected)
    padded = (torch.nn.functional.pad(each, (5, 9), value=value) for each, value in ((ids, 7), (mask, False)))
    torch.testing.assert_close(logits(backbone, *padded)[:, 5:35], expected, rtol=1e-4, atol=1e-4)
    for parameter in backbone.parameters():  # as after a training
        parameter.data.add_(0.1 * torch.randn_like(parameter))
    trained = logits(backbone, ids, mask)
    backbone.save_pretrained(tmp_path / "again")
    load_tokenizer(str(path)).save_pretrained(tmp_path / "again")
    torch.testing.assert_close(logits(load(tmp_path / "again"), ids, mask), trained)
    with torch.no_grad():
        plain = AutoModelForMaskedLM.from_pretrained(tmp_path / "again")(input_ids=ids, attention_mask=mask.long())
    torch.testing.assert_close(plain.logits, trained)


@pytest.mark.parametrize("family", ["bert", "esm", "electra"])
def test_sizes_that_are_equal(tmp_path, family):
    """Positions, layers and vocabulary: nothing is taken for a bias of the logits that is none."""
    path = saved(tmp_path / "model", family, vocab_size=64, max_position_embeddings=64, hidden_size=64)
    backbone = load(path)
    with torch.no_grad():
        expected = AutoModelForMaskedLM.from_pretrained(path)(input_ids=ids, attention_mask=mask.long()).logits
    torch.testing.assert_close(logits(backbone, ids, mask), expected)
    assert backbone.unused_ids == tuple(range(40, 64))


def test_the_bias_behind_the_last_matrix_is_trained(tmp_path):
    backbone = load(saved(tmp_path / "model", "esm"))
    backbone.logits(backbone(ids, mask)).square().mean().backward()
    assert backbone.transformer.lm_head.bias.grad.abs().min() > 0
    assert backbone.reference().head.bias is not backbone.head.bias


PADDING = "expected a model in which padding changes no other token, got one in which it does"
REFUSED = {
    "convbert": ({}, PADDING),
    "funnel": ({}, PADDING),
    "fnet": ({}, PADDING),
    "nystromformer": ({}, PADDING),
    "bart": ({}, "expected a masked language model of one stack, got an encoder with a decoder"),
    "mbart": ({}, "expected a masked language model of one stack, got an encoder with a decoder"),
    "mvp": ({}, "expected a masked language model of one stack, got an encoder with a decoder"),
    "mobilebert": ({}, "expected a head that ends with a matrix and a bias, got one that computes something else"),
    "bert": ({"is_decoder": True}, "expected a model in which tokens see what follows them, got one in which they do"),
}


@pytest.mark.parametrize("family", REFUSED)
def test_families_that_cannot_be_decoded(tmp_path, family):
    changes, message = REFUSED[family]
    path = saved(tmp_path / "model", family, **changes)
    with pytest.raises(TabomError) as error:
        load(path)
    assert str(error.value).startswith(f"{path}: model_type {family}: {message}")


def test_attention_that_a_family_does_not_have(tmp_path):
    path = saved(tmp_path / "model", "deberta")
    assert load(path).transformer.config._attn_implementation == "eager"
    with pytest.raises(TabomError, match=r"^attn_implementation: flex_attention: DebertaForMaskedLM does not support"):
        load(path, attn_implementation="flex_attention")


def test_a_missing_tensor_of_a_family_without_fused_attention(tmp_path):
    path = saved(tmp_path / "model", "mpnet")
    weights = load_file(path / "model.safetensors")
    name = "mpnet.encoder.layer.1.output.dense.weight"
    save_file(
        {key: value for key, value in weights.items() if key != name}, path / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(TabomError) as error:
        load(path)
    assert str(error.value) == f"{path}: missing keys: ['{name}']"


def test_a_configuration_that_is_none(tmp_path):
    path = saved(tmp_path / "model", "bert")
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "hidden_size": "wide"}))
    with pytest.raises(TabomError, match=r"/model/config\.json: expected the configuration of a model \(.*hidden_size"):
        load(path)


@pytest.mark.parametrize(
    ("family", "expected"), [("bert", 96), ("roberta", 95), ("mpnet", 94), ("longformer", 95), ("modernbert", 96)]
)
def test_the_longest_row(tmp_path, family, expected):
    """A canvas may be wider, where a short prompt stands beside a long one."""
    backbone = load(saved(tmp_path / "model", family))
    assert backbone.max_length == expected
    wide = torch.randint(4, 40, (2, 120))
    is_there = torch.zeros_like(wide, dtype=torch.bool)
    is_there[0, 120 - expected :] = is_there[1, :expected] = True
    together = logits(backbone, wide, is_there)
    alone = logits(backbone, wide[1:, :expected], is_there[1:, :expected])
    torch.testing.assert_close(together[1:, :expected], alone, rtol=1e-4, atol=1e-4)
