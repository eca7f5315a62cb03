"""What a run made and what it used, as W&B artifacts."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint

from tabom.callbacks.interruption import LastCheckpoint
from tabom.callbacks.tracking import wandb_runs
from tabom.callbacks.trajectory_writer import TrajectoryWriter
from tabom.data import PromptDataModule, TrajectoryDataModule
from tabom.errors import require
from tabom.trajectories import Manifest
from tabom.trajectories.manifest import MANIFEST_NAME

_KEEPERS = {
    "best": "a ModelCheckpoint with a monitor",
    "last": "LastCheckpoint or a ModelCheckpoint without a monitor",
}


class Artifacts(Callback):
    """Shows in W&B where a model comes from: queries, trajectories, training, checkpoint, evaluation.

    ``predict`` uses ``queries-FINGERPRINT`` and makes ``trajectories-MODEL-QUERIES`` (by fingerprints); ``fit`` uses
    these and makes ``model-RUN``; ``validate`` and ``test`` of its checkpoint, and a resumed ``fit``, use that, if the
    training had this callback as well. The content decides what is one and the same artifact, wherever it lies. What
    was used also stands in the run's configuration, under ``used_artifacts``, with its digest. Offline runs keep all of
    it until ``wandb sync``; send them in the order in which they were made. Without a ``WandbLogger`` nothing happens.

    Args:
        trajectories: Whether trajectories and their queries are artifacts.
        checkpoints: ``best`` on validation, ``last``, or ``none``.
        upload: Send the files of what was made to the server. ``WANDB_FINISH_TIMEOUT`` limits how long the end of the
            run waits for that. Otherwise the artifact holds path, size and checksum, and the files are left where they
            are. Either way they are read once, for the checksum.
    """

    def __init__(
        self,
        trajectories: bool = True,
        checkpoints: Literal["best", "last", "none"] = "last",
        upload: bool = False,
    ) -> None:
        self.trajectories = trajectories
        self.checkpoints = checkpoints
        self.upload = upload
        self._trainer: Trainer
        self._runs: list[Any] = []
        self._used: dict[str, str] = {}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Name what is read.

        Raises:
            TabomError: If no callback writes the wanted checkpoint.
        """
        del pl_module
        self._trainer = trainer
        if stage == "fit" and self.checkpoints != "none":
            expected = f"expected {_KEEPERS[self.checkpoints]} in trainer.callbacks, got none"
            require(len(self._keepers(trainer)) > 0, f"Artifacts, checkpoints {self.checkpoints}: {expected}")
        self._runs = wandb_runs(trainer)
        data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
        if self.trajectories and self._runs:
            if isinstance(data, TrajectoryDataModule):
                self._use(_trajectories(data.path, upload=False))
            elif isinstance(data, PromptDataModule) and stage == "predict":
                self._use(_queries(data))

    def state_dict(self) -> dict[str, Any]:
        """The name of the model that the run makes."""
        return {"model": f"model-{self._runs[0].id}" if self._runs and self.checkpoints != "none" else None}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Name the checkpoint that is read."""
        if self._runs and state_dict["model"] is not None:
            self._use(_artifact(state_dict["model"], "model", [Path(str(self._trainer.ckpt_path))]))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep what was made; a run that fails or is stopped does not come here."""
        del pl_module
        if not self._runs:
            return
        if self.trajectories and stage == "predict":
            for callback in trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
                if isinstance(callback, TrajectoryWriter):
                    self._runs[0].log_artifact(_trajectories(callback.output_dir, upload=self.upload))
        if stage == "fit":
            for callback in self._keepers(trainer)[:1]:
                path = callback.find(trainer) if isinstance(callback, LastCheckpoint) else callback.best_model_path
                if path:
                    artifact = _artifact(self.state_dict()["model"], "model", [Path(path)], upload=self.upload)
                    self._runs[0].log_artifact(artifact, aliases=[self.checkpoints])

    def _keepers(self, trainer: Trainer) -> list[ModelCheckpoint | LastCheckpoint]:
        """The callbacks that write the wanted checkpoint; without a monitor the best is the last."""
        kinds = (ModelCheckpoint, LastCheckpoint)
        keepers = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, kinds)]
        wanted = {"best": (True,), "last": (False,), "none": ()}[self.checkpoints]
        return [keeper for keeper in keepers if (getattr(keeper, "monitor", None) is not None) in wanted]

    def _use(self, artifact: Any) -> None:
        """Declare an input.

        ``use_artifact`` does the same, but not in an offline run, and in others it waits for the server without limit.
        """
        run = self._runs[0]
        run._log_artifact(artifact, is_user_created=True, use_after_commit=True)
        self._used[artifact.name] = artifact.digest
        run.config.update({"used_artifacts": self._used}, allow_val_change=True)


def _queries(data: PromptDataModule) -> Any:
    fingerprint = data.query_fingerprint()
    artifact = _artifact(f"queries-{fingerprint[:8]}", "queries", [], metadata=data.query_settings())
    with artifact.new_file("queries.json") as file:
        json.dump({"fingerprint": fingerprint}, file)
    return artifact


def _trajectories(directory: Path, *, upload: bool) -> Any:
    manifest = Manifest.load(directory)
    origin = manifest.origin
    name = f"trajectories-{origin.model_fingerprint[:8]}-{origin.query_fingerprint[:8]}"
    paths = [directory / file for file in (MANIFEST_NAME, *(shard.file for shard in manifest.shards))]
    metadata = {key: getattr(manifest, key) for key in ("num_queries", "num_rows", "num_verified", "num_tokens")}
    keys = ("model_fingerprint", "query_fingerprint", "tokenizer_fingerprint", "response_length", "settings")
    metadata |= {key: getattr(origin, key) for key in keys}
    return _artifact(name, "trajectories", paths, upload=upload, metadata=metadata)


def _artifact(
    name: str, kind: str, paths: Iterable[Path], *, upload: bool = False, metadata: dict[str, Any] | None = None
) -> Any:
    """A ``wandb.Artifact`` of files, or directories of a sharded checkpoint; never by way of a copy on this machine."""
    import wandb

    artifact = wandb.Artifact(name, kind, metadata=metadata)
    for path in paths:
        if not upload:
            artifact.add_reference(f"file://{path.resolve()}", name=path.name)
        elif path.is_dir():
            artifact.add_dir(str(path), name=path.name, policy="immutable")
        else:
            artifact.add_file(str(path), name=path.name, policy="immutable")
    return artifact
