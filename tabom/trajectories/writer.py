"""Writes shards, whole or not at all."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tabom.errors import TabomError
from tabom.storage.files import file_sha256, whole_file
from tabom.trajectories.manifest import MANIFEST_NAME, ShardInfo
from tabom.trajectories.schema import columns
from tabom.types import TrajectoryRow

ROWS_PER_GROUP = 250
"""Trajectories that are compressed together; a reader who wants one of them reads these."""

_STEPS_PER_NAT = 2**20
"""Entropies are rounded to this, which is finer than what another batch size changes, and takes a byte less."""

_SPLIT_BYTES = "BYTE_STREAM_SPLIT"
_ENCODINGS = {"unmask_step.list.element": _SPLIT_BYTES, "unmask_entropy.list.element": _SPLIT_BYTES}
"""Smallest of the encodings that Parquet has for each column, measured on GSM8K: for ids and text the plain one, since
zstd finds repeated words in it, which a dictionary's packed indices hide."""


def check_output_dir(directory: Path) -> None:
    """Raise ``TabomError`` if trajectories would be written over others."""
    existing = sorted(path.name for path in (*directory.glob("*.parquet"), *directory.glob(MANIFEST_NAME)))
    if existing:
        raise TabomError(
            f"{directory}: expected no trajectories yet, found {len(existing)} files such as {existing[0]}; "
            "give another output_dir or move them away"
        )


def write_shard(
    rows: Sequence[TrajectoryRow],
    path: Path,
    response_length: int,
    *,
    num_queries: int,
    num_tokens: int,
    rejected: dict[str, int],
) -> ShardInfo:
    """Write one Parquet file under a temporary name, then rename it.

    The same rows give the same bytes, with the same release of pyarrow.

    Args:
        rows: Trajectories that are kept; may be none.
        path: Of the file; its directory is made.
        response_length: N.
        num_queries: See :class:`ShardInfo`.
        num_tokens: See :class:`ShardInfo`.
        rejected: See :class:`ShardInfo`.

    Returns:
        What the manifest says of it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    from datasets import Features  # takes seconds to import, and is not needed to read

    content = {field.name: [getattr(row, field.name) for row in rows] for field in dataclasses.fields(TrajectoryRow)}
    entropies = [np.asarray(values, dtype=np.float32) for values in content["unmask_entropy"]]
    content["unmask_entropy"] = [np.round(values * _STEPS_PER_NAT) / _STEPS_PER_NAT for values in entropies]
    schema = Features.from_arrow_schema(columns(response_length)).arrow_schema
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        pq.write_table(
            pa.table(content, schema=schema),
            file,
            row_group_size=ROWS_PER_GROUP,
            compression="zstd",
            compression_level=19,
            use_dictionary=False,
            column_encoding=_ENCODINGS,
            write_statistics=False,
        )
    return ShardInfo(
        file=path.name,
        num_queries=num_queries,
        num_rows=len(rows),
        num_verified=sum(row.is_verified for row in rows),
        num_tokens=num_tokens,
        rejected=rejected,
        sha256=file_sha256(path),
    )
