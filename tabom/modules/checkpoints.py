"""Checkpoints of trainings, read outside of a training."""

import warnings
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # pyright: ignore[reportPrivateImportUsage]
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from tabom.backbones import Backbone
from tabom.errors import require
from tabom.modules.untrusted import check_sharded

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
    check_sharded(path)
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


def check_weights(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Compare the weights of a checkpoint, and what defines its adapter, with the module's backbone.

    A checkpoint of an earlier version does not say how its adapter is scaled; that is told, and not checked.

    Raises:
        TabomError: If the checkpoint holds another adapter than the one that is configured, or weights of another
            model; the first difference is named.
    """
    backbone = cast("Backbone", module.backbone)
    stored: dict[str, Any] = checkpoint.get("state_dict", {})
    weights = {name: tensor for name, tensor in stored.items() if name.startswith("backbone.")}
    if backbone.has_adapter:
        names = checkpoint.get("adapter", weights)
        trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
        differing = sorted(set(names) ^ trained)
        require(not differing, f"ckpt_path: expected the weights of the configured adapter, differing: {differing[:8]}")
        _check_settings(backbone.adapter_settings, checkpoint.get("adapter_settings"))
    else:
        require(
            "adapter" not in checkpoint,
            "ckpt_path: expected the settings of its adapter in the configuration (lora of the backbone), got none",
        )
    expected = {
        name: tuple(tensor.shape) for name, tensor in module.state_dict().items() if name.startswith("backbone.")
    }
    differing = sorted(expected.keys() ^ weights.keys()) if weights and not backbone.has_adapter else []
    require(not differing, f"ckpt_path: expected the weights of the configured backbone, differing: {differing[:8]}")
    for name, tensor in weights.items():
        got = tuple(tensor.shape)
        shape = expected.get(name, got)
        require(got == shape, f"ckpt_path: {name}: expected shape {list(shape)}, which the model has, got {list(got)}")


def _check_settings(configured: dict[str, Any], stored: dict[str, Any] | None) -> None:
    if stored is None:
        rank_zero_info(
            "ckpt_path: the checkpoint does not say which alpha its adapter was trained with; that of the "
            "configuration is taken"
        )
        return
    for key in sorted(configured.keys() | stored.keys()):
        got, expected = configured.get(key), stored.get(key)
        require(got == expected, f"lora.{key}: expected {expected}, which the checkpoint was trained with, got {got}")
