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

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, SaveConfigCallback
from torch import Tensor

from tabom.callbacks.environment import environment
from tabom.callbacks.interruption import Interrupted
from tabom.callbacks.tracking import discard_runs, wandb_runs
from tabom.data import TrajectoryDataModule
from tabom.storage.claims import remove_empty
from tabom.storage.files import file_sha256, whole_file
from tabom.storage.log import append_line
from tabom.storage.run_record import DIRECTORY, Sample
from tabom.trajectories import Manifest
from tabom.trajectories.manifest import MANIFEST_NAME
from tabom.types import TrajectoryBatch
from tabom.validation import Validation

CONFIG_NAME = "tabom_config.yaml"


class RunRecorder(SaveConfigCallback):
    """Keeps the record of :mod:`tabom.storage.run_record`, and the resolved configuration as a replayable file.

    The record lies in ``records/`` of the trainer's ``default_root_dir``. In W&B the configuration is under ``cli``,
    as searchable keys in their short form (``cli.model.objective.margin``), and environment, seed, inputs and parent
    are under ``run``; the file is ``tabom_config.yaml`` in the run's own directory, since ``save_dir`` may be shared by
    several. Without W&B it is in the logger's directory, or in ``default_root_dir``.

    Args:
        parser: Of the verb.
        config: Resolved.
        command: Words after ``tabom``.
        options: Those of Lightning's own callback.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, command: list[str], **options: Any) -> None:
        super().__init__(parser, config, **options)
        self._command = command
        self._run_id = ""
        self._path: Path | None = None  # this and the W&B runs: on the first process alone
        self._wandb_runs: list[Any] = []
        self._start = time.monotonic()
        self._num_steps = self._num_tokens = 0
        self._is_ended = False
        self._has_begun = False
        self._replaced: dict[Path, bytes | None] = {}  # configuration files, and what was in their places

    @property
    def path(self) -> Path | None:
        """The record, on the first process alone."""
        return self._path

    def state_dict(self) -> dict[str, Any]:
        """The run that a checkpoint comes from."""
        return {"run_id": self._run_id}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Note the run that the loaded checkpoint comes from."""
        self.write("parent", run_id=state_dict["run_id"])
        for run in self._wandb_runs:
            run.config.update({"run": {**run.config["run"], "parent": state_dict["run_id"]}}, allow_val_change=True)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the directory on every process, since ``log_dir`` is a collective call."""
        self._log_dir = Path(trainer.log_dir or trainer.default_root_dir)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write once, on the first process."""
        del pl_module, stage
        self._wandb_runs = wandb_runs(trainer)
        own_id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        self._run_id = self._wandb_runs[0].id if self._wandb_runs else own_id
        text = self.parser.dump(self.config, skip_unset=False)
        config = yaml.safe_load(text)
        content = {
            "environment": environment(trainer.world_size),
            "seed": config["seed_everything"],
            "inputs": _inputs(trainer),
        }
        wandb: dict[str, Any] | None = None
        for run in reversed(self._wandb_runs):
            run.config.update({"cli": _short(config), "run": content}, allow_val_change=True)
            directory = str(Path(run.dir).parent)  # which wandb sync takes
            wandb = {"id": run.id, "group": run.group, "sweep_id": run.sweep_id, "directory": directory}
        for directory in {Path(run.dir) for run in self._wandb_runs} or {self._log_dir}:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / CONFIG_NAME
            self._replaced[path] = path.read_bytes() if path.is_file() else None
            with whole_file(path) as file:
                file.write(text.encode())
        now = datetime.datetime.now(tz=datetime.UTC)
        directory = Path(trainer.default_root_dir) / DIRECTORY
        directory.mkdir(parents=True, exist_ok=True)
        self._path = directory / f"{self._command[0]}-{now:%Y%m%d-%H%M%S}-{self._run_id}.jsonl"
        self.write(
            "start",
            verb=self._command[0],
            run_id=self._run_id,
            time=now.isoformat(),
            command=self._command,
            config_files=[str(file) for file in self.config.get("config") or ()],
            config=config,
            **content,
            wandb=wandb,
        )

    def on_train_start(self, *_: Any, **__: Any) -> None:
        """Keep the record, whatever happens."""
        self._has_begun = True

    on_validation_start = on_test_start = on_predict_start = on_train_start

    def withdraw(self, trainer: Trainer) -> None:
        """Remove what was written of a run that was refused before it began; an online run stays with the server."""
        if self._has_begun:
            return
        for path, before in self._replaced.items():
            path.unlink(missing_ok=True) if before is None else path.write_bytes(before)
        written = list(self._replaced)
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            written.append(self._path)
        runs = discard_runs(trainer.loggers)
        remove_empty([*(path.parent for path in written), *runs, Path(trainer.default_root_dir)])

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
