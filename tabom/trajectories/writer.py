"""Writes shards, whole or not at all."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tabom.errors import TabomError
from tabom.trajectories.manifest import MANIFEST_NAME, ShardInfo, file_sha256
from tabom.trajectories.schema import features


@dataclass(frozen=True)
class TrajectoryRow:
    """One row of a shard; see :func:`tabom.trajectories.schema.features`."""

    query_id: str
    is_verified: bool
    prompt_ids: list[int]
    response_ids: list[int]
    unmask_step: list[int]
    unmask_entropy: list[float]
    prompt: str
    response: str
    reference: str


def check_output_dir(directory: Path) -> None:
    """Raise ``TabomError`` if trajectories would be written over others."""
    existing = sorted(path.name for path in (*directory.glob("*.parquet"), *directory.glob(MANIFEST_NAME)))
    if existing:
        raise TabomError(
            f"{directory}: expected no trajectories yet, found {len(existing)} files such as {existing[0]}; "
            "give another output_dir or move them away"
        )


def write_shard(rows: list[TrajectoryRow], path: Path, response_length: int) -> ShardInfo:
    """Write one Parquet file under a temporary name, then rename it."""
    columns = {field.name: [getattr(row, field.name) for row in rows] for field in dataclasses.fields(TrajectoryRow)}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".parquet.partial")
    pq.write_table(pa.table(columns, schema=features(response_length).arrow_schema), partial)
    partial.replace(path)
    return ShardInfo(path.name, len(rows), sum(row.is_verified for row in rows), file_sha256(path))
