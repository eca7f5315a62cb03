"""What is checked before anything heavy is loaded, and what is loaded until then."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from helpers import last_checkpoint
from safetensors.torch import save_file

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
        *({"ckpt_path": path} for path in ("last", "best", "s3://bucket/x.ckpt", None)),  # last and best: see below
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
            ["--help=all"],
            ["--config", config, "--trainer.max_stepz=3"],
            ["--config", config, "--trainer.logger=false"],
        ]
    }
    options |= {verb: [["--help=all"]] for verb in ("validate", "predict", "evaluate", "export")}
    words = [[verb, *rest] for verb, all_rest in options.items() for rest in all_rest]
    command = [sys.executable, "-c", code, json.dumps(words), json.dumps(HEAVY)]
    run = subprocess.run(
        command, cwd=tmp_path, env={**os.environ, "COLUMNS": "80"}, check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in run.stdout.splitlines() if line.startswith("[[")]
    assert [line[:2] for line in lines] == [
        [w, 2 if "--trainer.max_stepz=3" in w else int("--help=all" not in w)] for w in words
    ]
    assert [(line[0][:2], line[2]) for line in lines if line[2]] == []
    assert list(tmp_path.iterdir()) == []


VERBS = ("fit", "validate", "test", "predict", "evaluate", "export")
WHOLE = "expected a checkpoint that a training wrote, found another file or a part of one"

WEIGHTS = "expected a checkpoint that a training wrote, found weights without the rest"


def cut(last, path):
    path.write_bytes(last.read_bytes()[: last.stat().st_size // 2])


def rewritten(last, path, *names):
    content = torch.load(last, weights_only=True)
    torch.save({name: value for name, value in content.items() if name not in names}, path)


NO_CHECKPOINTS = {
    "missing.ckpt": (lambda last, path: None, "expected a checkpoint, found no such file; tabom fit makes it"),
    "cut.ckpt": (cut, WHOLE),
    "empty.ckpt": (lambda last, path: path.touch(), WHOLE),
    "text.ckpt": (lambda last, path: path.write_text("loss: 0.1\n"), WHOLE),
    "archive.ckpt": (lambda last, path: zipfile.ZipFile(path, "w").writestr("a", "b"), WHOLE),
    "pickle.ckpt": (lambda last, path: path.write_bytes(pickle.dumps(Path("x"))), WHOLE),
    "model.safetensors": (lambda last, path: save_file({"a": torch.zeros(2)}, path), WEIGHTS),
    "bare.pt": (lambda last, path: torch.save({"a": torch.zeros(2)}, path), WEIGHTS),
    "tensor.pt": (
        lambda last, path: torch.save(torch.zeros(2), path),
        "expected a checkpoint that a training wrote, found something else",
    ),
    "folder": (
        lambda last, path: path.mkdir(),
        "expected the directory of a sharded checkpoint, found no meta.pt in it",
    ),
}


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("name", NO_CHECKPOINTS)
def test_what_is_no_checkpoint(trained, tmp_path, monkeypatch, name, verb):
    monkeypatch.chdir(tmp_path)
    make, expected = NO_CHECKPOINTS[name]
    make(Path(last_checkpoint(trained)), Path(name))
    with pytest.raises(TabomError) as error:
        check_paths(verb, {"ckpt_path": name})
    assert str(error.value) == f"{name}: {expected}"


@pytest.mark.parametrize("verb", VERBS)
def test_weights_alone_are_enough_for_all_but_going_on(trained, tmp_path, verb):
    path = tmp_path / "weights.ckpt"
    rewritten(Path(last_checkpoint(trained)), path, "optimizer_states", "lr_schedulers", "loops", "callbacks")
    if verb == "fit":
        with pytest.raises(TabomError, match=r"found one that is only evaluated \(without loops, lr_sch"):
            check_paths(verb, {"ckpt_path": str(path)})
    else:
        check_paths(verb, {"ckpt_path": str(path)})


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize("strategy", ["auto", {"class_path": "lightning.pytorch.strategies.ModelParallelStrategy"}])
def test_a_sharded_checkpoint_takes_its_strategy(trained, tmp_path, verb, strategy):
    (tmp_path / "last.ckpt").mkdir()
    rewritten(Path(last_checkpoint(trained)), tmp_path / "last.ckpt/meta.pt", "state_dict", "optimizer_states")
    config = {"ckpt_path": str(tmp_path / "last.ckpt"), "trainer": {"strategy": strategy}}
    if strategy == "auto" and verb not in ("evaluate", "export"):
        with pytest.raises(TabomError, match=r"/last.ckpt: expected the file of a checkpoint, found the directory"):
            check_paths(verb, config)
    else:
        check_paths(verb, config)


@pytest.mark.parametrize("name", ["last", "best"])
@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_only_the_directory_of_a_training_has_a_last_checkpoint(verb, name):
    message = f"ckpt_path: expected the path of a checkpoint, got {name}; the run_dir of tabom {verb} is not that of a "
    with pytest.raises(TabomError, match=message):
        check_paths(verb, {"ckpt_path": name})


@pytest.mark.parametrize("verb", VERBS)
def test_what_only_lightning_knows(verb):
    with pytest.raises(TabomError, match=r"^ckpt_path: expected the path of a checkpoint, got hpc$"):
        check_paths(verb, {"ckpt_path": "hpc"})


def test_the_best_checkpoint(stage, trained):
    """Of two equal ones it is the first, after three steps."""
    shutil.copytree(Path(last_checkpoint(trained)).parent, "copy/checkpoints")
    cli = stage("test", "tabom", "--run_dir=copy", "--ckpt_path=best", "--trainer.limit_test_batches=1")
    assert Path(cli.config_init["test"]["ckpt_path"]).name == "epoch=0-step=3.ckpt"
    for path in Path("copy/checkpoints").glob("epoch*"):
        path.unlink()
    with pytest.raises(TabomError, match=r"^copy/checkpoints/last.ckpt: expected the checkpoint of a training"):
        stage("test", "tabom", "--run_dir=copy", "--ckpt_path=best")
    cut(Path(last_checkpoint(trained)), Path("copy/checkpoints/last.ckpt"))
    for name in ("last", "best"):
        with pytest.raises(TabomError, match=rf"^copy/checkpoints/last.ckpt: {WHOLE}$"):
            stage("test", "tabom", "--run_dir=copy", f"--ckpt_path={name}")


def test_what_was_trained_distils(stage, trained):
    """With the weights of the checkpoint, and not with those that the configuration names."""
    sizes = ("--data.num_queries=2", "--data.queries_per_shard=2", "--writer.output_dir=distilled")
    stage("predict", "distill", *sizes, f"--ckpt_path={last_checkpoint(trained)}")
    origin = json.loads(Path("distilled/manifest.json").read_text())
    assert trained.model.backbone.fingerprint() in json.dumps(origin)
