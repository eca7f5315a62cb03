"""Where rows come from: files, folders of files, and data sets of the hub."""

import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from tabom.errors import TabomError, require, short_reason
from tabom.storage.files import file_sha256
from tabom.storage.rows import json_rows
from tabom.trajectories.formats import prophet

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_A_PIECE = 100
_TENSORS = "question_*.pt"
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_FILES = {".json", ".jsonl", ".parquet", ".pt", ".gz"}


class Found(NamedTuple):
    """One row of a source.

    Attributes:
        place: File and line, from 1, of JSON; file or data set and row, from 0, of all others.
        row: What is there, or a ``ValueError`` that says why it cannot be read.
        share: How much of the source is read, in [0, 1].
    """

    place: str
    row: object
    share: float


def source_rows(
    source: str, *, name: str | None = None, split: str = "train", revision: str | None = None
) -> Iterator[Found]:
    """Yield the rows of a source in their order.

    Args:
        source: A file of JSON (an object a line, or one array), Parquet (``*.parquet``) or torch (``question_*.pt``); a
            folder of the latter; what ``save_to_disk`` of ``datasets`` wrote; else a data set of the hub, or a folder
            in its layout.
        name: Configuration of a data set.
        split: Split of a data set.
        revision: Branch, tag or commit on the hub.

    Raises:
        TabomError: If there is no such source, or it cannot be read.
    """
    path = Path(source)
    is_id = _HUB_ID.fullmatch(source) is not None and path.suffix not in _FILES
    require(
        path.exists() or is_id,
        f"{source}: expected a file of trajectories, a folder of them or a data set of the hub, found no such file",
    )
    if path.is_file():
        if path.suffix == ".pt":
            yield Found(source, prophet.read_file(path), 1.0)
        elif path.suffix.lower() == ".parquet":
            yield from _parquet_rows(path)
        else:
            with path.open("rb") as file:
                size = max(1, path.stat().st_size)
                for line, row in json_rows(_lines(file)):
                    yield Found(f"{path}:{line}", row, file.tell() / size)
        return
    if tensors := sorted(path.rglob(_TENSORS)) if path.is_dir() else []:
        for number, file in enumerate(tensors, 1):
            yield Found(str(file), prophet.read_file(file), number / len(tensors))
        return
    data = _saved(path, split) if _is_saved(path) else _from_hub(source, name, split, revision)
    for number, row in enumerate(data):
        yield Found(f"{source}: row {number}", row, (number + 1) / len(data))


def checksum(source: str) -> str:
    """SHA-256 of a file, or of names and checksums of all files of a folder; empty for a data set of the hub."""
    path = Path(source)
    if path.is_file():
        return file_sha256(path)
    digest = hashlib.sha256()
    files = sorted(file for file in path.rglob("*") if file.is_file()) if path.is_dir() else []
    for file in files:
        digest.update(f"{file.relative_to(path).as_posix()} {file_sha256(file)}\n".encode())
    return digest.hexdigest() if files else ""


def _lines(file: BinaryIO) -> Iterable[bytes]:
    """Lines one at a time, so that the place in the file is known."""
    return iter(file.readline, b"")


def _parquet_rows(path: Path) -> Iterator[Found]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            num_rows = file.metadata.num_rows
            for batch in file.iter_batches(batch_size=_ROWS_A_PIECE):
                for row in batch.to_pylist():
                    yield Found(f"{path}: row {number}", row, (number + 1) / num_rows)
                    number += 1
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise TabomError(f"{path}: expected a Parquet file ({short_reason(error)})") from error


def _is_saved(path: Path) -> bool:
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _saved(path: Path, split: str) -> "Dataset":
    import datasets

    try:
        data = datasets.load_from_disk(str(path))
    except Exception as error:  # Arrow and datasets raise many kinds
        raise TabomError(f"{path}: expected what save_to_disk of datasets wrote ({short_reason(error)})") from error
    if isinstance(data, datasets.DatasetDict):
        require(split in data, f"{path}: expected the split {split}, found {', '.join(map(str, data))}")
        return data[split]
    return data


def _from_hub(source: str, name: str | None, split: str, revision: str | None) -> "Dataset":
    import datasets

    try:
        return datasets.load_dataset(source, name, split=split, revision=revision)
    except Exception as error:  # the hub's client, Arrow and the readers of many formats raise their own kinds
        raise TabomError(
            f"{source}: expected a file, a data set of the hub or a directory in its layout ({short_reason(error)})"
        ) from error
