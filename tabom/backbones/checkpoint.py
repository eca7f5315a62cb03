"""Checkpoint directories: found on disk or on the hub, checked tensor by tensor, written in the layout they came in."""

import json
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, split_torch_state_dict_into_shards
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tabom.errors import TabomError, require
from tabom.storage.files import whole_file
from tabom.storage.names import plain_name
from tabom.storage.typed import parse_json

CONFIG_NAME = "config.json"
WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"
_COMPANIONS = ("*.json", "*.txt", "*.py", "*.jinja", "*.model")  # configuration, tokenizer, code; read, never run
_COMPARED_ROWS = 4096
_HUB_ERRORS = (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError, OSError)


def checkpoint_dir(name: str, revision: str | None = None, *, with_weights: bool = True) -> Path:
    """Find a checkpoint.

    Args:
        name: A directory, or a hub id such as ``GSAI-ML/LLaDA-8B-Instruct``, downloaded once into the hub's cache.
        revision: Branch, tag or commit on the hub.
        with_weights: False leaves the safetensors files on the hub.

    Raises:
        TabomError: If there is neither such a directory nor such a model on the hub or in its cache.
    """
    if Path(name).is_dir():
        return Path(name)
    patterns = [*_COMPANIONS, *(["*.safetensors"] if with_weights else [])]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except _HUB_ERRORS as error:
        reason = str(error).strip().splitlines()[0]
        raise TabomError(f"{name}: expected the directory of a checkpoint or a hub id ({reason})") from error


def read_json(path: Path, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        TabomError: If the file is missing or holds anything else; ``what`` says what it should have been.
    """
    require(path.is_file(), f"{path}: expected {what}, found no such file")
    content = parse_json(path.read_bytes(), f"{path}: expected {what} as a JSON object")
    require(isinstance(content, dict), f"{path}: expected {what} as a JSON object, got {type(content).__name__}")
    return content


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in one piece or as its index lists them.

    Raises:
        TabomError: If the index lists nothing, or is none.
    """
    index = directory / INDEX_NAME
    if not index.is_file():
        return [directory / WEIGHTS_NAME]
    content = read_json(index, "an index of weight files")
    for key in ("metadata", "weight_map"):
        require(isinstance(content.get(key), dict), f"{index}: expected a JSON object under the key {key}, found none")
    require(len(content["weight_map"]) > 0, f"{index}: expected at least one tensor in weight_map, found none")
    names = {plain_name(name, f"{index}: weight_map.{tensor}") for tensor, name in content["weight_map"].items()}
    return [directory / name for name in sorted(names)]


def tensor_shapes(files: Sequence[Path]) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """File and shape of every tensor, by its name; reads the files' headers alone.

    Raises:
        TabomError: If a file is missing or damaged.
    """
    found: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for file in files:
        require(file.is_file(), f"{file}: expected weights in the safetensors format, found no such file")
        try:
            with safe_open(file, framework="pt") as tensors:
                found |= {name: (file, tuple(tensors.get_slice(name).get_shape())) for name in tensors.keys()}  # noqa: SIM118
        except SafetensorError as error:
            raise TabomError(f"{file}: expected a complete safetensors file ({error})") from error
    return found


def check_tensors(
    files: Sequence[Path], expected: Mapping[str, tuple[int, ...]], copies: Mapping[str, str] | None = None
) -> None:
    """Compare names and shapes of all tensors in ``files`` with ``expected``, and stored copies with their sources.

    Args:
        files: Of one checkpoint; apart from copies, their headers alone are read.
        expected: Shapes by name.
        copies: Names that a file may leave out, as they share the weights of another name, which is the value.

    Raises:
        TabomError: If a file is missing or damaged, a tensor is missing, surplus or misshapen, or a copy differs from
            its source; the tensor is named.
    """
    found = tensor_shapes(files)
    copies = copies or {}
    place = files[0] if len(files) == 1 else files[0].parent
    missing, surplus = expected.keys() - copies.keys() - found.keys(), found.keys() - expected.keys()
    for kind, names in {"missing": missing, "surplus": surplus}.items():
        require(not names, f"{place}: {kind} tensors: {_listing(names)}")
    for name, (file, shape) in found.items():
        require(
            shape == expected[name], f"{file}: tensor {name}: expected shape {list(expected[name])}, got {list(shape)}"
        )
    for name, source in copies.items():
        if name in found:
            _check_copy(found[name][0], name, found[source][0], source)


def _check_copy(file: Path, name: str, source_file: Path, source: str) -> None:
    """Raise ``TabomError`` unless two tensors are equal; few rows at a time are held in memory."""
    with safe_open(file, framework="pt") as copies, safe_open(source_file, framework="pt") as sources:
        copy, original = copies.get_slice(name), sources.get_slice(source)
        for start in range(0, copy.get_shape()[0], _COMPARED_ROWS):
            rows = slice(start, start + _COMPARED_ROWS)
            require(
                torch.equal(copy[rows], original[rows]),
                f"{file}: tensor {name}: expected a copy of {source}, as config.json has tie_word_embeddings, got "
                "other values",
            )


def check_no_model(path: Path) -> None:
    """Raise ``TabomError`` if a model in ``path`` would be written over."""
    existing = sorted(file.name for file in path.glob("*.safetensors"))
    require(
        not existing,
        f"{path}: expected no model yet, found {', '.join(existing[:3])}; give another output_dir or move it away",
    )


def save_checkpoint(
    path: Path, config: Mapping[str, Any], state: Mapping[str, Tensor], companions_from: Path | None
) -> None:
    """Write configuration and weights, in several files with an index where they are large.

    Args:
        path: Directory, made if it is missing.
        config: Content of ``config.json``.
        state: Tensors by their original names.
        companions_from: Checkpoint whose tokenizer, generation and code files are copied unchanged.
    """
    path.mkdir(parents=True, exist_ok=True)
    if companions_from is not None:
        for file in (file for pattern in _COMPANIONS for file in companions_from.glob(pattern)):
            if file.name not in (CONFIG_NAME, INDEX_NAME):
                shutil.copyfile(file, path / file.name)
    with whole_file(path / CONFIG_NAME) as file:
        file.write((json.dumps(config, indent=2) + "\n").encode())
    shards = split_torch_state_dict_into_shards(dict(state))
    for name, tensors in shards.filename_to_tensors.items():  # views are written without the tensor they are part of
        save_file({key: state[key].contiguous() for key in tensors}, path / name, metadata={"format": "pt"})
    if shards.is_sharded:
        index = {"metadata": shards.metadata, "weight_map": shards.tensor_to_filename}
        with whole_file(path / INDEX_NAME) as file:
            file.write((json.dumps(index, indent=2) + "\n").encode())


class Naming:
    """Translates module names of a checkpoint family to those of the transformers modules that compute it, and back.

    Args:
        original_to_native: Module paths; ``{i}`` stands for a layer's number. Empty where both are the same.
    """

    def __init__(self, original_to_native: Mapping[str, str]) -> None:
        self._to_native = {_pattern(old): new.replace("{i}", r"\1") for old, new in original_to_native.items()}
        self._to_original = {_pattern(new): old.replace("{i}", r"\1") for old, new in original_to_native.items()}

    def native(self, name: str) -> str:
        """Name of a module, parameter or adapter weight inside the transformers model."""
        return _translate(name, self._to_native)

    def original(self, name: str) -> str:
        """Name in the original checkpoint."""
        return _translate(name, self._to_original)

    def original_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        """What the original checkpoint holds in place of a native tensor, by name; views where it is cut up."""
        yield self.original(name), tensor

    def original_state(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A native state by original names."""
        return dict(pair for name, tensor in state.items() for pair in self.original_tensors(name, tensor))

    def key_mapping(self) -> dict[str, str] | None:
        """The same for ``from_pretrained``, as regular expressions over original names."""
        return {rf"^{old}(?=\.|$)": new for old, new in self._to_native.items()} or None


def _pattern(name: str) -> str:
    return re.escape(name).replace(r"\{i\}", r"(\d+)")


def _translate(name: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        translated, count = re.subn(rf"^{old}(?=\.|$)", new, name)
        if count:
            return translated
    return name


def _listing(names: set[str], limit: int = 8) -> str:
    shown = sorted(names)[:limit]
    return ", ".join(shown) + (f" and {len(names) - limit} more" if len(names) > limit else "")
