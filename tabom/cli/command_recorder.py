"""Records a run of the command line: with its words, and its configuration as a file that can be run again."""

from pathlib import Path
from typing import Any

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser

from tabom.callbacks import RunRecorder
from tabom.callbacks.tracking import discard_runs
from tabom.storage.claims import remove_empty
from tabom.storage.files import whole_file

CONFIG_NAME = "tabom_config.yaml"


class CommandRecorder(RunRecorder):
    """Keeps the run's record with the resolved configuration, and the configuration as a replayable file.

    The file is ``tabom_config.yaml`` in the W&B run's own directory, since ``save_dir`` may be shared by several.
    Without W&B it is in the logger's directory, or in ``default_root_dir``.

    Args:
        parser: Of the verb.
        config: Resolved.
        command: Words after ``tabom``.
    """

    def __init__(self, parser: LightningArgumentParser, config: Any, command: list[str]) -> None:
        super().__init__(command[0])
        self._parser = parser
        self._config = config
        self._command = command
        self._has_begun = False
        self._replaced: dict[Path, bytes | None] = {}  # configuration files, and what was in their places

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write once, on the first process; ask for the directory on every one, since that is a collective call."""
        del pl_module, stage
        log_dir = Path(trainer.log_dir or trainer.default_root_dir)
        if not trainer.is_global_zero or self.path is not None:
            return
        text = self._parser.dump(self._config, skip_unset=False)
        config = yaml.safe_load(text)
        content = {"command": self._command, "config_files": [str(file) for file in self._config.get("config") or ()]}
        self.begin(trainer, self._command[0], config, seed=config["seed_everything"], **content)
        for directory in {Path(run.dir) for run in self._wandb_runs} or {log_dir}:
            directory.mkdir(parents=True, exist_ok=True)
            path = directory / CONFIG_NAME
            self._replaced[path] = path.read_bytes() if path.is_file() else None
            with whole_file(path) as file:
                file.write(text.encode())

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the record, whatever happens."""
        super().on_train_start(trainer, pl_module)
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
