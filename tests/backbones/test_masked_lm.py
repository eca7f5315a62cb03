"""Masked language models of transformers as small diffusion models."""

import pytest
import torch
from helpers import save_word_tokenizer
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    ModernBertConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
)

from tabom.backbones import Lora, PretrainedBackbone
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import TabomError

SIZES = {"vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
CONFIGS = {
    "bert": BertConfig(**SIZES, max_position_embeddings=64),
    "roberta": RobertaConfig(**SIZES, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3),
    "modernbert": ModernBertConfig(
        **SIZES, pad_token_id=0, cls_token_id=2, sep_token_id=3, bos_token_id=2, eos_token_id=3, reference_compile=False
    ),
    "distilbert": DistilBertConfig(vocab_size=60, dim=32, n_layers=2, n_heads=4, hidden_dim=48),
}


@pytest.fixture(params=CONFIGS)
def saved(request, tmp_path):
    torch.manual_seed(0)
    model = AutoModelForMaskedLM.from_config(CONFIGS[request.param])
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.2)
    model.tie_weights()
    model.save_pretrained(tmp_path)
    save_word_tokenizer(tmp_path, 60, pad_token="w0", mask_token="w1", cls_token="w2", sep_token="w3")
    return tmp_path


def load(path, **settings):
    return PretrainedBackbone(str(path), **settings).load(load_tokenizer(str(path))).eval()


def ids_and_mask(num_rows=2, length=9):
    return torch.randint(4, 60, (num_rows, length)), torch.ones(num_rows, length, dtype=torch.bool)


def test_hidden_states_and_head_make_the_models_logits(saved):
    backbone = load(saved)
    ids, mask = ids_and_mask()
    with torch.no_grad():
        hidden = backbone(ids, mask)
        expected = AutoModelForMaskedLM.from_pretrained(saved)(input_ids=ids, attention_mask=mask).logits
    assert hidden.shape == (2, 9, 32)
    torch.testing.assert_close(backbone.logits(hidden), expected)
    assert (backbone.vocab_size, backbone.mask_token_id) == (60, 1)


def test_padding_on_either_side_changes_nothing(saved):
    backbone = load(saved)
    ids, mask = ids_and_mask(1)
    alone = backbone(ids, mask)[0]
    for left, right in ((4, 0), (0, 3), (2, 5)):
        padded = torch.nn.functional.pad(ids, (left, right), value=0)
        hidden = backbone(padded, torch.nn.functional.pad(mask, (left, right)))[0, left : left + 9]
        torch.testing.assert_close(hidden, alone, rtol=1e-4, atol=1e-4)


def test_every_weight_is_trained_and_survives(saved, tmp_path):
    backbone = load(saved)
    ids, mask = ids_and_mask()
    backbone.logits(backbone(ids, mask)).square().mean().backward()
    assert all(parameter.grad is not None for parameter in backbone.parameters())
    before = backbone.fingerprint()
    backbone.save_pretrained(tmp_path / "again")
    load_tokenizer(str(saved)).save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").fingerprint() == before


def test_adapter(saved, tmp_path):
    names = {"q_lin", "Wqkv", "query"}  # one a family
    layers = {name.rpartition(".")[2] for name, _ in load(saved).transformer.named_modules()}
    (target,) = names & layers
    backbone = load(saved, lora=Lora(r=2, alpha=4, target_modules=(target,)))
    ids, mask = ids_and_mask()
    plain = load(saved)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    with torch.no_grad():
        adapted = backbone.logits(backbone(ids, mask))
        reference = backbone.reference()
        assert torch.equal(reference.logits(reference(ids, mask)), plain.logits(plain(ids, mask)))
        backbone.save_adapter(tmp_path / "adapter")
        backbone.save_pretrained(tmp_path / "merged")
        load_tokenizer(str(saved)).save_pretrained(tmp_path / "merged")
        for other in (load(saved, adapter=str(tmp_path / "adapter")), load(tmp_path / "merged")):
            torch.testing.assert_close(other.logits(other(ids, mask)), adapted, rtol=1e-4, atol=1e-4)
    assert (adapted - plain.logits(plain(ids, mask))).abs().max() > 0.01


def test_heads_for_other_purposes_are_left_aside_but_nothing_may_be_missing(tmp_path):
    model = BertForMaskedLM(CONFIGS["bert"])
    model.save_pretrained(tmp_path)
    backend = Tokenizer(models.WordLevel({f"w{i}": i for i in range(60)}))
    PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="w0", mask_token="w1", sep_token="w3").save_pretrained(
        tmp_path
    )
    weights = load_file(tmp_path / "model.safetensors")
    file = tmp_path / "model.safetensors"
    save_file({**weights, "bert.pooler.dense.weight": torch.zeros(32, 32)}, file, {"format": "pt"})
    load(tmp_path)
    weights.pop("bert.encoder.layer.1.output.dense.weight")
    save_file(weights, file, {"format": "pt"})
    with pytest.raises(TabomError) as error:
        load(tmp_path)
    assert str(error.value) == f"{tmp_path}: missing keys: ['bert.encoder.layer.1.output.dense.weight']"
