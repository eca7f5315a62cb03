"""A directory that is being filled with shards, by one process or by many, and goes on after a crash."""

import dataclasses
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from tabom.errors import TabomError, require
from tabom.storage.files import PARTIAL, file_sha256
from tabom.storage.sealed import read_sealed, write_sealed
from tabom.storage.settings import check_same
from tabom.trajectories.manifest import MANIFEST_NAME, RUN_NAME, Manifest, Origin, ShardInfo
from tabom.trajectories.writer import check_output_dir, shard_name, write_shard
from tabom.types import TrajectoryRow

_RECORD = re.compile(r"shard-(\d{5,})\.json")
_OURS = re.compile(r"(shard-\d{5,}\.(parquet|json)|run\.json|manifest\.json)")


class TrajectoryStore:
    """Shards, a record beside each, and at the end the manifest that replaces the records.

    ``open`` and ``finish`` are for the first process, with a barrier after the one and before the other; any process
    may ``write`` any shard between them. Whatever was killed when, each file is there whole or not at all, a shard
    counts when its record is there too, and the files that come out are the same byte for byte.

    Args:
        directory: On a file system that all processes share.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def is_complete(self) -> bool:
        """Whether the manifest was written."""
        return (self.directory / MANIFEST_NAME).is_file()

    def finished(self) -> frozenset[int]:
        """Indices of the shards that are whole on the disk; their content is not looked at."""
        names = {path.name for path in self.directory.glob("shard-*")}
        if self.is_complete:
            shards = enumerate(Manifest.load(self.directory).shards)
            return frozenset(index for index, shard in shards if shard.file in names)
        indices = (int(match[1]) for name in names if (match := _RECORD.fullmatch(name)))
        return frozenset(index for index in indices if shard_name(index) in names)

    def open(self, origin: Origin) -> None:
        """Make the directory ready for shards, or see to it that those in it are this run's and undamaged.

        A finished directory from which a shard was removed becomes an unfinished one that lacks it.

        Raises:
            TabomError: If there are trajectories of another origin, files that are no shards of this run, or a damaged
                file.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        there = self._there()
        if there is None or not (self.is_complete or any(self.directory.glob("*.parquet"))):
            check_output_dir(self.directory)
            self._remove_partial()
            write_sealed(self.directory / RUN_NAME, dataclasses.asdict(origin))
            return
        check_same(
            self.directory,
            dataclasses.asdict(there),
            dataclasses.asdict(origin),
            what="the trajectories that are there",
            advice="give another output_dir or move them away",
        )
        self._check_names(origin)
        self._remove_partial()
        for info in self._infos():
            path = self.directory / info.file
            require(
                file_sha256(path) == info.sha256,
                f"{path}: expected the checksum that was recorded for it; the shard is truncated or was altered, "
                "and is decoded again when it is removed",
            )
        if self.is_complete:
            self._reopen()

    def write(
        self, index: int, rows: Sequence[TrajectoryRow], *, num_queries: int, num_tokens: int, rejected: dict[str, int]
    ) -> ShardInfo:
        """Write one shard, then its record.

        Args:
            index: From 0 to below the origin's ``num_shards``.
            rows: Trajectories that are kept; may be none.
            num_queries: Trajectories that were decoded for it.
            num_tokens: Their response tokens up to and with the first end of sequence.
            rejected: How many of them did not verify, by reason.

        Raises:
            TabomError: If the directory was not opened, or ``index`` is no shard of it.
        """
        origin = self._run()
        num_shards = origin.num_shards
        require(0 <= index < num_shards, f"index: expected a shard from 0 to {num_shards - 1}, got {index}")
        path = self.directory / shard_name(index)
        info = write_shard(
            rows, path, origin.response_length, num_queries=num_queries, num_tokens=num_tokens, rejected=rejected
        )
        write_sealed(path.with_suffix(".json"), dataclasses.asdict(info))
        return info

    def finish(self) -> Manifest:
        """Write the manifest, then remove what it replaces.

        Raises:
            TabomError: If a shard is missing, or the record of one is damaged.
        """
        if not self.is_complete:
            origin = self._run()
            missing = sorted(set(range(origin.num_shards)) - self.finished())
            if missing:
                raise TabomError(
                    f"{self.directory}: expected {origin.num_shards} shards, {len(missing)} are missing: "
                    + ", ".join(shard_name(index) for index in missing[:5])
                    + (" ..." if len(missing) > 5 else "")
                )
            Manifest(origin=origin, shards=tuple(self._infos())).save(self.directory)
        manifest = Manifest.load(self.directory)
        for info in manifest.shards:
            (self.directory / info.file).with_suffix(".json").unlink(missing_ok=True)
        (self.directory / RUN_NAME).unlink(missing_ok=True)
        return manifest

    def _there(self) -> Origin | None:
        if self.is_complete:
            return Manifest.load(self.directory).origin
        return self._run() if (self.directory / RUN_NAME).is_file() else None

    def _run(self) -> Origin:
        path = self.directory / RUN_NAME
        require(path.is_file(), f"{path}: expected the origin of a run that was opened, found no such file")
        return Origin(**read_sealed(path, "the origin of a run"))

    def _infos(self) -> Iterator[ShardInfo]:
        """What is known of every shard that is there, in order."""
        if self.is_complete:
            shards = Manifest.load(self.directory).shards
            yield from (info for info in shards if (self.directory / info.file).is_file())
            return
        for index in sorted(self.finished()):
            path = self.directory / shard_name(index)
            record = path.with_suffix(".json")
            what = f"the record of {path.name} (remove it, and the shard is decoded again)"
            info = ShardInfo(**read_sealed(record, what))
            require(info.file == path.name, f"{record}: expected {what}, got that of {info.file}")
            yield info

    def _check_names(self, origin: Origin) -> None:
        names = {shard_name(index) for index in range(origin.num_shards)}
        foreign = sorted(path for path in self.directory.glob("*.parquet") if path.name not in names)
        for path in foreign[:1]:
            raise TabomError(
                f"{path}: expected only {shard_name(0)} to {shard_name(origin.num_shards - 1)} of this run"
            )

    def _remove_partial(self) -> None:
        for path in self.directory.glob(f"*{PARTIAL}"):
            if _OURS.fullmatch(path.name.removesuffix(PARTIAL)):
                path.unlink()

    def _reopen(self) -> None:
        """Turn the manifest into records again if one of its shards was removed; else end as ``finish`` does."""
        manifest = Manifest.load(self.directory)
        kept = list(self._infos())
        if len(kept) == len(manifest.shards):
            self.finish()
            return
        for info in kept:
            write_sealed((self.directory / info.file).with_suffix(".json"), dataclasses.asdict(info))
        write_sealed(self.directory / RUN_NAME, dataclasses.asdict(manifest.origin))
        (self.directory / MANIFEST_NAME).unlink()
