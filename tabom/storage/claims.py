"""Claims: which living process works on what in a directory, on a file system that several machines may share.

A claim is a small file in ``claims/`` of the directory, made exclusively. It says who made it, and its time is renewed
every few seconds. A claim is dead as soon as its process is, where that can be seen, which is on its own machine; seen
from another one it is dead when its time has stood still for a minute. No clocks are compared. A dead claim is taken
over by a file of the next generation, which only one process can make.
"""

import json
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from tabom.errors import TabomError

CLAIMS = "claims"
"""Folder of the claims; it is there while there are any."""
BEAT_SECONDS = 5.0
"""How often the time of a claim is renewed."""
EXPIRY_SECONDS = 60.0
"""After which a claim whose time stands still is dead, as seen from another machine."""
_POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Holder:
    """Who has a claim.

    Attributes:
        token: Of the :class:`Claims` that it belongs to; unique.
        host: Name of the machine.
        machine: What tells its process numbers from those of others: machine, boot and container.
        pid: Number of the process.
        started: When the process started, which tells it from a later one of the same number.
        run: Processes with the same one work together.
    """

    token: str
    host: str
    machine: str
    pid: int
    started: str
    run: str

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}" if self.pid else "a process that is just starting"


class Claims:
    """The claims of one process in a directory.

    Args:
        directory: Of the work; it has to be there when a claim is made.
    """

    def __init__(self, directory: Path) -> None:
        self.token = self.run = secrets.token_hex(8)
        self.taken_over: dict[str, Holder] = {}
        self._folder = directory / CLAIMS
        self._held: dict[str, Path] = {}
        self._seen: dict[Path, tuple[str, int, float]] = {}
        self._pid = os.getpid()
        self._is_closed = threading.Event()
        self._heart: threading.Thread | None = None

    def take(self, name: str) -> Holder | None:
        """Claim something.

        Args:
            name: Of what is claimed: letters, digits, ``-`` and ``_``.

        Returns:
            None if it is claimed now, or was before; the living process that has it otherwise. The dead one whose claim
            was taken over is in ``taken_over``.
        """
        while True:
            found = self._newest(name)
            if found is not None and found[2].token == self.token:
                return None
            if found is not None and self._lives(*found[1:]):
                return found[2]
            mine = self._folder / f"{name}.{0 if found is None else found[0] + 1}"
            if not self._make(mine):
                continue
            is_replaced = found is not None and (_read(found[1]) or found[2]) != found[2]
            newest = self._newest(name)
            if is_replaced or newest is None or newest[1] != mine:
                mine.unlink(missing_ok=True)  # somebody who saw another state was faster
                time.sleep(secrets.randbelow(20) / 1000)
                continue
            if found is not None:
                self.taken_over[name] = found[2]
                for generation in self._generations(name)[1:]:
                    _remove(self._folder / f"{name}.{generation}")
            self._held[name] = mine
            self._beat()
            return None

    def holds(self, name: str) -> bool:
        """Whether a claim is still ours: a process that stood still for a minute loses it to another machine."""
        found = self._newest(name)
        return found is not None and found[2].token == self.token

    def others(self, start: str) -> list[Holder]:
        """Living holders of claims, other than this process, whose names begin so; claims of dead ones are removed."""
        names = {name.rpartition(".")[0] for name in self._names() if name.startswith(start)}
        found = [newest for name in sorted(names) if (newest := self._newest(name)) is not None]
        living = []
        for _, path, holder in found:
            if not self._lives(path, holder):
                if _token(path) == holder.token:
                    _remove(path)
            elif holder.token != self.token:
                living.append(holder)
        return living

    def release(self, name: str) -> None:
        """Give a claim back, if it is ours."""
        path = self._held.pop(name, None)
        if path is not None and self._pid == os.getpid() and _token(path) == self.token:
            _remove(path)
        with suppress(OSError):
            self._folder.rmdir()  # unless others have claims

    @contextmanager
    def hold(self, name: str) -> Iterator[None]:
        """Have a claim for a short while, after all others who want it as well."""
        while self.take(name) is not None:
            time.sleep(_POLL_SECONDS)
        try:
            yield
        finally:
            self.release(name)

    def close(self) -> None:
        """Give all claims back."""
        for name in list(self._held):
            self.release(name)
        self._is_closed.set()
        self._heart = None

    def _names(self) -> list[str]:
        try:
            return [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []

    def _generations(self, name: str) -> list[int]:
        """Of the files of a claim, the newest first."""
        parts = (other.rpartition(".") for other in self._names())
        return sorted((int(last) for first, _, last in parts if first == name and last.isdecimal()), reverse=True)

    def _newest(self, name: str) -> tuple[int, Path, Holder] | None:
        """Generation, file and holder of a claim."""
        for generation in self._generations(name):
            path = self._folder / f"{name}.{generation}"
            holder = _read(path)
            if holder is not None:
                return generation, path, holder
        return None

    def _make(self, path: Path) -> bool:
        """Make the file of a claim; False if it is there."""
        me = Holder(self.token, platform.node(), _machine(), os.getpid(), _started(os.getpid()) or "", self.run)
        try:
            self._folder.mkdir(exist_ok=True)
            number = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
        except FileExistsError:
            return False
        except FileNotFoundError:
            if not self._folder.parent.is_dir():
                raise
            return False  # the folder was empty, and removed by another process
        with os.fdopen(number, "w") as file:
            json.dump(asdict(me), file)
        return True

    def _lives(self, path: Path, holder: Holder) -> bool:
        """Whether the process of a claim lives."""
        if holder.machine == _machine():
            with suppress(PermissionError):
                return _is_alive(holder.pid, holder.started)
        with suppress(FileNotFoundError), path.open("rb") as file:  # opened, since its time may be remembered otherwise
            time_there, now = os.fstat(file.fileno()).st_mtime_ns, time.monotonic()
            token, before, since = self._seen.get(path, ("", 0, now))
            if (token, before) != (holder.token, time_there):
                since = now
            self._seen[path] = (holder.token, time_there, since)
            return now - since < EXPIRY_SECONDS
        return False

    def _beat(self) -> None:
        if self._heart is None:
            self._is_closed = threading.Event()
            self._heart = threading.Thread(target=self._renew, args=(self._is_closed,), daemon=True, name="claims")
            self._heart.start()

    def _renew(self, is_closed: threading.Event) -> None:
        while not is_closed.wait(BEAT_SECONDS):
            for path in list(self._held.values()):
                with suppress(OSError):
                    if _token(path) == self.token:
                        os.utime(path)


@contextmanager
def alone(directory: Path, verb: str) -> Iterator[None]:
    """Be the only process that runs a verb on a directory, which is made if it is missing.

    Args:
        directory: Of the run; removed at the end if it was made here and is empty.
        verb: Of the command line.

    Raises:
        TabomError: If another one is running.
    """
    made = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    claims = Claims(directory)
    try:
        holder = claims.take(verb.replace(" ", "-"))
        if holder is not None:
            raise TabomError(f"{directory}: expected no other tabom {verb} here, but one is running ({holder})")
        yield
    finally:
        claims.close()
        remove_empty(made)


def remove_empty(directories: list[Path]) -> None:
    """Remove those of some directories, the innermost first, that are empty."""
    for path in directories:
        with suppress(OSError):
            path.rmdir()


def _read(path: Path) -> Holder | None:
    """Who made a claim; None if it is gone, and somebody without a name while its file is being written."""
    try:
        return Holder(**json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError):
        return Holder("", "", "", 0, "", "")


def _token(path: Path) -> str:
    holder = _read(path)
    return "" if holder is None else holder.token


def _remove(path: Path) -> None:
    with suppress(FileNotFoundError):
        os.unlink(path)  # noqa: PTH108


def _machine() -> str:
    parts = [platform.node()]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(os.readlink("/proc/self/ns/pid"))  # noqa: PTH115
    return " ".join(parts)


def _started(pid: int) -> str | None:
    """When a process started, in ticks; empty where that cannot be read, None if it has ended."""
    try:
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return None if state in "ZX" else fields[18]


def _is_alive(pid: int, started: str) -> bool:
    """Whether a process of this machine lives.

    Raises:
        PermissionError: If that cannot be seen.
    """
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        if _started(pid) == "":
            raise
    now = _started(pid)
    return now is not None and (now == started or "" in (now, started))
