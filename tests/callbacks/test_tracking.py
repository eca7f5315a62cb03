"""What a run leaves behind: in W&B's offline directory, with a CSV logger, and without a logger."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from helpers import last_checkpoint

from tabom.callbacks import validation_media

WANDB = ("--trainer.logger=lightning.pytorch.loggers.WandbLogger", "--trainer.logger.offline=true")


def inspect(run_file, *options):
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", *options, run_file]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


_OFFLINE_RUN = []


@pytest.fixture
def offline_run(stage, tmp_path_factory):
    """One short training under W&B, made once, and the folder it wrote."""
    if not _OFFLINE_RUN:
        logs = tmp_path_factory.mktemp("logs")
        stage("fit", "tabom", *WANDB, f"--trainer.logger.save_dir={logs}", "--trainer.log_every_n_steps=1")
        _OFFLINE_RUN.extend((logs / "wandb").glob("offline-run-*/run-*.wandb"))
    (run_file,) = _OFFLINE_RUN
    return run_file


def test_an_offline_run_holds_losses_metrics_config_curve_and_samples(offline_run, tmp_path, monkeypatch):
    summary = json.loads(inspect(offline_run, "--summary"))
    values = summary["summary"]
    assert {"train/loss", "train/reconstruction", "train/ranking", "train/order_agreement"} <= values.keys()
    validated = ("accuracy_1_per_step", "accuracy_2_per_step", "nelbo", "nelbo_change", "kl", "tds", "ranking")
    assert {f"validate/{name}" for name in validated} <= values.keys()

    objective = summary["config"]["cli"]["model"]["objective"]
    assert objective["class_path"] == "tabom.objectives.TabomObjective"
    assert objective["margin"] == 0.1

    files = offline_run.parent / "files"
    media = [path.name for path in (files / "media").rglob("*") if path.is_file()]
    figures = ("tds_curve", "tds_by_share", "entropy_by_step", "ranking_violations", "accuracy_against_forgetting")
    assert all(any(name.startswith(figure) and name.endswith(".png") for name in media) for figure in figures)
    tables = list((files / "media/table").rglob("samples*.json"))
    assert len(tables) == 2  # one a check
    content = json.loads(tables[0].read_text())
    assert content["columns"] == ["prompt", "response", "reference", "is_verified", "unmask_step"]
    assert len(content["data"]) == 4
    assert content["data"][0][0].startswith("sudoku ")


def test_figures_of_a_training_go_on_when_it_is_resumed(stage, trained, monkeypatch):
    """Without a logger they are files; the second half of a training draws the first half as well."""
    drawn = []
    figures = validation_media.training_figures
    monkeypatch.setattr(validation_media, "training_figures", lambda *lines: drawn.append(lines) or figures(*lines))
    half = stage("fit", "tabom", "--trainer.log_every_n_steps=1", "--trainer.max_steps=3")
    resumed = stage("fit", "tabom", "--trainer.log_every_n_steps=1", f"--ckpt_path={last_checkpoint(half)}")
    assert [len(violations) for violations, _ in drawn] == [3, 6]
    assert [len(checks) for _, checks in drawn] == [1, 2]
    saved = torch.load(last_checkpoint(half), weights_only=True)["callbacks"]
    assert len(saved["EvaluationMedia"]["checks"]) == 1  # checkpoints of former releases have this name
    whole = torch.load(last_checkpoint(trained), weights_only=True)["callbacks"]["EvaluationMedia"]
    assert drawn[1] == (whole["violations"], whole["checks"])
    for cli in (trained, resumed):
        root = Path(cli.trainer.default_root_dir)
        paths = list((root / "figures").rglob("*.png"))
        names = {path.name for path in paths}
        assert {"fit_ranking_violations.png", "fit_accuracy_against_forgetting.png", "validate_tds_curve.png"} <= names
        assert {path.parent.name for path in paths} == {path.stem for path in (root / "records").iterdir()}


def test_the_recorded_config_can_be_replayed(offline_run, stage, repository, tmp_path):
    recorded = offline_run.parent / "files" / "tabom_config.yaml"
    config = yaml.safe_load(recorded.read_text())
    assert config["data"]["init_args"]["batch_size"] == 4
    from tabom.cli.lightning_cli import run

    cli = run(["fit", "--config", str(recorded), "--trainer.logger=false", "--trainer.default_root_dir=replayed"])
    assert cli.trainer.global_step == 6


def test_csv_logger(stage, tmp_path):
    stage(
        "fit",
        "sft_sd",
        "--trainer.logger=lightning.pytorch.loggers.CSVLogger",
        f"--trainer.logger.save_dir={tmp_path}/logs",
        "--trainer.log_every_n_steps=1",
    )
    (metrics,) = (tmp_path / "logs").rglob("metrics.csv")
    with metrics.open() as file:
        rows = list(csv.DictReader(file))
    assert sum(bool(row["train/loss"]) for row in rows) == 6
    assert sum(bool(row["validate/kl"]) for row in rows) == 2
    assert (metrics.parent / "tabom_config.yaml").is_file()


def test_no_logger(stage, tmp_path):
    stage("fit", "sft_sd", "--trainer.default_root_dir=plain")
    assert yaml.safe_load((tmp_path / "plain/tabom_config.yaml").read_text())["seed_everything"] == 1


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("disabled", ["--trainer.logger.offline=true"]),
        ("disabled", ["--trainer.logger.offline=false", "--trainer.callbacks+=LearningRateMonitor"]),
        ("disabled", ["--trainer.logger.offline=false", "--trainer.callbacks+=Artifacts"]),
        ("online", ["--trainer.logger.mode=disabled"]),
    ],
)
def test_w_and_b_can_be_disabled(stage, tmp_path, monkeypatch, mode, options):
    monkeypatch.setenv("WANDB_MODE", mode)
    logger = f"--trainer.logger.save_dir={tmp_path}/logs"
    few = ["--trainer.max_steps=1", "--trainer.limit_val_batches=0"]
    cli = stage("fit", "sft_sd", WANDB[0], logger, *few, *options)
    assert cli.trainer.global_step == 1
    assert not any(path.name == "wandb" for path in tmp_path.rglob("*"))


def test_an_offline_run_of_a_distillation_holds_what_came_out(stage, tmp_path):
    writer = {"class_path": "TrajectoryWriter", "init_args": {"output_dir": "new"}}
    options = (*WANDB, f"--trainer.logger.save_dir={tmp_path}/logs", f"--trainer.callbacks={json.dumps([writer])}")
    stage("predict", "distill", *options, "--data.num_queries=12")
    (run_file,) = (tmp_path / "logs/wandb").glob("offline-run-*/run-*.wandb")
    values = json.loads(inspect(run_file, "--summary"))["summary"]
    assert {values[f"distill/{name}"] for name in ("trajectories", "kept", "decoded by this run")} == {12}
    assert values["distill/tokens per second"] > 0
    (table,) = (run_file.parent / "files/media/table").rglob("*.json")
    content = dict(json.loads(table.read_text())["data"])
    assert content["trajectories"] == "12"
    assert {"verified", "verified, %", "mean response tokens"} <= content.keys()
