"""Hands a trained model on to the next stage."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from tabom.backbones.checkpoint import check_no_model
from tabom.data.tokenizer import save_tokenizer
from tabom.errors import require
from tabom.storage.files import whole_directory


class SaveBackbone(Callback):
    """Writes the backbone and its tokenizer when training ends, readable by ``PretrainedBackbone``.

    Of a backbone with an adapter the adapter alone is written, by the names of the original checkpoint, so that plain
    peft reads it as well; ``tabom export`` adds it to the weights.

    Args:
        output_dir: Directory; must not hold a model yet, which is checked before training starts.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise ``TabomError`` before training rather than overwrite a model after it, or if weights are sharded."""
        del trainer
        if stage == "fit":
            check_no_model(self.output_dir)
            require(
                pl_module.device_mesh is None,
                "SaveBackbone: expected whole weights on every process, got sharded ones; tabom export writes them "
                "from a checkpoint",
            )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write configuration, weights and tokenizer."""
        if trainer.is_global_zero:
            backbone: Any = pl_module.backbone
            save = backbone.save_adapter if backbone.has_adapter else backbone.save_pretrained
            with whole_directory(self.output_dir, "export") as new:
                save(new)
                save_tokenizer(trainer.datamodule.tokenizer, new)  # pyright: ignore[reportAttributeAccessIssue]
