"""The record beside the shards; it is written last, so a directory that has one is complete."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.errors import TabomError, require
from tabom.trajectories.schema import SCHEMA_VERSION

MANIFEST_NAME = "manifest.json"


@dataclass(frozen=True)
class ShardInfo:
    """One Parquet file.

    Attributes:
        file: Name inside the directory.
        num_rows: Trajectories.
        num_verified: Those whose answer verified.
        sha256: Of the file.
    """

    file: str
    num_rows: int
    num_verified: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a directory of trajectories holds.

    Attributes:
        response_length: N.
        mask_token_id: Of the model and the tokenizer.
        tokenizer_fingerprint: Of the tokenizer that made the ids.
        model_fingerprint: Of the weights that decoded.
        sampler: The sampler's settings.
        schema: Column types by name.
        shards: The files, in order.
        schema_version: Of this layout.
    """

    response_length: int
    mask_token_id: int
    tokenizer_fingerprint: str
    model_fingerprint: str
    sampler: dict[str, Any]
    schema: dict[str, str]
    shards: tuple[ShardInfo, ...]
    schema_version: int = SCHEMA_VERSION

    @property
    def num_rows(self) -> int:
        """Trajectories in all shards."""
        return sum(shard.num_rows for shard in self.shards)

    @property
    def num_verified(self) -> int:
        """Verified trajectories in all shards."""
        return sum(shard.num_verified for shard in self.shards)

    def save(self, directory: Path) -> None:
        """Write ``manifest.json``, whole or not at all."""
        path = directory / MANIFEST_NAME
        partial = path.with_suffix(".json.partial")
        partial.write_text(json.dumps(dataclasses.asdict(self), indent=2) + "\n")
        partial.replace(path)

    @classmethod
    def load(cls, directory: Path) -> "Manifest":
        """Read ``manifest.json``.

        Raises:
            TabomError: If it is missing, no JSON, of another version, or lacks a key.
        """
        path = directory / MANIFEST_NAME
        require(path.is_file(), f"{path}: expected the manifest of a finished distillation, found no such file")
        try:
            content = json.loads(path.read_text())
            shards = tuple(ShardInfo(**shard) for shard in content.pop("shards"))
            manifest = cls(**content, shards=shards)
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise TabomError(f"{path}: expected a manifest as `tabom predict` writes it ({error})") from error
        require(
            manifest.schema_version == SCHEMA_VERSION,
            f"{path}: expected schema_version {SCHEMA_VERSION}, got {manifest.schema_version}",
        )
        return manifest


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
