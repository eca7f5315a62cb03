"""Records what a run was started with, what it measured and how it ended."""

import dataclasses
import datetime
import math
import os
import secrets
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from tabom.callbacks.environment import environment
from tabom.callbacks.interruption import Interrupted
from tabom.callbacks.made_with import configuration
from tabom.callbacks.tracking import wandb_runs
from tabom.data import TrajectoryDataModule
from tabom.errors import require
from tabom.seeding import run_seed
from tabom.storage.files import file_sha256
from tabom.storage.log import append_line
from tabom.storage.run_record import DIRECTORY, Sample
from tabom.storage.typed import LARGEST
from tabom.trajectories import Manifest
from tabom.trajectories.manifest import MANIFEST_NAME
from tabom.types import TrajectoryBatch
from tabom.validation import Validation

_TRAINED_BY = "_recorded_training"
"""Of a module: the run that has trained it in this process."""


class RunRecorder(Callback):
    """Keeps the record of :mod:`tabom.storage.run_record`, from which ``tabom report`` makes its pages.

    The record lies in ``records/`` of the trainer's ``default_root_dir``. In W&B the configuration is under ``cli``,
    as searchable keys in their short form (``cli.model.objective.margin``), and environment, seed, inputs and parent
    are under ``run``. Each call of the trainer, such as ``fit`` or ``test``, is a run with a record of its own; a test
    of the module that a recorded training has trained belongs to that training.

    Args:
        name: What reports call the model that is trained or measured; ``base`` for one that was not post-trained.
    """

    def __init__(self, name: str) -> None:
        require(name != "", "name: expected what reports are to call the model, got an empty one")
        self._name = name
        self._run_id = ""
        self._path: Path | None = None  # this and the W&B runs: on the first process alone
        self._wandb_runs: list[Any] = []
        self._begin_counting()

    @property
    def path(self) -> Path | None:
        """The record, on the first process alone."""
        return self._path

    @property
    def state_key(self) -> str:
        """The same for every recorder, so that each finds the run in another's checkpoint."""
        return RunRecorder.__name__

    def state_dict(self) -> dict[str, Any]:
        """The run that a checkpoint comes from."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Note the run that the loaded checkpoint comes from."""
        self.write("parent", run_id=state_dict["run_id"])
        for run in self._wandb_runs:
            run.config.update({"run": {**run.config["run"], "parent": state_dict["run_id"]}}, allow_val_change=True)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin a record, on the first process."""
        del stage
        self._begin_counting()
        if not trainer.is_global_zero:
            return
        verb = trainer.state.fn.value  # pyright: ignore[reportAttributeAccessIssue, reportOptionalMemberAccess]
        content = {"name": self._name, "command": [], "config_files": [], "seed": run_seed() & LARGEST}
        self.begin(trainer, verb, configuration(trainer, pl_module), **content)
        parent = vars(pl_module).get(_TRAINED_BY)
        if parent is not None:
            self.load_state_dict({"run_id": parent})

    def begin(self, trainer: Trainer, verb: str, config: dict[str, Any], *, seed: int, **content: Any) -> None:
        """Write the first line of a record, and its content to W&B.

        Args:
            trainer: Of the run.
            verb: ``fit``, ``validate``, ``test``, ``predict`` or ``evaluate``.
            config: Resolved configuration.
            seed: Of the run.
            content: Of the line, beside what is the same for every run.
        """
        self._wandb_runs = wandb_runs(trainer)
        own_id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        self._run_id = self._wandb_runs[0].id if self._wandb_runs else own_id
        known = {"environment": environment(trainer.world_size), "seed": seed, "inputs": _inputs(trainer)}
        wandb: dict[str, Any] | None = None
        for run in reversed(self._wandb_runs):
            run.config.update({"cli": _short(config), "run": known}, allow_val_change=True)
            directory = str(Path(run.dir).parent)  # which wandb sync takes
            wandb = {"id": run.id, "group": run.group, "sweep_id": run.sweep_id, "directory": directory}
        now = datetime.datetime.now(tz=datetime.UTC)
        directory = Path(trainer.default_root_dir) / DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"{verb}-{now:%Y%m%d-%H%M%S}-{self._run_id}.jsonl"
        first = {"run_id": self._run_id, "time": now.isoformat(), "config": config}
        self.write("start", verb=verb, **first, **content, **known, wandb=wandb)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note in the module that this run trains it."""
        del trainer
        vars(pl_module)[_TRAINED_BY] = self._run_id

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the losses as often as they are logged."""
        del pl_module, outputs, batch_idx
        rows = cast("TrajectoryBatch", batch)
        self._num_tokens += sum(part.clean_ids.numel() for part in (rows, rows.replay) if part is not None)
        is_logged = trainer.global_step % trainer.log_every_n_steps == 0  # pyright: ignore[reportAttributeAccessIssue]
        if is_logged and trainer.global_step != self._num_steps:
            self._num_steps = trainer.global_step
            self.note("train", trainer.global_step, logged(trainer, "train"))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was measured."""
        if not trainer.sanity_checking:
            self._note_validation(trainer, pl_module, "validate")

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what was measured."""
        self._note_validation(trainer, pl_module, "test")
        validation = getattr(pl_module, "validation", None)
        if isinstance(validation, Validation) and validation.samples:
            samples = (Sample(one.prompt, one.response, one.reference, one.is_verified) for one in validation.samples)
            self.write("samples", rows=[dataclasses.asdict(sample) for sample in samples])

    def note(self, stage: str, step: int, values: Mapping[str, float]) -> None:
        """Add scalars to the record."""
        self.write("metrics", stage=stage, step=step, seconds=self._seconds, values=dict(values))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Note that the run was stopped, or failed."""
        del pl_module
        is_stopped = isinstance(exception, SystemExit | KeyboardInterrupt)
        reason = exception.reason if isinstance(exception, Interrupted) else f"{type(exception).__name__}: {exception}"
        self._end(trainer, "stopped" if is_stopped else "failed", reason)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Note that the run has finished."""
        del pl_module, stage
        self._end(trainer, "finished", "")

    def _begin_counting(self) -> None:
        self._start = time.monotonic()
        self._num_steps = self._num_tokens = 0
        self._is_ended = False

    @property
    def _seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)

    def _note_validation(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self.note(stage, trainer.global_step, logged(trainer, stage))
        validation = getattr(pl_module, "validation", None)
        if isinstance(validation, Validation) and validation.curves:
            curves = {name: points(curve) for name, curve in validation.curves.items()}
            ratios = list(validation.mask_ratios)
            self.write("curves", stage=stage, step=trainer.global_step, mask_ratios=ratios, curves=curves)

    def _end(self, trainer: Trainer, state: str, reason: str) -> None:
        if not self._is_ended:
            self._is_ended = True
            seconds, num_processes = self._seconds, trainer.world_size
            amounts = {"num_tokens": self._num_tokens * num_processes, "device_hours": seconds * num_processes / 3600}
            self.write("end", state=state, reason=reason, seconds=seconds, **amounts)

    def write(self, kind: str, **content: Any) -> None:
        """Append a line to the record."""
        if self._path is not None:
            append_line(self._path, {"kind": kind, **content})


def logged(trainer: Trainer, stage: str) -> dict[str, float]:
    """Scalars that a stage has logged, by their names without the stage."""
    values = {name.partition("/"): float(value) for name, value in trainer.callback_metrics.items()}
    return {name: value for (prefix, _, name), value in values.items() if prefix == stage}


def record(trainer: Trainer, stage: str, values: Mapping[str, float]) -> None:
    """Add scalars of another callback to the run's record, if it has one."""
    for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
        if isinstance(callback, RunRecorder):
            callback.note(stage, trainer.global_step, values)


def run_name(trainer: Trainer) -> str:
    """Name of the run's record without its ending; empty where there is no record."""
    recorders = (callback for callback in trainer.callbacks if isinstance(callback, RunRecorder))  # pyright: ignore[reportAttributeAccessIssue]
    return next((recorder.path.stem for recorder in recorders if recorder.path is not None), "")


def points(curve: Tensor) -> list[float | None]:
    """A curve as JSON can hold it: None where there is no point."""
    return [None if math.isnan(value) else value for value in curve.tolist()]


def _short(config: Any) -> Any:
    """A configuration in which the options of a class stand beside its name."""
    if isinstance(config, list):
        return [_short(item) for item in config]
    if not isinstance(config, dict):
        return config
    options = {"class_path": config["class_path"], **config.get("init_args", {})} if "class_path" in config else config
    return {name: _short(value) for name, value in options.items()}


def _inputs(trainer: Trainer) -> dict[str, Any]:
    """What the trajectories that are read are told by."""
    data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    if not isinstance(data, TrajectoryDataModule):
        return {}
    replayed = data.replay and data.replay.trajectories
    inputs = {"trajectories": _origin(data.path)}
    return inputs if replayed is None else {**inputs, "replay": _origin(Path(replayed))}


def _origin(directory: Path) -> dict[str, str]:
    origin = Manifest.load(directory).origin
    return {
        "path": str(directory),
        "manifest_sha256": file_sha256(directory / MANIFEST_NAME),
        "model_fingerprint": origin.model_fingerprint,
        "query_fingerprint": origin.query_fingerprint,
    }
