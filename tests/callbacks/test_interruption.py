"""Trainings that are stopped anywhere and go on; here in one process, in ``tests/test_resume.py`` as users do it."""

import importlib
import json
import os
import signal
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint, Timer

from tabom.callbacks import Interrupted, LastCheckpoint
from tabom.cli.main import main
from tabom.errors import TabomError
from tabom.modules import DistillationModule, TrainingModule

# peft 0.21 reads an attribute that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

LAST = Path("run/checkpoints/last.ckpt")
BEST = {"monitor": "validate/kl", "mode": "max", "dirpath": "run/checkpoints", "enable_version_counter": False}
LORA = {"r": 4, "target_modules": ["q_proj", "v_proj"], "dropout": 0.3}


def callbacks(every_n_steps=100):
    listed = [
        {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": BEST},
        {"class_path": "LastCheckpoint", "init_args": {"every_n_steps": every_n_steps}},
    ]
    return f"--trainer.callbacks={json.dumps(listed)}"


@pytest.fixture
def fit(stage):
    """Four batches an epoch, in windows of two: six steps in twelve batches.

    Validations come within a window (batches 3 and 9), at its end (6), and at the end of the training (12).
    """

    def call(*options, root="run", every_n_steps=100):
        return stage(
            "fit",
            "tabom",
            "--trainer.accumulate_grad_batches=2",
            "--data.batch_size=3",
            "--data.validation.num_validation_prompts=0",
            "--data.validation.num_base_examples=2",
            "--trainer.limit_val_batches=1",
            f"--model.backbone.lora={json.dumps(LORA)}",
            callbacks(every_n_steps).replace("run/", f"{root}/"),
            f"--trainer.default_root_dir={root}",
            *options,
        )

    return call


def same(first, second):
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[key], second[key]) for key in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    return first == second


def content(path=LAST):
    """All of a checkpoint but the names of its directory."""
    checkpoint = torch.load(path, weights_only=True)
    best = next(state for key, state in checkpoint.pop("callbacks").items() if key.startswith("ModelCheckpoint"))
    scores = {Path(name).name: score for name, score in best["best_k_models"].items()}
    del checkpoint["loops"]
    return {**checkpoint, "best": scores}


class Killed(BaseException):
    """Stands for a SIGKILL: nobody answers to it by writing a checkpoint."""


def kill():
    raise Killed


def tell(*numbers):
    for number in numbers or (signal.SIGTERM,):
        os.kill(os.getpid(), number)


def at(monkeypatch, owner, name, when, act):
    """Do something just before call number ``when`` of a method; returns a list that gets an item a call."""
    method, calls = getattr(owner, name), []

    def wrapped(*arguments, **options):
        calls.append(name)
        if len(calls) == when:
            act()
        return method(*arguments, **options)

    monkeypatch.setattr(owner, name, wrapped)
    return calls


def stopped(fit, *options, **settings):
    """Run until stopped; returns what is said."""
    with pytest.raises(Interrupted) as caught:
        fit(*options, **settings)
    assert caught.value.code == 75
    return caught.value.reason


def reason(name, num_steps):
    return f"stopped by {name} after step {num_steps}; --ckpt_path last goes on with {LAST}"


def step():
    return torch.load(LAST, weights_only=True)["global_step"]


_STRAIGHT = []


@pytest.fixture
def straight(fit):
    """What an uninterrupted training ends with; it is the same for all tests, so it is made once."""
    if not _STRAIGHT:
        assert fit(root="straight").trainer.global_step == 6
        _STRAIGHT.append(content("straight/checkpoints/last.ckpt"))
    return _STRAIGHT[0]


def ends_as(straight, fit, *options, **settings):
    torch.rand(17)
    assert fit("--ckpt_path=last", *options, **settings).trainer.global_step == 6
    assert same(content(), straight)


TRAINS, VALIDATES = (TrainingModule, "training_step"), (TrainingModule, "on_validation_epoch_end")


@pytest.mark.parametrize(
    ("place", "when", "number", "num_steps", "num_validations"),
    [
        (TRAINS, 3, signal.SIGINT, 2, 3),
        pytest.param(TRAINS, 6, signal.SIGUSR1, 3, 3, marks=pytest.mark.slow),
        pytest.param(VALIDATES, 2, signal.SIGTERM, 3, 2, marks=pytest.mark.slow),
    ],
    ids=["within a window, in an epoch's end", "before a validation", "in a validation"],
)
def test_a_signal_stops_after_the_window(fit, straight, monkeypatch, place, when, number, num_steps, num_validations):
    """Masks, dropout, order of the data, optimizer, schedule, validations and the best checkpoint are as they were."""
    with monkeypatch.context() as patch:
        at(patch, *place, when, lambda: tell(number))
        assert stopped(fit) == reason(number.name, num_steps)
    assert step() == num_steps
    validations = at(monkeypatch, *VALIDATES, 0, None)
    ends_as(straight, fit)
    assert len(validations) == num_validations


@pytest.mark.slow
def test_stopped_at_the_end_of_two_epochs(fit, straight, monkeypatch):
    for options, num_steps in ((), 2), (("--ckpt_path=last",), 4):
        with monkeypatch.context() as patch:
            at(patch, *TRAINS, 4, tell)
            assert stopped(fit, *options) == reason("SIGTERM", num_steps)
    ends_as(straight, fit)


@pytest.mark.slow
def test_a_signal_before_the_last_validation_of_all_epochs(fit, straight, monkeypatch):
    epochs = ("--trainer.max_steps=-1", "--trainer.max_epochs=3")
    with monkeypatch.context() as patch:
        at(patch, *TRAINS, 12, tell)
        assert stopped(fit, *epochs) == reason("SIGTERM", 6)
    validations = at(monkeypatch, *VALIDATES, 0, None)
    ends_as(straight, fit, *epochs)
    assert len(validations) == 1


def killed_at(monkeypatch, place, when, fit, *options, **settings):
    with monkeypatch.context() as patch:
        at(patch, *place, when, kill)
        with pytest.raises(Killed):
            fit(*options, **settings)


def test_a_kill_in_a_validation_repeats_it(fit, straight, monkeypatch):
    killed_at(monkeypatch, VALIDATES, 2, fit)
    assert step() == 3
    validations = at(monkeypatch, *VALIDATES, 0, None)
    ends_as(straight, fit)
    assert len(validations) == 3


def test_a_kill_loses_few_steps(fit, straight, monkeypatch):
    """Killed while a checkpoint is written, then within the first window after that: the one before is left."""

    def half(self, checkpoint, path, storage_options=None):
        Path(path).write_bytes(b"half of it")
        raise Killed

    with monkeypatch.context() as patch:
        at(patch, *TRAINS, 4, lambda: patch.setattr(TorchCheckpointIO, "save_checkpoint", half))
        with pytest.raises(Killed):
            fit(every_n_steps=1)
    assert step() == 1
    killed_at(monkeypatch, TRAINS, 2, fit, "--ckpt_path=last", every_n_steps=1)
    assert step() == 1
    ends_as(straight, fit, every_n_steps=1)
    assert [path.name for path in LAST.parent.iterdir() if path.name.startswith("last")] == ["last.ckpt"]


def test_further_signals_change_nothing(fit, monkeypatch):
    at(monkeypatch, *TRAINS, 2, lambda: tell(signal.SIGTERM, signal.SIGINT))
    further = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)
    saved = at(monkeypatch, TorchCheckpointIO, "save_checkpoint", 1, lambda: tell(*further))
    assert stopped(fit) == reason("SIGTERM", 1)
    assert step() == len(saved) == 1


@pytest.mark.slow
def test_a_spent_time_limit_counts_anew(fit, straight, monkeypatch):
    """The limit is noticed within a window; Lightning would stop there, and validate first."""
    limit = "--trainer.max_time=00:01:00:00"
    with monkeypatch.context() as patch:
        at(patch, *TRAINS, 1, lambda: patch.setattr(Timer, "time_elapsed", lambda *_: 3600.0))
        assert stopped(fit, limit) == reason("the time limit", 1)
    ends_as(straight, fit, limit)


def test_a_signal_in_the_last_step_lets_the_training_finish(fit, straight, monkeypatch):
    at(monkeypatch, *TRAINS, 12, tell)
    assert fit().trainer.global_step == 6
    assert same(content(), straight)


def test_a_signal_before_the_training_stops_at_once(fit, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    at(monkeypatch, TrainingModule, "configure_model", 1, tell)
    assert stopped(fit) == "stopped by SIGTERM"
    assert not LAST.exists()
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_signal_while_modules_are_imported(capsys, monkeypatch):
    before = signal.getsignal(signal.SIGUSR1)
    monkeypatch.setattr(importlib, "import_module", lambda name: tell(signal.SIGUSR1))
    with pytest.raises(SystemExit) as caught:
        main(["fit"])
    assert caught.value.code == 75
    assert capsys.readouterr().err == "tabom: stopped by SIGUSR1\n"
    assert signal.getsignal(signal.SIGUSR1) == before


def test_a_distillation_goes_on_after_a_signal(stage, monkeypatch):
    writer = '--trainer.callbacks=[{"class_path": "TrajectoryWriter", "init_args": {"output_dir": "%s"}}]'
    sizes = ("--data.num_queries=6", "--data.queries_per_shard=2")

    def distil(name):
        stage("predict", "distill", *sizes, writer % name)

    distil("straight")
    with monkeypatch.context() as patch:
        at(patch, DistillationModule, "predict_step", 2, tell)
        assert stopped(distil, "stopped") == "stopped by SIGTERM"
    assert len(list(Path("stopped").glob("*.parquet"))) == 1
    distil("stopped")
    for path in Path("straight").glob("shard*.parquet"):
        assert (Path("stopped") / path.name).read_bytes() == path.read_bytes()


SHORT = ("--trainer.max_steps=1", "--trainer.limit_val_batches=0")


def test_a_first_start(fit, stage, caplog):
    """Without a checkpoint a training starts and nothing else does; with one a training has to go on with it."""
    with pytest.raises(TabomError, match=r"^run/checkpoints/last.ckpt: expected a checkpoint, found no such file$"):
        stage("test", "tabom", "--ckpt_path=last", callbacks(), "--trainer.default_root_dir=run")
    assert fit("--ckpt_path=last", *SHORT).trainer.global_step == 1
    assert "run/checkpoints/last.ckpt: no checkpoint yet, the training starts from the beginning" in caplog.messages
    message = (
        "expected no checkpoint of an earlier training; --ckpt_path last goes on with it, another --run_dir starts anew"
    )
    with pytest.raises(TabomError, match=rf"^run/checkpoints/last.ckpt: {message}$"):
        fit(*SHORT)


def test_last_needs_the_callback(stage):
    with pytest.raises(TabomError, match=r"^ckpt_path last: expected one LastCheckpoint callback, got 0$"):
        stage("fit", "tabom", "--ckpt_path=last", "--trainer.enable_checkpointing=false")


def test_it_comes_after_other_checkpoint_callbacks():
    callback = LastCheckpoint()
    trainer = cast("Trainer", SimpleNamespace(checkpoint_callbacks=[callback, ModelCheckpoint()]))
    expected = "expected LastCheckpoint after all other checkpoint callbacks, got ModelCheckpoint after it"
    with pytest.raises(TabomError, match=rf"^trainer.callbacks: {expected}$"):
        callback.setup(trainer, cast("LightningModule", None), "fit")


def test_every_n_steps():
    with pytest.raises(TabomError, match=r"^every_n_steps: expected at least 1, got 0$"):
        LastCheckpoint(every_n_steps=0)


def test_a_resumed_run_names_its_predecessor(fit):
    logger = (
        "--trainer.logger=lightning.pytorch.loggers.WandbLogger",
        "--trainer.logger.save_dir=run",
        "--trainer.logger.offline=true",
        "--trainer.limit_val_batches=0",
    )
    first = fit(*logger, "--trainer.max_steps=1").trainer.logger
    again = fit(*logger, "--trainer.max_steps=2", "--ckpt_path=last").trainer.logger
    assert again.experiment.config["run"]["parent"] == first.version != again.version


def test_directories_of_sharded_checkpoints_are_replaced(tmp_path, monkeypatch):
    """Killed after the old one is out of the way, the old one is what is found."""
    saved = iter("abc")

    def save_checkpoint(path, weights_only):
        path.mkdir(parents=True)
        (path / next(saved)).touch()

    trainer = cast(
        "Trainer",
        SimpleNamespace(
            default_root_dir=str(tmp_path),
            is_global_zero=True,
            save_checkpoint=save_checkpoint,
            strategy=SimpleNamespace(barrier=lambda name: None),
        ),
    )
    callback = LastCheckpoint()

    def found():
        path = callback.find(trainer)
        return None if path is None else [file.name for file in path.iterdir()]

    assert found() is None
    callback._save(trainer)
    assert found() == ["a"]
    callback._save(trainer)
    assert found() == ["b"]
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["last.ckpt"]
    monkeypatch.setattr(Path, "replace", lambda self, target: kill())
    with pytest.raises(Killed):
        callback._save(trainer)
    assert found() == ["b"]
