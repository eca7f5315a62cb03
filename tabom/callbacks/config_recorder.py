"""Records what a run was started with."""

from pathlib import Path

import yaml
from lightning import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import WandbLogger

CONFIG_NAME = "tabom_config.yaml"


class ConfigRecorder(SaveConfigCallback):
    """Stores the resolved configuration as one file that can be replayed, and in W&B as searchable keys as well.

    With W&B the file is ``tabom_config.yaml`` in the run's own directory, since ``save_dir`` is shared by all runs;
    otherwise it is in the logger's directory, or in ``default_root_dir`` without a logger.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Ask for the directory on every process, since ``log_dir`` is a collective call."""
        self._log_dir = Path(trainer.log_dir or trainer.default_root_dir)
        super().setup(trainer, pl_module, stage)

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write once, on the first process."""
        del pl_module, stage
        directories = {self._log_dir}
        runs = [logger.experiment for logger in trainer.loggers if isinstance(logger, WandbLogger)]
        if runs:
            directories = {Path(run.dir) for run in runs}
            content = yaml.safe_load(self.parser.dump(self.config, skip_unset=False))
            for run in runs:
                run.config.update({"cli": content}, allow_val_change=True)
        for directory in directories:
            directory.mkdir(parents=True, exist_ok=True)
            self.parser.save(
                self.config, directory / CONFIG_NAME, skip_unset=False, overwrite=True, multifile=self.multifile
            )
