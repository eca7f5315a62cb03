"""`--model PATH`: a checkpoint is enough for `predict` and `evaluate`."""

import json
from pathlib import Path

import pytest
from helpers import (
    ParseOnlyTrainer,
    a2d_config,
    a2d_tokenizer_files,
    family_checkpoint,
    illada_config,
    illada_tokenizer_files,
)

from tabom.backbones.stock import A2DQwen3Backbone, IlladaBackbone
from tabom.cli.lightning_cli import run
from tabom.cli.model_path import with_model_path
from tabom.errors import TabomError

DATA = {
    "predict": ["--data.task=Sudoku4x4", "--data.response_length=64", "--writer.output_dir=out"],
    "evaluate": ["--data.benchmark=TaskBenchmark", "--data.benchmark.name=s", "--data.benchmark.task=Sudoku4x4"],
}
COMMON = ["--trainer.logger=false", "--seed_everything=1"]
DATA["evaluate"] += ["--data.benchmark.num_examples=2", "--data.response_length=64"]


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ids = illada_tokenizer_files(tmp_path / "some/dlm")
    return family_checkpoint(tmp_path / "some/dlm", IlladaBackbone, illada_config(**ids)).relative_to(tmp_path)


@pytest.mark.parametrize("verb", DATA)
@pytest.mark.parametrize("is_joined", [False, True], ids=["two words", "one word"])
def test_a_path_is_enough(path, verb, is_joined):
    """Sampler, mask token and chat template are those of the family."""
    words = [f"--model={path}"] if is_joined else ["--model", str(path)]
    cli = run([verb, *words, *COMMON, *DATA[verb]], trainer_class=ParseOnlyTrainer)
    sampler = cli.model.sampler
    assert (sampler.score, sampler.block_length, sampler.temperature) == ("confidence", 32, 0.0)
    assert cli.datamodule.chat_template
    assert cli.datamodule.tokenizer.mask_token_id == 5
    assert cli.model.source.path == str(path)


def test_a_configuration_wins_but_for_the_path(path, tmp_path):
    """Options of the backbone stay too, beside another path."""
    (tmp_path / "c.yaml").write_text(
        "model:\n  backbone: {class_path: PretrainedBackbone, init_args: {path: other, dtype: bfloat16}}\n"
        "  sampler: {class_path: Sampler, init_args: {score: margin}}\n"
        "data: {chat_template: false}\n"
    )
    words = ["evaluate", "--model", str(path), "--config", "c.yaml", *COMMON, *DATA["evaluate"]]
    cli = run(words, trainer_class=ParseOnlyTrainer)
    assert (cli.model.source.path, cli.model.source.dtype) == (str(path), "bfloat16")
    assert cli.model.sampler.score == "margin"
    assert not cli.datamodule.chat_template


def test_the_directory_of_an_adapter(path, tmp_path):
    (tmp_path / "adapter").mkdir()
    content = {"base_model_name_or_path": str(path), "peft_type": "LORA"}
    (tmp_path / "adapter/adapter_config.json").write_text(json.dumps(content))
    words = ["evaluate", "--model", "adapter", *COMMON, *DATA["evaluate"]]
    source = run(words, trainer_class=ParseOnlyTrainer).model.source
    assert (source.path, source.adapter) == (str(path), "adapter")


@pytest.mark.parametrize(
    "words",
    [
        ["fit", "--model", "."],
        ["evaluate", "--model", "BenchmarkModule"],
        ["evaluate", "--model=tabom.evaluation.BenchmarkModule"],
        ["evaluate", "--model", '{"class_path": "a/b"}'],
        ["evaluate", "--model", "folder/model.yaml"],
        ["evaluate", "--model"],
        ["evaluate", "--model.backbone.path", "some/dlm"],
    ],
    ids=["another verb", "class", "whole class", "options", "file", "nothing", "longer name"],
)
def test_what_is_no_path_is_left_as_it_is(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    Path("folder/model.yaml").touch()
    assert with_model_path(words) == words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["predict", "--model", "runs/none/here"], "runs/none/here: expected the directory of a checkpoint or a hub"),
        (["evaluate", "--model", "."], "config.json: expected the configuration of a saved model, found no such file"),
    ],
    ids=["nothing there", "no checkpoint"],
)
def test_bad_input(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TabomError) as error:
        run(words)
    assert str(error.value).startswith(message)


def test_a_causal_checkpoint_says_which_keys_it_needs(tmp_path):
    ids = a2d_tokenizer_files(tmp_path / "model")
    family_checkpoint(tmp_path / "model", A2DQwen3Backbone, a2d_config(**ids))
    file = tmp_path / "model/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "qwen3"}))
    with pytest.raises(TabomError, match=r"by the backbone's keys attention: full, shift \(true or false\) and mask_t"):
        run(["evaluate", "--model", str(tmp_path / "model")])
