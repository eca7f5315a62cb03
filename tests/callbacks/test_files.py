import json
from types import SimpleNamespace

import pytest

from tabom.backbones import PretrainedBackbone
from tabom.callbacks import SaveBackbone
from tabom.errors import TabomError


def callbacks(name, **settings):
    return f"--trainer.callbacks={json.dumps([{'class_path': name, 'init_args': settings}])}"


def test_the_trained_backbone_is_handed_on(stage, tmp_path, tokenizer):
    cli = stage("fit", "sft_sd", callbacks("SaveBackbone", output_dir="out/model"))
    saved = PretrainedBackbone(str(tmp_path / "out/model")).load(tokenizer)
    assert saved.fingerprint() == cli.model.backbone.fingerprint()
    assert (tmp_path / "out/model/tokenizer.json").is_file()


def test_a_model_is_not_overwritten_and_training_does_not_start(stage, tmp_path):
    weights = tmp_path / "runs/demo/base/model.safetensors"
    before = weights.read_bytes()
    with pytest.raises(TabomError) as error:
        stage("fit", "sft_sd", callbacks("SaveBackbone", output_dir="runs/demo/base"))
    assert str(error.value) == (
        "runs/demo/base: expected no model yet, found model.safetensors; give another output_dir or move it away"
    )
    assert weights.read_bytes() == before


def test_sharded_weights_are_refused(tmp_path):
    with pytest.raises(TabomError) as error:
        SaveBackbone(str(tmp_path)).setup(None, SimpleNamespace(device_mesh=object()), "fit")
    assert str(error.value) == (
        "SaveBackbone: expected whole weights on every process, got sharded ones; tabom export writes them from a "
        "checkpoint"
    )


def test_a_saved_model_can_be_tested_with_its_trainings_config(stage):
    stage("test", "sft_sd", callbacks("SaveBackbone", output_dir="runs/demo/base"))


def test_of_a_backbone_with_an_adapter_the_adapter_is_handed_on(stage, tmp_path, tokenizer):
    lora = json.dumps({"r": 2, "target_modules": ["q_proj"]})
    option = f"--model.backbone.lora={lora}"
    cli = stage("fit", "sft_sd", callbacks("SaveBackbone", output_dir="out/adapter"), option)
    assert not (tmp_path / "out/adapter/model.safetensors").exists()
    adapted = PretrainedBackbone("runs/demo/base", adapter="out/adapter").load(tokenizer)
    assert adapted.fingerprint() == cli.model.backbone.fingerprint()
    with pytest.raises(TabomError, match=r"^out/adapter: expected no model yet, found adapter_model\.safetensors"):
        stage("fit", "sft_sd", callbacks("SaveBackbone", output_dir="out/adapter"), option)
