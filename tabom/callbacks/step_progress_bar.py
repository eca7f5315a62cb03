"""A progress bar for trainings that are measured in steps, and distillations that are measured in trajectories."""

import math
from typing import Any, cast

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

from tabom.modules import DistillationModule
from tabom.modules.distillation import DistilledShard


class StepProgressBar(TQDMProgressBar):
    """Counts the optimizer steps of all epochs, or the trajectories of all shards: rate and time left are of the whole.

    The stock bars start over at every epoch, and count shards.
    """

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar for the trajectories that are left to this process."""
        super().on_predict_start(trainer, pl_module)
        module = cast("DistillationModule", pl_module)
        self.predict_progress_bar.reset(total=module.data.num_to_decode())
        self.predict_progress_bar.unit = " trajectories"
        self.predict_progress_bar.set_description("Decoding")
        self._num_seen = self._num_verified = 0
        module.on_finished = lambda num: cast("None", self.predict_progress_bar.update(num))

    def on_predict_batch_start(
        self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Keep counting."""

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Show how many verified so far."""
        del trainer, pl_module, batch, batch_idx, dataloader_idx
        shard = cast("DistilledShard", outputs)
        if shard.num_queries:
            self._num_seen += shard.num_queries
            self._num_verified += shard.num_verified
            self.predict_progress_bar.set_postfix(verified=f"{self._num_verified / self._num_seen:.1%}")

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
