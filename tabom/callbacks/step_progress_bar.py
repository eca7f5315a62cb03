"""A progress bar for trainings that are measured in steps."""

import math
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar


class StepProgressBar(TQDMProgressBar):
    """Counts the optimizer steps of all epochs, so that rate and time left are those of the whole training.

    The stock bars start over at every epoch.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Open the bar where training starts, which is in the middle when it resumes."""
        super().on_train_start(trainer, pl_module)
        bar = self.train_progress_bar
        num_steps = trainer.estimated_stepping_batches
        bar.total = num_steps if math.isfinite(num_steps) else None
        bar.initial = bar.n = trainer.global_step
        bar.set_description("Training")

    def on_train_epoch_start(self, trainer: Trainer, *_: Any) -> None:
        """Keep counting."""
        del trainer

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the step and what is logged to the bar."""
        del outputs, batch, batch_idx
        bar = self.train_progress_bar
        bar.set_postfix(self.get_metrics(trainer, pl_module), refresh=False)
        bar.update(trainer.global_step - bar.n)

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """Without the version number of the logger."""
        metrics = super().get_metrics(trainer, pl_module)
        return {name: value for name, value in metrics.items() if name != "v_num"}
