"""Lightning's trainer with one more verb."""

import warnings
from pathlib import Path
from typing import Any, Literal, cast

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from tabom.backbones.checkpoint import check_no_model
from tabom.backbones.transformer import TransformersBackbone
from tabom.data.tokenizer import save_tokenizer
from tabom.errors import require
from tabom.modules.training import TrainingModule

_WEIGHTS = "state_dict."
"""What stands before the names of weights in a sharded checkpoint."""


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
            ckpt_path: Checkpoint of a training, a file or the directory of a sharded one; None exports what the
                configuration of the backbone says.

        Raises:
            TabomError: If there is no such checkpoint, no adapter to write, or a model in the output directory; if
                quantised weights would have to be merged.
        """
        path = Path(output_dir)
        check_no_model(path)
        model.trainer = self
        self.datamodule = datamodule
        model.configure_model()
        if ckpt_path is not None:
            checkpoint = _read_checkpoint(Path(ckpt_path))
            model.on_load_checkpoint(checkpoint)
            model.load_state_dict(checkpoint["state_dict"], strict=model.strict_loading)
        if isinstance(model, TrainingModule):
            model.interpolate()
        backbone = cast("TransformersBackbone", model.backbone)
        if kind == "adapter":
            backbone.save_adapter(path)
        else:
            require(
                all(parameter.is_floating_point() for parameter in backbone.parameters()),
                "kind: expected adapter, since the weights are quantised, got merged; to merge it into the original "
                """weights add --model.init_args.backbone='{"init_args": {"quantization": null}}'""",
            )
            backbone.save_pretrained(path)
            save_tokenizer(datamodule.tokenizer, path)  # pyright: ignore[reportAttributeAccessIssue]
        print(f"{path}: {kind} model written")


def _read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint; of a sharded one without the optimizer's state.

    Raises:
        TabomError: If there is none.
    """
    if not path.is_dir():
        require(path.is_file(), f"{path}: expected a checkpoint, found no such file")
        return torch.load(path, map_location="cpu", weights_only=True)
    rest = path / "meta.pt"  # what Lightning stores beside the shards
    require(rest.is_file(), f"{path}: expected the directory of a sharded checkpoint, found no {rest.name} in it")
    reader = FileSystemReader(path)
    stored: dict[str, Any] = {
        name.removeprefix(_WEIGHTS): torch.empty(entry.size, dtype=entry.properties.dtype)
        for name, entry in reader.read_metadata().state_dict_metadata.items()
        if name.startswith(_WEIGHTS) and isinstance(entry, TensorStorageMetadata)
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it is meant to be
        load({"state_dict": stored}, storage_reader=reader, no_dist=True)
    return {**torch.load(rest, map_location="cpu", weights_only=True), "state_dict": stored}
