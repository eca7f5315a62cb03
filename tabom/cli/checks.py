"""What a configuration reads from the disk is there; looked at before anything is loaded."""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tabom.cli.defaults import TRAININGS
from tabom.cli.input_errors import leaves
from tabom.errors import TabomError, require
from tabom.modules.checkpoints import check_checkpoint
from tabom.trajectories import Manifest
from tabom.trajectories.manifest import MANIFEST_NAME, RUN_NAME

_OUTPUTS = ("run_dir", "dirpath", "output_dir", "save_dir")
_KEYWORDS = ("last", "best")
"""Instead of a checkpoint, where ``run_dir`` is that of a training."""
_QUESTIONS = "a CSV, JSON Lines or Parquet file"
_OTHERS = {
    "train_file": (_QUESTIONS, "file"),
    "test_file": (_QUESTIONS, "file"),
    "data_dir": ("the folder of a benchmark's questions", "directory"),
    "root": ("a folder of source text", "directory"),
}
"""Options that name files which no command makes: what is expected there."""


def check_paths(verb: str, config: dict[str, Any]) -> None:
    """Look for all that a parsed configuration names: base, adapter, tokenizer, trajectories, checkpoint, questions.

    Args:
        verb: The one of the command line.
        config: Of the verb.

    Raises:
        TabomError: If something is missing; the sentence names the command that makes it. If a directory to write to
            cannot be made.
    """
    _check_outputs(config)
    files = [str(file) for file in config.get("config") or ()]
    for owner, options in _classes([config.get("model"), config.get("data")]):
        if owner == "PretrainedBackbone":
            _check_model(options.get("path"), "the checkpoint of a backbone", files)
            _check_model(options.get("adapter"), "a trained adapter", files)
        elif owner == "TrajectoryDataModule":
            replayed = (options.get("replay") or {}).get("trajectories")
            for path in (options["path"], replayed):
                if path is not None:
                    _check_trajectories(Path(path), files)
        for name, (expected, kind) in _OTHERS.items():
            path = options.get(name)
            is_there = path is None or (Path(path).is_file() if kind == "file" else Path(path).is_dir())
            require(is_there, f"{path}: expected {expected}, found no such {kind}")
    tokenizer = ((config.get("data") or {}).get("init_args") or {}).get("tokenizer")
    _check_model(tokenizer, "the files of a tokenizer", files)
    if config.get("ckpt_path") is not None:
        _check_checkpoint(verb, config)


def check_file(verb: str, config: dict[str, Any], path: Path) -> None:
    """See whether a verb can read a checkpoint.

    Args:
        verb: The one of the command line.
        config: Of the verb.
        path: Of the checkpoint.

    Raises:
        TabomError: If it cannot.
    """
    strategy = str((config.get("trainer") or {}).get("strategy")).lower()
    reads_shards = verb in ("evaluate", "export") or "modelparallel" in strategy or "fsdp" in strategy
    check_checkpoint(path, goes_on=verb == "fit", reads_shards=reads_shards)


def _classes(value: Any) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and options of every class in a configuration."""
    if isinstance(value, list):
        for item in value:
            yield from _classes(item)
    elif isinstance(value, dict):
        if "class_path" in value:
            yield value["class_path"].rpartition(".")[2], value.get("init_args") or {}
        for item in value.values():
            yield from _classes(item)


def _check_outputs(config: dict[str, Any]) -> None:
    for key, value in leaves(config):
        if key.rpartition(".")[2] in _OUTPUTS and isinstance(value, str | Path) and "://" not in str(value):
            there = next(path for path in (Path(value).absolute(), *Path(value).absolute().parents) if path.exists())
            is_usable = there.is_dir() and os.access(there, os.W_OK)
            kind = "a directory without permission to write" if there.is_dir() else "a file"
            name = key.replace(".init_args.", ".")
            require(is_usable, f"{name}: {value}: expected a directory that can be made, got {kind}, {there}")


def _check_model(name: str | None, expected: str, files: Sequence[str]) -> None:
    require(name != "", f"expected {expected}, got an empty name")
    if name is not None and _is_path(name) and not Path(name).is_dir():
        command = _command_for("fit", name, files) or "tabom export"
        raise TabomError(f"{name}: expected {expected}, found no such directory; {command} makes it")


def _check_trajectories(directory: Path, files: Sequence[str]) -> None:
    if not any((directory / name).is_file() for name in (MANIFEST_NAME, RUN_NAME)):
        command = _command_for("predict", str(directory), files) or "tabom predict"
        expected = "expected the manifest of a finished distillation, found no such file"
        raise TabomError(f"{directory / MANIFEST_NAME}: {expected}; {command} makes it")
    Manifest.load(directory)


def _check_checkpoint(verb: str, config: dict[str, Any]) -> None:
    name = config["ckpt_path"]
    if name in _KEYWORDS and verb in TRAININGS:
        return
    require(
        name not in (*_KEYWORDS, "hpc"),
        f"ckpt_path: expected the path of a checkpoint, got {name}"
        + (f"; the run_dir of tabom {verb} is not that of a training" if name in _KEYWORDS else ""),
    )
    if "://" in name:
        return
    files = [str(file) for file in config.get("config") or ()] if verb in TRAININGS else []
    command = " ".join(["tabom fit", *(f"--config {file}" for file in files)])
    require(Path(name).exists(), f"{name}: expected a checkpoint, found no such file; {command} makes it")
    check_file(verb, config, Path(name))


def _is_path(name: str) -> bool:
    """Whether a name is no hub id, such as ``GSAI-ML/LLaDA-8B-Instruct``, and no name of a tokenizer of ours."""
    first, *others = Path(name).parts
    return (
        first in ("/", "..", "~") or name.startswith("./") or len(others) > 1 or (bool(others) and Path(first).is_dir())
    )


def _command_for(verb: str, path: str, files: Sequence[str]) -> str | None:
    """The command whose configuration lies beside one of those given and has ``path`` as its ``output_dir``."""
    writes = re.compile(rf"\boutput_dir: *[\"']?{re.escape(path)}/?[\"']?\s*([,}}#]|$)", re.MULTILINE)
    for file in files:
        for other in sorted(Path(file).parent.glob("*.yaml")):
            if writes.search(other.read_text(encoding="utf-8")):
                return f"tabom {verb} --config {other}"
    return None
