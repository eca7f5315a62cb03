"""Lightning's trainer with one more verb."""

from pathlib import Path
from typing import Literal, cast

import torch
from lightning import LightningDataModule, LightningModule, Trainer

from tabom.backbones.checkpoint import check_no_model
from tabom.backbones.transformer import TransformersBackbone
from tabom.data.tokenizer import save_tokenizer
from tabom.errors import require
from tabom.modules.training import TrainingModule


class TabomTrainer(Trainer):
    """Trains, evaluates and predicts as Lightning's does, and exports what was trained."""

    def export(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        output_dir: str,
        kind: Literal["merged", "adapter"] = "merged",
        ckpt_path: str | None = None,
    ) -> None:
        """Write the backbone for other tools, in the layout and by the names of the original checkpoint.

        Args:
            model: Says which backbone, with which adapter, and how far towards the base (``interpolation``).
            datamodule: Gives the tokenizer.
            output_dir: Directory; must not hold a model yet.
            kind: ``merged``: the whole model, an adapter added to its weights, with ``config.json`` and tokenizer.
                ``adapter``: the adapter alone, as plain peft reads it.
            ckpt_path: Checkpoint of a training; None exports what the configuration of the backbone says.

        Raises:
            TabomError: If there is no such checkpoint, no adapter to write, or a model in the output directory.
        """
        path = Path(output_dir)
        check_no_model(path)
        model.trainer = self
        self.datamodule = datamodule
        model.configure_model()
        if ckpt_path is not None:
            require(Path(ckpt_path).is_file(), f"{ckpt_path}: expected a checkpoint, found no such file")
            checkpoint = torch.load(ckpt_path, map_location="cpu", weights_only=True)
            model.on_load_checkpoint(checkpoint)
            model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)
        if isinstance(model, TrainingModule):
            model.interpolate()
        backbone = cast("TransformersBackbone", model.backbone)
        if kind == "adapter":
            backbone.save_adapter(path)
        else:
            backbone.save_pretrained(path)
            save_tokenizer(datamodule.tokenizer, path)  # pyright: ignore[reportAttributeAccessIssue]
        print(f"{path}: {kind} model written")
