"""Two processes measure and write what one does: no row is repeated, none is left out.

The processes are started as a user starts them; a fork of the test process would hang in torch's threads.
"""

import csv
import json
import subprocess
import sys

import pytest
import torch
from helpers import slow

from tabom.storage.run_record import find_records
from tabom.trajectories import Manifest, stream_shards

TWO = ("--trainer.strategy=ddp", "--trainer.devices=2")


@pytest.fixture
def tabom(repository, stage):
    """Run a demo config in a process of its own, in the folder that ``stage`` prepared."""

    def call(verb, config, *options):
        path = repository / "configs" / "demo" / f"{config}.yaml"
        command = [sys.executable, "-m", "tabom", verb, "--config", str(path), *options]
        result = subprocess.run(command, capture_output=True, text=True, timeout=900)
        assert result.returncode == 0, result.stderr

    return call


@pytest.mark.slow
def test_metrics_of_two_processes_are_those_of_one(stage, tabom, tmp_path):
    """Of a trained model, so that the compared values are not all zero."""
    checkpoint = tmp_path / "trained.ckpt"
    stage("fit", "tabom", "--model.optimizer.lr=0.05").trainer.save_checkpoint(checkpoint)
    options = (
        f"--ckpt_path={checkpoint}",
        "--data.validation.num_test_prompts=5",
        "--data.validation.num_base_examples=7",
        "--data.validation.batch_size=2",
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


def files(directory):
    """Shards and manifest."""
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "timings.jsonl"}


def distil(run, directory, *options):
    callback = f'[{{"class_path": "TrajectoryWriter", "init_args": {{"output_dir": "{directory}"}}}}]'
    run("predict", "distill", f"--trainer.callbacks={callback}", "--data.num_queries=11", *options)


@pytest.mark.parametrize(
    "options",
    [
        ("--data.queries_per_shard=11",),
        *slow(
            ("--data.queries_per_shard=4",),
            ("--data.queries_per_shard=4", "--model.backbone.attention=block_causal", "--model.backbone.block_size=7"),
        ),
    ],
    ids=["one file for two processes", "three files", "three files, block_causal"],
)
def test_two_processes_distil_the_same_bytes(stage, tabom, tmp_path, options):
    options = (*options, "--model.batch_size=3")
    distil(stage, "one", *options)
    distil(tabom, "two", *options, *TWO)
    one, two = files(tmp_path / "one"), files(tmp_path / "two")
    assert len(one) == -(-11 // int(options[0].split("=")[1])) + 1
    assert one == two
    (timing,) = map(json.loads, (tmp_path / "two/timings.jsonl").read_text().splitlines())
    assert timing["num_tokens"] == Manifest.load(tmp_path / "two").num_tokens
    assert timing["num_processes"] == 2


@pytest.mark.slow
def test_what_two_processes_began_one_finishes(stage, tabom, tmp_path, monkeypatch):
    """As after a kill: the second and third file are there, with their records, and no manifest yet."""
    options = ("--data.queries_per_shard=4", "--model.batch_size=3")
    distil(tabom, "two", *options, *TWO)
    whole = files(tmp_path / "two")
    (tmp_path / "two/shard-00000.parquet").unlink()
    distil(stage, "two", *options)
    assert files(tmp_path / "two") == whole


@pytest.mark.slow
def test_a_refusal_ends_both_processes(stage, tabom, tmp_path):
    distil(stage, "one", "--model.batch_size=3")
    with pytest.raises(AssertionError, match=r"one: expected settings\.batch_size 3, .*, got 4"):
        distil(tabom, "one", "--model.batch_size=4", *TWO)


@pytest.mark.slow
def test_two_processes_train(tabom, tmp_path):
    options = (
        "--trainer.max_steps=4",
        "--trainer.val_check_interval=2",
        "--trainer.logger=false",
        "--trainer.default_root_dir=two",
        "--data.batch_size=2",
        "--data.global_batch_size=8",  # two accumulated batches of each process
        "--data.validation.num_validation_prompts=3",
        "--data.validation.num_base_examples=5",
        "--model.lr_scheduler.num_warmup_steps=1",
        "--model.lr_scheduler.num_training_steps=4",
    )
    tabom("fit", "tabom", *options, *TWO)
    checkpoint = torch.load(tmp_path / "two/checkpoints/last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4
    (record,) = find_records([tmp_path / "two"])  # of the first process alone, about both
    assert (record.state, record.environment["num_processes"]) == ("finished", 2)
    assert record.device_hours == pytest.approx(2 * record.seconds / 3600, abs=1e-6)
    shards = stream_shards(tmp_path / "runs/demo/trajectories")
    (length,) = {len(ids) for _, table in shards for ids in table.prompt_ids}
    assert record.num_tokens == 4 * 8 * (length + 19)  # steps, rows
