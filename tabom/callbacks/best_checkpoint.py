"""The best checkpoint of a training, which is only evaluated."""

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class BestCheckpoint(ModelCheckpoint):
    """Lightning's, but what it keeps holds no state of the optimizer, which is twice the size of the trained weights.

    Lightning's own ``save_weights_only`` would also leave out what other callbacks add: averages of the weights, and
    the run that the checkpoint comes from. A training goes on with ``last.ckpt``.
    """

    _is_saving = False

    @property
    def state_key(self) -> str:
        """The name in checkpoints, which is older than the class's."""
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__, 1)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Take out what only a training needs."""
        del trainer, pl_module
        if self._is_saving:
            for name in ("optimizer_states", "lr_schedulers"):
                checkpoint.pop(name, None)

    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._is_saving = True
        try:
            super()._save_checkpoint(trainer, filepath)
        finally:
            self._is_saving = False
