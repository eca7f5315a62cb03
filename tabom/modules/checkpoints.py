"""Checkpoints of trainings, read outside of a training."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # pyright: ignore[reportPrivateImportUsage]
from torch import nn
from torch.distributed.checkpoint.filesystem import FileSystemReader
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict_loader import load

from tabom.backbones import Backbone
from tabom.errors import TabomError, require
from tabom.modules.untrusted import check_sharded

_WEIGHTS = "state_dict."
"""What stands before the names of weights in a sharded checkpoint."""


_STATE = ("global_step", "loops", "lr_schedulers", "optimizer_states")
"""What a training needs to go on, besides the weights."""
_META = "meta.pt"
"""What Lightning stores beside the shards of a sharded checkpoint."""


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Content of a checkpoint; of a sharded one without the optimizer's state.

    Raises:
        TabomError: If there is none, or something else.
    """
    content = _content(path, is_mapped=False)
    if not path.is_dir():
        return content
    check_sharded(path)
    with _reading(path):
        reader = FileSystemReader(path)
        stored: dict[str, Any] = {
            name.removeprefix(_WEIGHTS): torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in reader.read_metadata().state_dict_metadata.items()
            if name.startswith(_WEIGHTS) and isinstance(entry, TensorStorageMetadata)
        }
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # it is meant to be
            load({"state_dict": stored}, storage_reader=reader, no_dist=True)
    return {**content, "state_dict": stored}


def check_checkpoint(path: Path, *, goes_on: bool, reads_shards: bool) -> None:
    """Look at a checkpoint without reading its weights.

    Args:
        path: A file, or the directory of a sharded one.
        goes_on: Whether a training is to go on with it, which takes more than weights.
        reads_shards: Whether a sharded one can be read.

    Raises:
        TabomError: If it is none, or not of that kind.
    """
    content = _content(path, is_mapped=True)
    require(
        reads_shards or not path.is_dir(),
        f"{path}: expected the file of a checkpoint, found the directory of a sharded one, which takes the strategy "
        "that wrote it (ModelParallelStrategy)",
    )
    in_shards = ("optimizer_states",) if path.is_dir() else ()
    missing = [name for name in _STATE if name not in content and name not in in_shards]
    require(
        not goes_on or not missing,
        f"{path}: expected a checkpoint with the state of a training, found one that is only evaluated (without "
        f"{', '.join(missing)}); a training goes on with {path.with_name('last.ckpt')}",
    )


def best_checkpoint(last: Path) -> Path:
    """The best checkpoint of a training, by the state of its last one.

    Args:
        last: Of the training.

    Raises:
        TabomError: If it knows none.
    """
    states = _content(last, is_mapped=True).get("callbacks", {})
    paths = [state["best_model_path"] for key, state in states.items() if key.startswith("ModelCheckpoint")]
    found = [path for name in paths if name and (path := last.parent / Path(name).name).exists()]
    require(len(found) > 0, f"{last}: expected the checkpoint of a training that has kept a best one, found none")
    return found[0]


def _content(path: Path, *, is_mapped: bool) -> dict[str, Any]:
    """What a file holds, and a directory beside its shards; ``is_mapped`` leaves tensors where they are."""
    require(path.exists(), f"{path}: expected a checkpoint, found no such file")
    is_sharded = path.is_dir()
    file = path / _META if is_sharded else path
    require(file.is_file(), f"{path}: expected the directory of a sharded checkpoint, found no {_META} in it")
    with _reading(path):
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=is_mapped and not is_sharded)
    is_checkpoint = isinstance(content, dict) and "pytorch-lightning_version" in content
    weights = "weights without the rest" if isinstance(content, dict) else "something else"
    require(is_checkpoint, f"{path}: expected a checkpoint that a training wrote, found {weights}")
    return content


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What torch raises of a file says that it is no checkpoint, or not the whole of one.

    It raises any kind, by what the bytes happen to be; that a file may not be read, or is too large, is another matter.
    """
    try:
        yield
    except (PermissionError, MemoryError):
        raise
    except Exception as error:
        raise TabomError(
            f"{path}: expected a checkpoint that a training wrote, found another file or a part of one"
        ) from error


def load_weights(module: nn.Module, checkpoint: dict[str, Any]) -> None:
    """Take over the weights of the backbone from a checkpoint.

    Args:
        module: With a ``backbone``.
        checkpoint: As :func:`read_checkpoint` gives it.

    Raises:
        TabomError: If it holds another adapter, or another model, than the module has.
    """
    check_weights(module, checkpoint)
    weights = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("backbone.")}
    module.load_state_dict(weights, strict=not cast("Backbone", module.backbone).has_adapter)


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
