"""The best checkpoint that is kept is the same wherever a training is killed, and however often."""

import contextlib
import functools
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from callbacks.test_interruption import Killed, same
from helpers import write_trajectories
from lightning import Trainer, seed_everything
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.optim import AdamW

from tabom.backbones import PretrainedBackbone
from tabom.callbacks import LastCheckpoint
from tabom.cli.lightning_cli import _silence_upstream
from tabom.data import TrajectoryDataModule, ValidationSizes
from tabom.modules import TrainingModule
from tabom.objectives import NelboObjective
from tabom.samplers import Sampler
from tabom.tasks import PythonSource, Sudoku4x4
from tabom.validation import Validation

SCORES = [0.1, 0.5, 0.3, 0.4, 0.6, 0.2, 0.7]
"""Of the validations of a training, by optimizer step."""
PLACES = [
    (TrainingModule, "training_step"),
    (TrainingModule, "on_validation_epoch_end"),
    (TorchCheckpointIO, "save_checkpoint"),
    (TorchCheckpointIO, "remove_checkpoint"),
]
SCHEDULES = {
    "every other step": {"max_steps": 6, "val_check_interval": 2, "check_val_every_n_epoch": None},
    "every epoch": {"max_epochs": 3},
    "every epoch, limited by steps": {"max_steps": 6},
    "half an epoch": {"max_epochs": 3, "val_check_interval": 0.5},
    "within a step": {
        "max_steps": 3,
        "val_check_interval": 3,
        "check_val_every_n_epoch": None,
        "accumulate_grad_batches": 2,
    },
}


@pytest.fixture
def train(tmp_path, checkpoint, tokenizer, monkeypatch):
    """Train on, or from the start; returns how often something happened at which it may be killed."""
    path = write_trajectories(tmp_path / "trajectories", tokenizer, num_rows=8)

    def call(root, schedule, kill_at=None):
        count = 0

        def event():
            nonlocal count
            count += 1
            if count == kill_at:
                raise Killed

        def watched(method, *arguments, **options):
            event()
            result = method(*arguments, **options)
            event()
            return result

        seed_everything(1, verbose=False)
        data = TrajectoryDataModule(
            path=str(path),
            task=Sudoku4x4(),
            response_length=19,
            tokenizer="characters",
            batch_size=4,
            only_verified=False,
            held_out=0.0,
            base_domains={"python": PythonSource()},
            validation=ValidationSizes(num_validation_prompts=0, num_base_examples=2),
        )
        optimizer = functools.partial(AdamW, lr=1e-3)
        module = TrainingModule(
            PretrainedBackbone(str(checkpoint)), NelboObjective(), optimizer, validation=Validation(Sampler())
        )
        best = ModelCheckpoint(
            dirpath=tmp_path / root / "checkpoints",
            monitor="validate/score",
            mode="max",
            enable_version_counter=False,
        )
        last = LastCheckpoint(every_n_steps=3)
        trainer = Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            callbacks=[best, last],
            default_root_dir=tmp_path / root,
            **schedule,
        )
        score = lambda self, **_: {"score": torch.tensor(SCORES[trainer.global_step])}  # noqa: E731
        with warnings.catch_warnings(), monkeypatch.context() as patch:
            _silence_upstream()
            patch.setattr(Validation, "compute", score)
            for owner, name in PLACES:
                patch.setattr(owner, name, functools.partialmethod(watched_method(getattr(owner, name), watched)))
            trainer.fit(module, datamodule=data, ckpt_path=last.find(trainer))
        return count

    return call


def watched_method(method, watched):
    def call(self, *arguments, **options):
        return watched(functools.partial(method, self), *arguments, **options)

    return call


def kept(root):
    """What is in the directory of checkpoints: by name its weights; and the best by the state of the last."""
    checkpoints = {path.name: torch.load(path, weights_only=True) for path in Path(root, "checkpoints").iterdir()}
    (best,) = (
        state for key, state in checkpoints["last.ckpt"]["callbacks"].items() if key.startswith("ModelCheckpoint")
    )
    scores = {Path(name).name: float(score) for name, score in best["best_k_models"].items()}
    states = {name: checkpoint["state_dict"] for name, checkpoint in checkpoints.items()}
    return {"states": states, "scores": scores, "best": Path(best["best_model_path"]).name}


def differences(train, tmp_path, schedule, chosen):
    """Events of a training at which a kill changes what is kept; the training that goes on is killed early as well."""
    num_events = train("straight", schedule)
    expected = kept(tmp_path / "straight")
    assert len(expected["states"]) == 2
    for kill_at in chosen(num_events):
        for when in (kill_at, 3):
            with contextlib.suppress(Killed):
                train("run", schedule, when)
        train("run", schedule)
        if not same(kept(tmp_path / "run"), expected):
            yield kill_at
        shutil.rmtree(tmp_path / "run")


def test_killed_near_the_last_validation(train, tmp_path):
    """Before it, in it, and after the best checkpoint of it is written."""
    schedule = SCHEDULES["every epoch"]
    assert list(differences(train, tmp_path, schedule, lambda number: range(number - 9, number + 1, 3))) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", SCHEDULES)
def test_killed_anywhere(train, tmp_path, name):
    assert list(differences(train, tmp_path, SCHEDULES[name], lambda number: range(1, number + 1, 2))) == []
