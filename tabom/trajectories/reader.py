"""Reads and validates shards."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from tabom.errors import TabomError, require
from tabom.trajectories.manifest import Manifest, ShardInfo, file_sha256
from tabom.trajectories.schema import features
from tabom.types import NEVER


@dataclass(frozen=True)
class TrajectoryTable:
    """All trajectories of a directory, in the order of the shards.

    Attributes:
        manifest: What the directory says of itself.
        query_ids: One per row.
        is_verified: (rows,) bool.
        prompt_ids: One list of tokens per row.
        response_ids: (rows, N) int32.
        unmask_step: (rows, N) int16, 0 first; ``NEVER`` where decoding revealed nothing.
        unmask_entropy: (rows, N) float32, nats.
        references: The task's own answers.
    """

    manifest: Manifest
    query_ids: list[str]
    is_verified: npt.NDArray[np.bool_]
    prompt_ids: list[list[int]]
    response_ids: npt.NDArray[np.int32]
    unmask_step: npt.NDArray[np.int16]
    unmask_entropy: npt.NDArray[np.float32]
    references: list[str]


def read_trajectories(directory: Path, *, tokenizer_fingerprint: str, response_length: int) -> TrajectoryTable:
    """Read every shard that the manifest names.

    Raises:
        TabomError: If a shard is missing, truncated, altered, of another schema, tokenizer or response length, if a
            row's steps are no valid order, or if there is no row at all. The message names file and row.
    """
    manifest = Manifest.load(directory)
    require(
        manifest.tokenizer_fingerprint == tokenizer_fingerprint,
        f"{directory}: expected trajectories of the tokenizer {tokenizer_fingerprint[:12]}, "
        f"got those of {manifest.tokenizer_fingerprint[:12]}",
    )
    require(
        manifest.response_length == response_length,
        f"{directory}: expected trajectories of response_length {response_length}, got {manifest.response_length}",
    )
    require(manifest.num_rows > 0, f"{directory}: expected at least one trajectory, the manifest counts none")
    tables = [_read_shard(directory / shard.file, shard, response_length) for shard in manifest.shards]
    table = pa.concat_tables(tables)
    return TrajectoryTable(
        manifest=manifest,
        query_ids=table["query_id"].to_pylist(),
        is_verified=table["is_verified"].to_numpy(),
        prompt_ids=table["prompt_ids"].to_pylist(),
        response_ids=_matrix(table["response_ids"], response_length),
        unmask_step=_matrix(table["unmask_step"], response_length),
        unmask_entropy=_matrix(table["unmask_entropy"], response_length),
        references=table["reference"].to_pylist(),
    )


def _read_shard(path: Path, info: ShardInfo, response_length: int) -> pa.Table:
    require(path.is_file(), f"{path}: expected a shard of {info.num_rows} trajectories, found no such file")
    require(
        file_sha256(path) == info.sha256,
        f"{path}: expected the checksum in the manifest; the shard is truncated or was altered",
    )
    try:
        found = pq.read_schema(path)
    except pa.ArrowInvalid as error:
        raise TabomError(f"{path}: expected a Parquet file ({error})") from error
    for field in features(response_length).arrow_schema:
        index = found.get_field_index(field.name)
        got = found.field(index).type if index >= 0 else "no such column"
        require(got == field.type, f"{path}: column {field.name}: expected {field.type}, got {got}")
    table = pq.read_table(path)
    require(
        table.num_rows == info.num_rows,
        f"{path}: expected {info.num_rows} rows, as the manifest says, got {table.num_rows}",
    )
    _check_order(path, _matrix(table["unmask_step"], response_length))
    return table


def _check_order(path: Path, unmask_step: npt.NDArray[np.int16]) -> None:
    """Steps start at 0 and none up to the last is empty; positions that were never revealed have none."""
    ordered = np.sort(unmask_step, axis=1)
    starts_well = (ordered[:, 0] == NEVER) | (ordered[:, 0] == 0)
    is_valid = starts_well & (ordered[:, -1] >= 0) & (np.diff(ordered, axis=1) <= 1).all(axis=1)
    if not is_valid.all():
        row = int(np.flatnonzero(~is_valid)[0])
        raise TabomError(
            f"{path}: row {row}: column unmask_step: expected every step from 0 to the last to reveal a position, "
            f"and {NEVER} where none did, got {unmask_step[row].tolist()}"
        )


def _matrix(column: pa.ChunkedArray, width: int) -> npt.NDArray[Any]:
    return column.combine_chunks().flatten().to_numpy(zero_copy_only=False).reshape(-1, width)
