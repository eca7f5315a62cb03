"""Hands a trained model on to the next stage."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from tabom.errors import require


class SaveBackbone(Callback):
    """Writes the backbone and its tokenizer when training ends, readable by ``PretrainedBackbone``.

    Args:
        output_dir: Directory; must not hold a model yet, which is checked before training starts.
    """

    def __init__(self, output_dir: str) -> None:
        self.output_dir = Path(output_dir)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Raise ``TabomError`` before training rather than overwrite a model after it."""
        del trainer, pl_module
        existing = self.output_dir / "model.safetensors"
        require(
            stage != "fit" or not existing.exists(),
            f"{existing}: expected no model yet; give another output_dir or move it away",
        )

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write configuration, weights and tokenizer."""
        if trainer.is_global_zero:
            self.output_dir.mkdir(parents=True, exist_ok=True)
            pl_module.backbone.save_pretrained(self.output_dir)  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
            trainer.datamodule.tokenizer.save_pretrained(self.output_dir)  # pyright: ignore[reportAttributeAccessIssue]
