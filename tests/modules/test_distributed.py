"""Two processes measure and write what one does: no row is repeated, none is left out.

The processes are started as a user starts them; a fork of the test process would hang in torch's threads.
"""

import csv
import subprocess
import sys

import pytest
import torch

from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.trajectories import read_trajectories

TWO = ("--trainer.strategy=ddp", "--trainer.devices=2")


@pytest.fixture
def tabom(repository, stage):
    """Run a demo config in a process of its own, in the folder that ``stage`` prepared."""

    def call(verb, config, *options):
        path = repository / "configs" / "demo" / f"{config}.yaml"
        command = [sys.executable, "-m", "tabom", verb, "--config", str(path), *options]
        result = subprocess.run(command, capture_output=True, text=True, timeout=90)
        assert result.returncode == 0, result.stderr

    return call


def test_metrics_of_two_processes_are_those_of_one(stage, tabom, tmp_path):
    """Of a trained model, so that the compared values are not all zero."""
    checkpoint = tmp_path / "trained.ckpt"
    stage("fit", "tabom", "--model.init_args.optimizer.init_args.lr=0.05").trainer.save_checkpoint(checkpoint)
    options = (
        f"--ckpt_path={checkpoint}",
        "--data.init_args.evaluation.num_test_prompts=5",
        "--data.init_args.evaluation.num_base_examples=7",
        "--data.init_args.evaluation.batch_size=2",
    )
    alone = stage("test", "tabom", *options).trainer.callback_metrics
    logger = '{"class_path": "lightning.pytorch.loggers.CSVLogger", "init_args": {"save_dir": "two", "version": "0"}}'
    tabom("test", "tabom", *options, *TWO, f"--trainer.logger={logger}")
    with next((tmp_path / "two").rglob("metrics.csv")).open() as file:
        (together,) = csv.DictReader(file)
    assert alone["test/kl"] > 0.01
    assert abs(alone["test/nelbo_change"]) > 0.001
    assert {"test/order_agreement", "test/calibration_error", "test/ce_ratio"} <= alone.keys()
    for name, value in alone.items():
        assert float(together[name]) == pytest.approx(float(value), rel=1e-4, abs=1e-6), name


def test_two_processes_distil(tabom, tmp_path, tokenizer):
    callback = '[{"class_path": "TrajectoryWriter", "init_args": {"output_dir": "two"}}]'
    options = ("--data.init_args.num_queries=11", "--data.init_args.evaluation.batch_size=3")
    tabom("predict", "distill", f"--trainer.callbacks={callback}", *options, *TWO)
    table = read_trajectories(
        tmp_path / "two", tokenizer_fingerprint=tokenizer_fingerprint(tokenizer), response_length=19
    )
    assert [shard.num_rows for shard in table.manifest.shards] == [6, 5]
    assert len(set(table.query_ids)) == 11


def test_two_processes_train(tabom, tmp_path):
    options = (
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=2",
        "--trainer.logger=false",
        "--trainer.default_root_dir=two",
        "--data.init_args.batch_size=2",
        "--data.init_args.evaluation.num_validation_prompts=3",
        "--data.init_args.evaluation.num_base_examples=5",
        "--model.init_args.lr_scheduler.init_args.num_warmup_steps=1",
        "--model.init_args.lr_scheduler.init_args.num_training_steps=4",
    )
    tabom("fit", "tabom", *options, *TWO)
    checkpoint = torch.load(tmp_path / "two/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
