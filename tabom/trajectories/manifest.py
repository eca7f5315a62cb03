"""The record beside the shards; it is written last, so a directory that has one is complete."""

import dataclasses
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.errors import TabomError, require
from tabom.storage.names import plain_name
from tabom.storage.sealed import read_sealed, write_sealed
from tabom.storage.typed import typed
from tabom.trajectories.schema import SCHEMA_VERSION

MANIFEST_NAME = "manifest.json"
RUN_NAME = "run.json"
"""Holds the origin while shards are being written."""


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

    @property
    def block_size(self) -> int | None:
        """Tokens in a block of the block-causal model that decoded, from the prompt's start; None for others."""
        return self.settings.get("block_size")

    @property
    def block_length(self) -> int | None:
        """Response positions that were decoded before any to their right; None if the settings do not say.

        Settings of a distillation have it in the sampler, where null is the whole response, or as ``block_size`` of the
        model; those of an import as ``block_length``, if it was given.
        """
        if self.block_size is not None:
            return self.block_size
        sampler: Any = self.settings.get("sampler")
        settings: Any = sampler if isinstance(sampler, dict) else self.settings
        if "block_length" not in settings:
            return None
        return self.response_length if settings["block_length"] is None else settings["block_length"]


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
        shards: The files, in order.
        schema_version: Of this layout.
    """

    origin: Origin
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
            TabomError: If the directory is not finished, or the file is missing, altered or of another version, or says
                what cannot be.
        """
        path = directory / MANIFEST_NAME
        if not path.is_file() and (directory / RUN_NAME).is_file():
            raise TabomError(
                f"{directory}: expected finished trajectories, found a run that has not ended; "
                "start the same `tabom predict` (or `tabom trajectories annotate`) again: it goes on where it stopped"
            )
        require(path.is_file(), f"{path}: expected the manifest of a finished distillation, found no such file")
        what = "a manifest as `tabom predict` writes it"
        content = read_sealed(path, what, schema_version=SCHEMA_VERSION)
        content.pop("schema", None)  # column types, which manifests held before December 2026
        manifest = typed(cls, content, str(path))
        check_origin(manifest.origin, f"{path}: origin")
        num_shards, num_listed = manifest.origin.num_shards, len(manifest.shards)
        require(
            num_listed <= num_shards, f"{path}: shards: expected {num_shards} at most, as origin says, got {num_listed}"
        )
        for index, info in enumerate(manifest.shards):
            check_info(info, index, f"{path}: shards[{index}]")
        return manifest


def shard_name(index: int) -> str:
    """File of the shard ``index``, from 0."""
    return f"shard-{index:05d}.parquet"


def check_origin(origin: Origin, where: str) -> None:
    """Raise ``TabomError`` if a number in what a file says of a run cannot be."""
    for name, least in {"response_length": 1, "mask_token_id": 0, "num_shards": 1}.items():
        check_number(getattr(origin, name), least, f"{where}: {name}")
    lengths: dict[str, Any] = {"block_size": origin.block_size, "block_length": origin.block_length}
    for name, length in lengths.items():
        is_number = type(length) is int or length is None
        require(is_number, f"{where}: settings: {name}: expected a whole number or null, got {length!r:.80}")
        if length is not None:
            check_number(length, 1, f"{where}: settings: {name}")


def check_info(info: ShardInfo, index: int, where: str) -> None:
    """Raise ``TabomError`` if what a file says of the shard ``index`` names another file, or a number cannot be."""
    name = plain_name(info.file, f"{where}.file")
    require(name == shard_name(index), f"{where}.file: expected {shard_name(index)}, got {name}")
    for key, least in {"num_queries": 0, "num_rows": 0, "num_verified": 0, "num_tokens": 0}.items():
        check_number(getattr(info, key), least, f"{where}.{key}")
    for reason, number in info.rejected.items():
        check_number(number, 0, f"{where}.rejected.{reason}")


def check_number(number: int, least: int, where: str) -> None:
    """Raise ``TabomError`` if a number is below ``least``, or has more than 31 bits."""
    require(least <= number < 2**31, f"{where}: expected a number from {least} to {2**31 - 1}, got {number}")
