"""Trajectories on disk: Parquet shards and a manifest that says what they hold and how they came about."""

from tabom.trajectories.manifest import Manifest, ShardInfo
from tabom.trajectories.reader import TrajectoryTable, read_trajectories
from tabom.trajectories.writer import TrajectoryRow, check_output_dir, write_shard

__all__ = [
    "Manifest",
    "ShardInfo",
    "TrajectoryRow",
    "TrajectoryTable",
    "check_output_dir",
    "read_trajectories",
    "write_shard",
]
