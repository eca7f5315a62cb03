"""Checkpoints may come from anybody: what torch and Lightning would run, or remove, on their word is refused."""

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata

from tabom.errors import TabomError, require
from tabom.storage.names import plain_name

_INDEX = ".metadata"
_METADATA = "torch.distributed.checkpoint.metadata"
_NAMES = {
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("pathlib", "Path"),
    ("pathlib", "PosixPath"),
    ("pathlib", "WindowsPath"),
    ("pathlib._local", "PosixPath"),
    ("pathlib._local", "WindowsPath"),
    ("collections", "OrderedDict"),
    (_METADATA, "Metadata"),
    (_METADATA, "MetadataIndex"),
    (_METADATA, "StorageMeta"),
    (_METADATA, "ChunkStorageMetadata"),
    (_METADATA, "TensorStorageMetadata"),
    (_METADATA, "BytesStorageMetadata"),
    (_METADATA, "TensorProperties"),
    (_METADATA, "_MEM_FORMAT_ENCODING"),
}
"""All that the index of a sharded checkpoint is made of, beside the types of numbers."""
_PATHS = ("best_model_path", "last_model_path", "kth_best_model_path")


class _IndexUnpickler(pickle.Unpickler):
    """Reads an index that is a pickle without running what else a pickle can name."""

    def find_class(self, module: str, name: str) -> Any:
        """One of the names that are allowed."""
        is_type = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        require(is_type or (module, name) in _NAMES, f"it names {module}.{name}, which no index holds")
        return super().find_class(module, name)


def check_sharded(path: Path) -> None:
    """See that a sharded checkpoint holds tensors and plain values, in files of its own directory.

    torch reads the index, and every value that is no tensor, as pickles that may run anything.

    Args:
        path: Directory of the checkpoint.

    Raises:
        TabomError: If there is no index, or it or a value is anything else.
    """
    file = path / _INDEX
    require(file.is_file(), f"{file}: expected the index of a sharded checkpoint, found no such file")
    where = f"{file}: expected the index of a sharded checkpoint"
    try:
        index: Any = _IndexUnpickler(io.BytesIO(file.read_bytes())).load()
        places = [(key.fqn, info.relative_path, info.offset, info.length) for key, info in index.storage_data.items()]
        kinds = dict(index.state_dict_metadata)
    except Exception as error:  # a damaged pickle raises whatever it comes to
        raise TabomError(f"{where} ({error})") from error
    for key, name, offset, length in places:
        part = path / plain_name(name, f"{file}: file of {key}")
        if isinstance(kinds.get(key), BytesStorageMetadata):
            try:
                with part.open("rb") as stored:
                    stored.seek(offset)
                    torch.load(io.BytesIO(stored.read(length)), map_location="cpu", weights_only=True)
            except Exception as error:
                reason = str(error).strip().split("\n")[0]
                raise TabomError(f"{part}: {key}: expected a plain value ({reason})") from error


def check_callback_paths(checkpoint: Mapping[str, Any], path: str) -> None:
    """See that the checkpoints that a checkpoint says are there, and which may be removed, lie in its run's directory.

    Args:
        checkpoint: As Lightning restores it.
        path: Of it, for the message.

    Raises:
        TabomError: If one does not.
    """
    for key, state in checkpoint.get("callbacks", {}).items():
        if not isinstance(state, Mapping) or "best_k_models" not in state:
            continue
        paths = [*(state.get("best_k_models") or ()), *(state.get(name) for name in _PATHS)]
        directory = Path(str(state.get("dirpath")))
        for other in filter(None, paths):
            require(
                Path(str(other)).is_relative_to(directory) and ".." not in Path(str(other)).parts,
                f"{path}: {str(key).partition('{')[0]}: expected checkpoints in {directory}, got {other}",
            )
