"""A training in a process of its own, stopped from outside, and started again by the same command."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from callbacks.test_interruption import same

NUM_STEPS = 60
OPTIONS = (
    "--trainer.accumulate_grad_batches=2",
    "--data.batch_size=2",
    f"--trainer.max_steps={NUM_STEPS}",
    f"--model.lr_scheduler.num_training_steps={NUM_STEPS}",
    "--model.lr_scheduler.num_warmup_steps=2",
    "--trainer.logger=false",
    "--trainer.limit_val_batches=0",
    f"--trainer.callbacks={json.dumps([{'class_path': 'LastCheckpoint', 'init_args': {'every_n_steps': 1}}])}",
)


_STRAIGHT = []


@pytest.fixture
def straight(stage):
    """Weights and optimizer of an uninterrupted training (made once), in a folder in which others can be started."""
    if not _STRAIGHT:
        stage("fit", "tabom", *OPTIONS, "--trainer.default_root_dir=straight")
        _STRAIGHT.append(content("straight"))
    return _STRAIGHT[0]


def content(root):
    path = Path(root) / "checkpoints/last.ckpt"
    checkpoint = torch.load(path, weights_only=True) if path.exists() else {"global_step": 0}
    return {name: checkpoint.get(name) for name in ("global_step", "state_dict", "optimizer_states", "lr_schedulers")}


def words(repository, root, *options):
    config = repository / "configs/demo/tabom.yaml"
    where = ("--ckpt_path=last", f"--trainer.default_root_dir={root}")
    return ["fit", "--config", str(config), *OPTIONS, *options, *where]


def start(*words):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tabom", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def stop(repository, number, num_more, chance, *options, start=start):
    """Start where the last one stopped; stop a little after so many more steps."""
    target = content("run")["global_step"] + num_more
    process = start(*words(repository, "run", *options))
    while process.poll() is None and content("run")["global_step"] < target:
        time.sleep(0.03)  # to look takes a tenth of that
    time.sleep(chance.random() * 0.02)
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == (-number if number == signal.SIGKILL else 75), said
    num_steps = content("run")["global_step"]
    assert target <= num_steps < NUM_STEPS
    if number != signal.SIGKILL:
        last = f"after step {num_steps}; --ckpt_path last goes on with run/checkpoints/last.ckpt"
        assert f"tabom: stopped by {number.name} {last}" in said.splitlines()


def finish(process):
    said = process.communicate()[1]
    assert process.returncode == 0, said


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_stopped_once(repository, stage, straight, number):
    stop(repository, number, 5, random.Random(0))
    stage("fit", "tabom", *OPTIONS, "--ckpt_path=last", "--trainer.default_root_dir=run")
    assert same(content("run"), straight)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_at_six_random_steps(repository, stage, straight, start_copy, number):
    chance = random.Random(1)
    for _ in range(6):
        stop(repository, number, chance.randint(1, 5), chance, start=start_copy)
    stage("fit", "tabom", *OPTIONS, "--ckpt_path=last", "--trainer.default_root_dir=run")
    assert same(content("run"), straight)


@pytest.mark.slow
def test_two_processes_stop_after_the_same_step(repository, stage):
    """The signal reaches the first of them only."""
    two = ("--trainer.strategy=ddp", "--trainer.devices=2")
    finish(start(*words(repository, "straight", *two)))
    for num_more in (5, 15):
        stop(repository, signal.SIGTERM, num_more, random.Random(2), *two)
    finish(start(*words(repository, "run", *two)))
    assert same(content("run"), content("straight"))
