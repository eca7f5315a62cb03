"""Checkpoints of trainings, read outside of a training."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from tabom.backbones import Backbone
from tabom.errors import require

_WEIGHTS = "state_dict."
"""What stands before the names of weights in a sharded checkpoint."""


def read_checkpoint(path: Path) -> dict[str, Any]:
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


def check_adapter(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Raise ``TabomError`` if the checkpoint holds another adapter than the module's backbone is configured with."""
    backbone = cast("Backbone", module.backbone)
    if not backbone.has_adapter:
        require(
            "adapter" not in checkpoint,
            "ckpt_path: expected the settings of its adapter in the configuration (lora of the backbone), got none",
        )
        return
    stored = checkpoint["adapter"] if "adapter" in checkpoint else checkpoint["state_dict"]
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    differing = sorted(set(stored) ^ trained)
    require(not differing, f"ckpt_path: expected the weights of the configured adapter, differing: {differing[:8]}")
