"""What is checked before anything heavy is loaded, and what is loaded until then."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tabom.cli.checks import check_paths
from tabom.cli.main import main
from tabom.errors import TabomError

HEAVY = (
    *("bitsandbytes", "datasets", "evaluate", "lm_eval", "math_verify", "nltk", "optuna", "pandas", "peft", "pyarrow"),
    *("sklearn", "transformers.modeling_utils"),
    *("transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2"),
)
"""Loaded neither by Lightning itself nor by a verb that has not begun to work; wandb is, where a config names it."""


@pytest.fixture
def demo(repository, tmp_path, monkeypatch):
    """The demo's configs in an empty folder; fails a run of one and returns its sentence."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(repository / "configs", "configs")

    def call(capsys, verb, name, *options):
        with pytest.raises(SystemExit) as error:
            main([verb, "--config", f"configs/demo/{name}.yaml", *options])
        assert error.value.code == 1
        (line,) = (line for line in capsys.readouterr().err.splitlines() if line.startswith("tabom: error: "))
        return line.removeprefix("tabom: error: ")

    return call


def test_a_missing_base(capsys, demo, tmp_path):
    assert demo(capsys, "fit", "tabom") == (
        "runs/demo/base: expected the checkpoint of a backbone, found no such directory; "
        "tabom fit --config configs/demo/pretrain.yaml makes it"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["configs"]


def test_missing_trajectories(capsys, demo, tmp_path):
    (tmp_path / "runs/demo/base").mkdir(parents=True)
    assert demo(capsys, "fit", "sft_sd") == (
        "runs/demo/trajectories/manifest.json: expected the manifest of a finished distillation, found no such file; "
        "tabom predict --config configs/demo/distill.yaml makes it"
    )
    assert demo(capsys, "fit", "sft_sd", "--data.path=elsewhere") == (
        "elsewhere/manifest.json: expected the manifest of a finished distillation, found no such file; "
        "tabom predict makes it"
    )
    assert sorted(path.name for path in tmp_path.rglob("*") if "configs" not in path.parts) == ["base", "demo", "runs"]


def test_a_missing_checkpoint(capsys, demo, make_trajectories):
    Path("runs/demo/base").mkdir(parents=True)
    make_trajectories("runs/demo/trajectories")
    assert demo(capsys, "test", "tabom", "--ckpt_path=none.ckpt") == (
        "none.ckpt: expected a checkpoint, found no such file; tabom fit --config configs/demo/tabom.yaml makes it"
    )


def backbone(**options):
    return {"model": {"class_path": "tabom.backbones.PretrainedBackbone", "init_args": options}}


def task(name, **options):
    return {"data": {"init_args": {"task": [{"class_path": f"tabom.tasks.{name}", "init_args": options}]}}}


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            backbone(path="some/where/else"),
            "some/where/else: expected the checkpoint of a backbone, found no such directory; tabom export makes it",
        ),
        (
            backbone(path="a-hub/id", adapter="/some/adapter"),
            "/some/adapter: expected a trained adapter, found no such directory; tabom export makes it",
        ),
        (
            {"data": {"init_args": {"tokenizer": "./words"}}},
            "./words: expected the files of a tokenizer, found no such directory; tabom export makes it",
        ),
        (
            task("QuestionFile", train_file="train.jsonl"),
            "train.jsonl: expected a CSV, JSON Lines or Parquet file, found no such file",
        ),
        (
            task("Sudoku4x4", test_file="test.csv"),
            "test.csv: expected a CSV, JSON Lines or Parquet file, found no such file",
        ),
        (task("PythonSource", root="src"), "src: expected a folder of source text, found no such directory"),
        (
            {"data": {"class_path": "tabom.evaluation.PaperBenchmark", "init_args": {"data_dir": "questions"}}},
            "questions: expected the folder of a benchmark's questions, found no such directory",
        ),
        ({"ckpt_path": "x.ckpt"}, "x.ckpt: expected a checkpoint, found no such file; tabom fit makes it"),
    ],
)
def test_what_is_missing(config, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TabomError) as error:
        check_paths("evaluate", config)
    assert str(error.value) == message


@pytest.mark.parametrize(
    "config",
    [
        backbone(path="GSAI-ML/LLaDA-8B-Instruct", adapter="someone/adapter"),
        backbone(path="bert-base-uncased", adapter=None),
        {"data": {"init_args": {"tokenizer": "characters"}}},
        task("QuestionDataset", path="openai/gsm8k"),
        *({"ckpt_path": path} for path in ("last", "best", "s3://bucket/x.ckpt", None)),
        {"model": {"class_path": "tabom.objectives.T3DObjective", "init_args": {"path": "rank_weighted"}}},
    ],
)
def test_what_is_no_path(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check_paths("fit", config)


def test_a_name_below_a_folder_that_is_here_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("models").mkdir()
    with pytest.raises(TabomError, match=r"^models/mine: expected the checkpoint of a backbone, found no such dir"):
        check_paths("fit", backbone(path="models/mine"))


def test_a_verb_imports_what_it_uses(repository, tmp_path):
    code = (
        "import json, sys\n"
        "from tabom.cli.main import main\n"
        "for words in json.loads(sys.argv[1]):\n"
        "    try:\n"
        "        main(words)\n"
        "    except SystemExit as end:\n"
        "        heavy = sorted(set(json.loads(sys.argv[2])) & sys.modules.keys())\n"
        "        print(json.dumps([words, end.code, heavy]))\n"
    )
    config = str(repository / "configs/demo/tabom.yaml")
    options = {
        "fit": [
            ["--help"],
            ["--config", config, "--trainer.max_stepz=3"],
            ["--config", config, "--trainer.logger=false"],
        ]
    }
    options |= {verb: [["--help"]] for verb in ("validate", "predict", "evaluate", "export")}
    words = [[verb, *rest] for verb, all_rest in options.items() for rest in all_rest]
    command = [sys.executable, "-c", code, json.dumps(words), json.dumps(HEAVY)]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "COLUMNS": "80"}, check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[[")]
    assert [line[:2] for line in lines] == [
        [w, 2 if "--trainer.max_stepz=3" in w else int("--help" not in w)] for w in words
    ]
    assert [(line[0][:2], line[2]) for line in lines if line[2]] == []
    assert list(tmp_path.iterdir()) == []
