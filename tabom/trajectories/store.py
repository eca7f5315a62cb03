"""A directory that is being filled with shards, by any number of runs, and goes on after a crash."""

import dataclasses
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path

from tabom.errors import TabomError, require
from tabom.storage.claims import Claims, Holder, remove_empty
from tabom.storage.files import PARTIAL, file_sha256
from tabom.storage.sealed import read_sealed, write_sealed
from tabom.storage.settings import check_same
from tabom.storage.typed import typed
from tabom.trajectories.manifest import (
    MANIFEST_NAME,
    RUN_NAME,
    Manifest,
    Origin,
    ShardInfo,
    check_info,
    check_origin,
    shard_name,
)
from tabom.trajectories.timings import add_timing
from tabom.trajectories.writer import check_output_dir, write_shard
from tabom.types import TrajectoryRow

_RECORD = re.compile(r"shard-(\d{5,})\.json")
_OURS = re.compile(r"(?:(shard-\d{5,})\.(?:parquet|json)|run\.json|manifest\.json)(?:\.[0-9a-f]{16})?")
_POLL_SECONDS, _LONGEST_POLL_SECONDS = 0.5, 8.0
_OPENING, _RUN = "opening", "run-"
"""Claims: to what is done once a run, and of a run that is going on."""


class TrajectoryStore:
    """Shards, a record beside each, and at the end the manifest that replaces the records.

    Any number of runs of the same origin may fill a directory at once: each ``open``s it, and ``claim``s and ``write``s
    one shard after the other until all are there; each may then ``finish`` it. Of a run of several processes the first
    one opens and finishes, the others ``join``. Whatever was killed when, each file is there whole or not at all, a
    shard counts when its record is there too, and the files that come out are the same byte for byte.

    Args:
        directory: On a file system that all processes share.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.claims = Claims(directory)
        self._made: list[Path] = []
        self._claimed: set[int] = set()
        self._origin: Origin | None = None

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
            TabomError: If there are trajectories or a living run of another origin, files that are no shards of this
                run, or a damaged file.
        """
        self._made = [path for path in (self.directory, *self.directory.parents) if not path.exists()]
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            with self.claims.hold(_OPENING):
                self._open(origin)
                self.claims.take(_RUN + self.claims.token)
            for info in self._infos():
                path = self.directory / info.file
                require(
                    file_sha256(path) == info.sha256,
                    f"{path}: expected the checksum that was recorded for it; the shard is truncated or was altered, "
                    "and is decoded again when it is removed",
                )
        except BaseException:
            self.close()
            raise

    def join(self, run: str) -> None:
        """Work together with the process of the token ``run``, which has opened the directory."""
        self.claims.run = run

    def claim(self, tell: Callable[[str], None] = print) -> int | None:
        """Claim a shard that nobody decodes; while all that are left are claimed by others, wait.

        Args:
            tell: Is told, in a sentence, what is waited for, and what is taken over from a process that has ended.

        Returns:
            Its index, or None once all shards are there.
        """
        is_told, pause = False, _POLL_SECONDS
        everything = frozenset(range(self._run().num_shards))
        while left := sorted(everything - self.finished() - self._claimed):
            holders: dict[int, Holder] = {}
            for index in left:
                name = _claim_of(index)
                holder = self.claims.take(name)
                if holder is not None:
                    holders[index] = holder
                    continue
                if index in self.finished():  # by another run, just before
                    self.claims.release(name)
                    continue
                self._claimed.add(index)
                if (earlier := self.claims.taken_over.pop(name, None)) is not None:
                    tell(f"{self.directory}: {shard_name(index)} is taken over; {earlier}, which had it, has ended")
                return index
            foreign = {index: holder for index, holder in holders.items() if holder.run != self.claims.run}
            if foreign and not is_told:
                is_told = True
                index, holder = next(iter(foreign.items()))
                tell(
                    f"{self.directory}: waiting for {len(foreign)} shards that other runs decode, "
                    f"such as {shard_name(index)} ({holder})"
                )
            if holders:
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_POLL_SECONDS)
        return None

    def write(
        self, index: int, rows: Sequence[TrajectoryRow], *, num_queries: int, num_tokens: int, rejected: dict[str, int]
    ) -> ShardInfo | None:
        """Write one shard, then its record; a claim to it ends.

        Args:
            index: From 0 to below the origin's ``num_shards``.
            rows: Trajectories that are kept; may be none.
            num_queries: Trajectories that were decoded for it.
            num_tokens: Their response tokens up to and with the first end of sequence.
            rejected: How many of them did not verify, by reason.

        Returns:
            What its record says; None if it was claimed, and lost to another process while this one stood still.

        Raises:
            TabomError: If the directory was not opened, or ``index`` is no shard of it.
        """
        origin = self._run()
        num_shards = origin.num_shards
        require(0 <= index < num_shards, f"index: expected a shard from 0 to {num_shards - 1}, got {index}")
        is_claimed = index in self._claimed
        self._claimed.discard(index)
        name, path = _claim_of(index), self.directory / shard_name(index)
        if is_claimed and not self.claims.holds(name):
            return None
        counts = {"num_queries": num_queries, "num_tokens": num_tokens, "rejected": rejected}
        try:
            info = write_shard(rows, path, origin.response_length, **counts)
            write_sealed(path.with_suffix(".json"), dataclasses.asdict(info))
        except FileNotFoundError:  # what was being written is removed with a claim that was lost
            if not is_claimed or self.claims.holds(name):
                raise
            return None
        self.claims.release(name)
        return info

    def finish(self) -> Manifest:
        """Write the manifest, unless another run did, then remove what it replaces; give all claims back.

        Raises:
            TabomError: If a shard is missing, or the record of one is damaged.
        """
        with self.claims.hold(_OPENING):
            manifest = self._finish()
            self.claims.others("")  # those of dead processes are removed
        self.close()
        return manifest

    def add_timing(self, *, num_tokens: int, seconds: float, num_processes: int) -> None:
        """See :func:`tabom.trajectories.timings.add_timing`; one run at a time."""
        with self.claims.hold(_OPENING):
            add_timing(self.directory, num_tokens=num_tokens, seconds=seconds, num_processes=num_processes)

    def close(self) -> None:
        """Give all claims back. Where no shard was written, and no other run is at work, nothing is left behind."""
        self._claimed.clear()
        if self._is_member():
            with self.claims.hold(_OPENING):
                if not (self._is_begun() or self.is_complete):
                    self._remove_partial()
                    (self.directory / RUN_NAME).unlink(missing_ok=True)
        self.claims.close()
        remove_empty(self._made)

    def _is_member(self) -> bool:
        return self.directory.is_dir() and self.claims.holds(_RUN + self.claims.token)

    def _is_begun(self) -> bool:
        """Whether there are shards, or other runs that are making some."""
        return any(self.directory.glob("*.parquet")) or bool(self.claims.others(_RUN))

    def _open(self, origin: Origin) -> None:
        self._origin = None
        there = self._there()
        if there is None or not (self.is_complete or self._is_begun()):
            check_output_dir(self.directory)
            self._remove_partial()
            write_sealed(self.directory / RUN_NAME, dataclasses.asdict(origin))
            self._origin = None
            return
        living = "" if self.is_complete else next(iter(map(str, self.claims.others(_RUN))), "")
        check_same(
            self.directory,
            dataclasses.asdict(there),
            dataclasses.asdict(origin),
            what=f"the run that is going on there ({living})" if living else "the trajectories that are there",
            advice="give another output_dir" + (", or wait for its end" if living else " or move them away"),
        )
        self._check_names(origin)
        self._remove_partial()
        if self.is_complete:
            self._reopen()

    def _finish(self) -> Manifest:
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
        """Read once, since the run that finishes removes it while others still look for shards that are left."""
        if self._origin is None:
            path, what = self.directory / RUN_NAME, "the origin of a run"
            if self.is_complete and not path.is_file():
                self._origin = Manifest.load(self.directory).origin
                return self._origin
            require(path.is_file(), f"{path}: expected the origin of a run that was opened, found no such file")
            origin = typed(Origin, read_sealed(path, what), str(path))
            check_origin(origin, str(path))
            self._origin = origin
        return self._origin

    def _infos(self) -> Iterator[ShardInfo]:
        """What is known of every shard that is there, in order."""
        for index in sorted(self.finished()):
            path = self.directory / shard_name(index)
            if not self.is_complete:
                with suppress(FileNotFoundError):  # another run has finished meanwhile
                    yield _read_record(path, index)
                    continue
            yield Manifest.load(self.directory).shards[index]

    def _check_names(self, origin: Origin) -> None:
        names = {shard_name(index) for index in range(origin.num_shards)}
        foreign = sorted(path for path in self.directory.glob("*.parquet") if path.name not in names)
        for path in foreign[:1]:
            raise TabomError(
                f"{path}: expected only {shard_name(0)} to {shard_name(origin.num_shards - 1)} of this run"
            )

    def _remove_partial(self) -> None:
        """Remove what was being written by processes that have ended."""
        for path in self.directory.glob(f"*{PARTIAL}"):
            match = _OURS.fullmatch(path.name.removesuffix(PARTIAL))
            if match and not (match[1] and self.claims.others(match[1])):
                path.unlink()

    def _reopen(self) -> None:
        """Turn the manifest into records again if one of its shards was removed; else end as ``finish`` does."""
        manifest = Manifest.load(self.directory)
        kept = list(self._infos())
        if len(kept) == manifest.origin.num_shards:
            self._finish()
            return
        for info in kept:
            write_sealed((self.directory / info.file).with_suffix(".json"), dataclasses.asdict(info))
        write_sealed(self.directory / RUN_NAME, dataclasses.asdict(manifest.origin))
        (self.directory / MANIFEST_NAME).unlink()


def _claim_of(index: int) -> str:
    return shard_name(index).removesuffix(".parquet")


def _read_record(path: Path, index: int) -> ShardInfo:
    """What the record of a shard says."""
    record = path.with_suffix(".json")
    what = f"the record of {path.name} (remove it, and the shard is decoded again)"
    info = typed(ShardInfo, read_sealed(record, what), f"{record}: expected {what}")
    require(info.file == path.name, f"{record}: expected {what}, got that of {info.file}")
    check_info(info, index, f"{record}: expected {what}")
    return info
