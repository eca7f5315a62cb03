"""Reads and validates shards."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from tabom.errors import TabomError, require
from tabom.storage.files import file_sha256
from tabom.trajectories.manifest import Manifest, ShardInfo
from tabom.trajectories.schema import columns
from tabom.types import NEVER, TrajectoryRow

if TYPE_CHECKING:
    import pyarrow as pa

_COLUMNS = [
    "query_id",
    "sample",
    "is_verified",
    "prompt_ids",
    "response_ids",
    "unmask_step",
    "unmask_entropy",
    "reference",
]


@dataclass(frozen=True)
class TrajectoryTable:
    """Trajectories of a directory or of one of its shards, in the order in which they were written.

    Attributes:
        manifest: What the directory says of itself.
        query_ids: One per row.
        samples: (rows,) int16, which decoding of the query, 0 first.
        is_verified: (rows,) bool.
        prompt_ids: One list of tokens per row.
        response_ids: (rows, N) int32.
        unmask_step: (rows, N) int16, 0 first; ``NEVER`` where decoding revealed nothing.
        unmask_entropy: (rows, N) float32, nats; NaN where none was recorded.
        references: The task's own answers.
    """

    manifest: Manifest
    query_ids: list[str]
    samples: npt.NDArray[np.int16]
    is_verified: npt.NDArray[np.bool_]
    prompt_ids: list[list[int]]
    response_ids: npt.NDArray[np.int32]
    unmask_step: npt.NDArray[np.int16]
    unmask_entropy: npt.NDArray[np.float32]
    references: list[str]

    def require_entropies(self, directory: Path) -> None:
        """Raise ``TabomError`` if no entropy at all was recorded for some row.

        Args:
            directory: Where the rows come from.
        """
        num_without = int(np.isnan(self.unmask_entropy).all(1).sum())
        require(
            num_without == 0,
            f"{directory}: expected entropies recorded at unmasking, which model.objective.ranking.target recorded "
            f"needs, found none in {num_without} of {len(self.query_ids)} rows; tabom trajectories annotate adds them",
        )


def read_trajectories(directory: Path, *, tokenizer_fingerprint: str, response_length: int) -> TrajectoryTable:
    """Read every shard that the manifest names.

    Raises:
        TabomError: If the trajectories are of another tokenizer or response length, if there is no row at all, or for
            any reason of :func:`stream_shards`.
    """
    manifest = Manifest.load(directory)
    origin = manifest.origin
    require(
        origin.tokenizer_fingerprint == tokenizer_fingerprint,
        f"{directory}: expected trajectories of the tokenizer {tokenizer_fingerprint[:12]}, "
        f"got those of {origin.tokenizer_fingerprint[:12]}",
    )
    require(
        origin.response_length == response_length,
        f"{directory}: expected trajectories of response_length {response_length}, got {origin.response_length}",
    )
    require(manifest.num_rows > 0, f"{directory}: expected at least one trajectory, the manifest counts none")
    parts = [table for _, table in stream_shards(directory)]
    return TrajectoryTable(
        manifest=manifest,
        query_ids=[query_id for part in parts for query_id in part.query_ids],
        samples=np.concatenate([part.samples for part in parts]),
        is_verified=np.concatenate([part.is_verified for part in parts]),
        prompt_ids=[ids for part in parts for ids in part.prompt_ids],
        response_ids=np.concatenate([part.response_ids for part in parts]),
        unmask_step=np.concatenate([part.unmask_step for part in parts]),
        unmask_entropy=np.concatenate([part.unmask_entropy for part in parts]),
        references=[reference for part in parts for reference in part.references],
    )


def stream_shards(directory: Path, *, with_texts: bool = False) -> Iterator[tuple[ShardInfo, TrajectoryTable]]:
    """Read and validate one shard after the other; of those before, only hashes of the rows' names are kept.

    Args:
        directory: With a manifest.
        with_texts: Whether the columns of text that no table holds are read and validated too.

    Raises:
        TabomError: If there is no manifest or a Parquet file that it does not name; if a shard is missing, altered, of
            another schema, or does not hold as many rows and verified rows as the manifest says; if a value is missing
            or cannot be; if a row's steps are no valid order or its response is no text; if a query's sample is there
            twice. The message names file and row.
    """
    manifest = Manifest.load(directory)
    named = {shard.file for shard in manifest.shards}
    for path in sorted(directory.glob("*.parquet")):
        require(path.name in named, f"{path}: expected only the shards that the manifest names, found this file too")
    seen: set[bytes] = set()
    for info in manifest.shards:
        path = directory / info.file
        table = _read_shard(path, info, manifest, with_texts=with_texts)
        num_verified = int(table.is_verified.sum())
        require(
            num_verified == info.num_verified,
            f"{path}: expected {info.num_verified} verified rows, as the manifest says, got {num_verified}",
        )
        _check_names(path, table, seen)
        yield info, table


def row_names(directory: Path) -> Iterator[tuple[str, int, str]]:
    """Query id, sample and prompt of every row, from those columns alone."""
    manifest, names = Manifest.load(directory), ["query_id", "sample", "prompt"]
    for info in manifest.shards:
        table = _read(directory / info.file, info, manifest, names)
        yield from zip(*(table[name].to_pylist() for name in names), strict=True)


def find_row(directory: Path, query_id: str, sample: int) -> int:
    """Number of a row in the whole directory.

    Raises:
        TabomError: If there is no such row.
    """
    for row, (*name, _) in enumerate(row_names(directory)):
        if name == [query_id, sample]:
            return row
    raise TabomError(f"{directory}: expected a trajectory of the query {query_id}, sample {sample}, found none")


def read_rows(directory: Path, rows: Iterable[int]) -> dict[int, TrajectoryRow]:
    """Some trajectories by their number; reads the shards that they lie in, and checks no more than that it can.

    Args:
        directory: With a manifest.
        rows: From 0, through all shards; each has to be there.
    """
    wanted = sorted(set(rows))
    found: dict[int, TrajectoryRow] = {}
    first = 0
    manifest = Manifest.load(directory)
    for info in manifest.shards:
        here = [row for row in wanted if first <= row < first + info.num_rows]
        if here:
            table = _read(directory / info.file, info, manifest).take([row - first for row in here])
            found |= {row: TrajectoryRow(**content) for row, content in zip(here, table.to_pylist(), strict=True)}
        first += info.num_rows
    return found


def read_row(directory: Path, row: int) -> tuple[ShardInfo, TrajectoryRow]:
    """One trajectory and its shard; reads the row's group alone and checks no more than that it can be read.

    Args:
        directory: With a manifest.
        row: From 0, through all shards.

    Raises:
        TabomError: If there is no such row.
    """
    manifest = Manifest.load(directory)
    num_rows = manifest.num_rows
    require(0 <= row < num_rows, f"{directory}: expected a row from 0 to {num_rows - 1}, got {row}")
    shards = iter(manifest.shards)
    info = next(shards)
    while row >= info.num_rows:
        row -= info.num_rows
        info = next(shards)
    (content,) = _read(directory / info.file, info, manifest, row=row).to_pylist()
    return info, TrajectoryRow(**content)


def _read(
    path: Path, info: ShardInfo, manifest: Manifest, names: Sequence[str] | None = None, row: int | None = None
) -> "pa.Table":
    """Columns of a shard, by default all: of a row alone, or with as many rows as the manifest says.

    Every value that is read is looked at, since a missing one would move all behind it where lists are laid end to end.

    Raises:
        TabomError: Naming the column, and the row in what was read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    require(path.is_file(), f"{path}: expected a shard of {info.num_rows} trajectories, found no such file")
    schema = columns(manifest.origin.response_length)
    names = schema.names if names is None else list(names)
    try:
        with pq.ParquetFile(path) as file:
            _check_schema(path, file.schema_arrow, schema)
            num_rows = file.metadata.num_rows
            require(
                num_rows == info.num_rows,
                f"{path}: expected {info.num_rows} rows, as the manifest says, got {num_rows}",
            )
            if row is None:
                table = file.read(names)
            else:
                group = 0
                while row >= file.metadata.row_group(group).num_rows:
                    row -= file.metadata.row_group(group).num_rows
                    group += 1
                table = file.read_row_group(group, names).slice(row, 1).combine_chunks()
        table.validate(full=True)
    except (pa.ArrowException, OSError, OverflowError, IndexError, UnicodeDecodeError) as error:
        raise TabomError(f"{path}: expected a Parquet file ({' '.join(str(error).split())[:200]})") from error
    _check_values(path, table, manifest)
    return table


def _check_schema(path: Path, found: "pa.Schema", expected: "pa.Schema") -> None:
    for field in expected:
        indices = found.get_all_field_indices(field.name)
        got = found.field(indices[0]).type if len(indices) == 1 else f"{len(indices) or 'no'} such column"
        require(got == field.type, f"{path}: column {field.name}: expected {field.type}, got {got}")


def _check_values(path: Path, table: "pa.Table", manifest: Manifest) -> None:
    """No value is missing, and each is one that can be."""
    import pyarrow as pa

    pc = _compute()
    for name in table.column_names:
        column = table[name].combine_chunks()
        where = f"{path}: {{}}column {name}"
        _refuse(pc.is_null(column), where, "expected a value, got none")
        if pa.types.is_string(column.type) or pa.types.is_boolean(column.type):
            continue
        is_list = pa.types.is_list(column.type) or pa.types.is_fixed_size_list(column.type)
        values, rows = (pc.list_flatten(column), pc.list_parent_indices(column)) if is_list else (column, None)
        _refuse(pc.is_null(values), where, "expected no gap in a list", rows)
        if name == "response_ids":
            _check_ids(path, _matrix(column, manifest), manifest.origin.mask_token_id)
        elif name == "unmask_step":
            _check_order(path, _matrix(column, manifest))
        else:
            _refuse(pc.less(values, pa.scalar(0, values.type)), where, "expected no number below 0", rows)
        if name == "unmask_entropy":
            _refuse(pc.is_inf(values), where, "expected finite nats, or NaN", rows)


def _compute() -> Any:
    """Functions of ``pyarrow.compute``, which it makes when it is imported: nothing is known of their types."""
    import pyarrow.compute

    return pyarrow.compute


def _refuse(is_wrong: Any, where: str, expected: str, rows: Any = None) -> None:
    """Raise ``TabomError`` naming the row of the first value that is wrong."""
    if _compute().any(is_wrong).as_py():
        index = is_wrong.index(True).as_py()
        row = index if rows is None else rows[index].as_py()
        raise TabomError(f"{where.format(f'row {row}: ')}: {expected}")


def _read_shard(path: Path, info: ShardInfo, manifest: Manifest, *, with_texts: bool) -> TrajectoryTable:
    require(path.is_file(), f"{path}: expected a shard of {info.num_rows} trajectories, found no such file")
    require(
        file_sha256(path) == info.sha256,
        f"{path}: expected the checksum in the manifest; the shard is truncated or was altered",
    )
    table = _read(path, info, manifest, None if with_texts else _COLUMNS)
    return TrajectoryTable(
        manifest=manifest,
        query_ids=table["query_id"].to_pylist(),
        samples=table["sample"].to_numpy(),
        is_verified=table["is_verified"].to_numpy(),
        prompt_ids=table["prompt_ids"].to_pylist(),
        response_ids=_matrix(table["response_ids"], manifest),
        unmask_step=_matrix(table["unmask_step"], manifest),
        unmask_entropy=_matrix(table["unmask_entropy"], manifest),
        references=table["reference"].to_pylist(),
    )


def _check_ids(path: Path, response_ids: npt.NDArray[np.int32], mask_token_id: int) -> None:
    is_wrong = (response_ids < 0) | (response_ids == mask_token_id)
    for row, position in np.argwhere(is_wrong)[:1].tolist():
        raise TabomError(
            f"{path}: row {row}: column response_ids: expected ids from 0 other than the mask token {mask_token_id}, "
            f"got {response_ids[row, position]} at position {position}"
        )


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


def _check_names(path: Path, table: TrajectoryTable, seen: set[bytes]) -> None:
    for row, name in enumerate(zip(table.query_ids, table.samples.tolist(), strict=True)):
        digest = hashlib.blake2b(repr(name).encode(), digest_size=16).digest()
        require(
            digest not in seen, f"{path}: row {row}: expected every query's sample once, got {name[0]}, {name[1]} again"
        )
        seen.add(digest)


def _matrix(column: "pa.Array | pa.ChunkedArray", manifest: Manifest) -> npt.NDArray[Any]:
    """Lists of one length as rows; nothing may be missing in them."""
    values = _compute().list_flatten(column).to_numpy(zero_copy_only=False)
    return values.reshape(-1, manifest.origin.response_length)
