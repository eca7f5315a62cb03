"""Trajectories on disk: Parquet shards and a manifest that says what they hold and how they came about."""

from tabom.trajectories.manifest import Manifest, Origin, ShardInfo, shard_name
from tabom.trajectories.mixing import mix_trajectories
from tabom.trajectories.reader import (
    TrajectoryTable,
    find_row,
    read_row,
    read_rows,
    read_trajectories,
    row_names,
    stream_shards,
)
from tabom.trajectories.store import TrajectoryStore
from tabom.trajectories.writer import check_output_dir, write_shard

__all__ = [
    "Manifest",
    "Origin",
    "ShardInfo",
    "TrajectoryStore",
    "TrajectoryTable",
    "check_output_dir",
    "find_row",
    "mix_trajectories",
    "read_row",
    "read_rows",
    "read_trajectories",
    "row_names",
    "shard_name",
    "stream_shards",
    "write_shard",
]
