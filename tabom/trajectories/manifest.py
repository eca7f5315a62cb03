"""The record beside the shards; it is written last, so a directory that has one is complete."""

import dataclasses
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from tabom.errors import TabomError, require
from tabom.trajectories.schema import SCHEMA_VERSION

MANIFEST_NAME = "manifest.json"
RUN_NAME = "run.json"
"""Holds the origin while shards are being written."""

PARTIAL = ".partial"
"""End of the names of files that are being written."""


@dataclass(frozen=True)
class Origin:
    """What decides every byte of the shards; two runs with the same one write the same files.

    Attributes:
        response_length: N.
        mask_token_id: Of the model and the tokenizer.
        tokenizer_fingerprint: Of the tokenizer that made the ids.
        model_fingerprint: Of the weights that decoded.
        query_fingerprint: Of the queries, their order and their prompts.
        num_shards: Files that the queries are split into.
        settings: JSON-able: the sampler's settings, batch size, what is kept and so on.
    """

    response_length: int
    mask_token_id: int
    tokenizer_fingerprint: str
    model_fingerprint: str
    query_fingerprint: str
    num_shards: int
    settings: dict[str, Any]


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file.

    Attributes:
        file: Name inside the directory.
        num_queries: Trajectories that were decoded for it.
        num_rows: Those that it holds.
        num_verified: Rows whose answer verified.
        num_tokens: Response tokens up to and with the first end of sequence, over all that were decoded.
        rejected: How many of all that were decoded did not verify, by reason.
        sha256: Of the file.
    """

    file: str
    num_queries: int
    num_rows: int
    num_verified: int
    num_tokens: int
    rejected: dict[str, int]
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a directory of trajectories holds.

    Attributes:
        origin: How they came about.
        schema: Column types by name.
        shards: The files, in order.
        schema_version: Of this layout.
    """

    origin: Origin
    schema: dict[str, str]
    shards: tuple[ShardInfo, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def num_queries(self) -> int:
        """Trajectories that were decoded for all shards."""
        return sum(shard.num_queries for shard in self.shards)

    @property
    def num_rows(self) -> int:
        """Trajectories in all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def num_verified(self) -> int:
        """Verified trajectories in all shards."""
        return sum(shard.num_verified for shard in self.shards)

    @property
    def num_tokens(self) -> int:
        """Response tokens up to and with the first end of sequence, over all that were decoded."""
        return sum(shard.num_tokens for shard in self.shards)

    @property
    def rejected(self) -> dict[str, int]:
        """How many did not verify, by reason, most frequent first."""
        counts: Counter[str] = Counter()
        for shard in self.shards:
            counts.update(shard.rejected)
        return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))

    def save(self, directory: Path) -> None:
        """Write ``manifest.json``, whole or not at all."""
        write_sealed(directory / MANIFEST_NAME, dataclasses.asdict(self))

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Read ``manifest.json``.

        Raises:
            TabomError: If the directory is not finished, or the file is missing, altered or of another version.
        """
        path = directory / MANIFEST_NAME
        if not path.is_file() and (directory / RUN_NAME).is_file():
            raise TabomError(
                f"{directory}: expected finished trajectories, found a run that has not ended; "
                "start the same `tabom predict` again: it goes on where it stopped"
            )
        require(path.is_file(), f"{path}: expected the manifest of a finished distillation, found no such file")
        what = "a manifest as `tabom predict` writes it"
        content = _parse(path, what)
        version = content.get("schema_version", SCHEMA_VERSION)
        require(version == SCHEMA_VERSION, f"{path}: expected schema_version {SCHEMA_VERSION}, got {version}")
        _check_seal(path, content, what)
        shards = tuple(ShardInfo(**shard) for shard in content.pop("shards"))
        return cls(origin=Origin(**content.pop("origin")), shards=shards, **content)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when everything is on the disk; until then it ends in ``PARTIAL``."""
    partial = path.with_name(path.name + PARTIAL)
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a checksum of itself: the same content gives the same bytes."""
    with whole_file(path) as file:
        file.write(_sealed(content))


def read_sealed(path: Path, what: str) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote.

    Raises:
        TabomError: If a byte of it is not as it was written; ``what`` says what the file should be.
    """
    content = _parse(path, what)
    _check_seal(path, content, what)
    return content


def _sealed(content: dict[str, Any]) -> bytes:
    checksum = hashlib.sha256(_rendered(content)).hexdigest()
    return _rendered({**content, "checksum": checksum})


def _rendered(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()


def _parse(path: Path, what: str) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise TabomError(f"{path}: expected {what} ({error})") from error
    require(isinstance(content, dict), f"{path}: expected {what}, got a {type(content).__name__}")
    return content


def _check_seal(path: Path, content: dict[str, Any], what: str) -> None:
    """The bytes of the file must be those of its content with the right checksum, which is dropped from it."""
    content.pop("checksum", None)
    require(path.read_bytes() == _sealed(content), f"{path}: expected {what}; the file is truncated or was altered")
