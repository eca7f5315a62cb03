"""Base weights in 8 or 4 bits, which carry an adapter."""

import sys
from pathlib import Path

import pytest
import torch
from helpers import dream_config, family_checkpoint, llada_config

from tabom.backbones import Lora, PretrainedBackbone
from tabom.backbones.dream import DreamBackbone
from tabom.backbones.llada import LladaBackbone
from tabom.errors import TabomError

FAMILIES = {"llada": (LladaBackbone, llada_config), "dream": (DreamBackbone, dream_config)}


@pytest.fixture
def load(tmp_path, monkeypatch):
    """A tiny model of a family, of random weights, whatever the tokenizer."""
    monkeypatch.setattr("tabom.backbones.base.Backbone.check_tokenizer", lambda self, tokenizer: None)

    def call(family, **options):
        kind, config = FAMILIES[family]
        if not (tmp_path / family).exists():
            family_checkpoint(tmp_path / family, kind, config())
        return PretrainedBackbone(str(tmp_path / family), **options).load(None)

    return call


def test_quantised_weights_need_an_adapter():
    message = "quantization: expected lora or adapter beside 4bit, since quantised weights are not trained, got neither"
    with pytest.raises(TabomError) as caught:
        PretrainedBackbone("model", quantization="4bit")
    assert str(caught.value) == message


def test_a_missing_library_is_named(load, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setattr("tabom.backbones.pretrained.find_spec", lambda name: None)
    with pytest.raises(TabomError) as caught:
        load("dream", quantization="8bit", lora=Lora())
    assert str(caught.value) == (
        "quantization: expected the package bitsandbytes for 8bit, found none; pip install 'tabom[quantization]'"
    )


@pytest.mark.filterwarnings("ignore")  # of bitsandbytes and what it calls
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("quantization", "tolerance"), [("8bit", 0.01), ("4bit", 0.12)])
def test_blocks_are_quantised_and_carry_an_adapter(load, family, quantization, tolerance):
    exact = load(family)
    backbone = load(family, quantization=quantization, lora=Lora(r=2), dtype="float32")
    layer, exact_layer = (part.transformer.model.layers[1].mlp.down_proj for part in (backbone, exact))
    assert type(layer).__name__ == {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantization]
    identity = torch.eye(layer.in_features)
    weight, exact_weight = (part(identity).detach() for part in (layer, exact_layer))
    assert 0 < (weight - exact_weight).norm() < tolerance * exact_weight.norm()
    for name in ("lm_head", "model.embed_tokens"):
        assert torch.equal(*(part.transformer.get_submodule(name).weight for part in (backbone, exact)))
    hidden = backbone(torch.arange(12).view(2, 6), torch.ones(2, 6, dtype=torch.bool))
    backbone.logits(hidden).square().mean().backward()
    trained = {name: p for name, p in backbone.named_parameters() if p.requires_grad}
    assert len(trained) == 8
    assert all(".lora_" in name and p.dtype == torch.float32 and p.grad is not None for name, p in trained.items())


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_fast", [False, True])
def test_decoding_in_four_bits_on_a_cpu_whatever_the_widths(load, monkeypatch, is_fast):
    """Where the CPU multiplies in bfloat16, bitsandbytes packs 32 outputs and 64 inputs together, or fails."""
    monkeypatch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: is_fast)
    backbone = load("llada", quantization="4bit", lora=Lora(r=2), dtype="float32").eval()
    layers = [module for module in backbone.modules() if type(module).__name__ == "Linear4bit"]
    assert any(layer.out_features % 32 or layer.in_features % 64 for layer in layers)
    with torch.no_grad():
        hidden = backbone(torch.arange(12).view(2, 6), torch.ones(2, 6, dtype=torch.bool))
    assert hidden.isfinite().all()


@pytest.mark.filterwarnings("ignore")
def test_export_of_a_quantised_model_writes_the_adapter_alone(stage):
    options = [
        '--model.backbone.lora={"r": 2}',
        "--model.backbone.quantization=8bit",
        "--trainer.limit_val_batches=0",
    ]
    stage("fit", "tabom", *options, "--trainer.max_steps=2").trainer.save_checkpoint("trained.ckpt")
    stage("export", "tabom", *options[:2], "--ckpt_path=trained.ckpt", "--output_dir=a", "--kind=adapter")
    assert Path("a/adapter_model.safetensors").is_file()
    with pytest.raises(TabomError) as caught:
        stage("export", "tabom", *options[:2], "--ckpt_path=trained.ckpt", "--output_dir=b")
    assert str(caught.value) == (
        "kind: expected adapter, since the weights are quantised, got merged; to merge it into the original weights "
        """add --model.backbone='{"init_args": {"quantization": null}}'"""
    )
    assert not Path("b").exists()
    unquantised = '--model.backbone={"init_args": {"quantization": null}}'
    stage("export", "tabom", *options[:2], unquantised, "--ckpt_path=trained.ckpt", "--output_dir=b")
    assert Path("b/model.safetensors").is_file()
