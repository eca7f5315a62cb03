"""One run of a sweep: a process, its directory, and what became of it."""

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO, Literal

from tabom.storage.run_record import DIRECTORY, RunRecord, read_record

PROGRAM = (sys.executable, "-m", "tabom")
State = Literal["running", "finished", "pruned", "stopped", "failed"]


@dataclass(frozen=True)
class Run:
    """What is known of a run of a sweep.

    Attributes:
        run_id: Name of its directory.
        wandb_id: Of W&B and of the record; another one each time that it goes on from its checkpoint.
        setting: Number of the setting that it tries.
        values: Of the setting.
        seed: None leaves it to the configuration.
        state: ``stopped`` goes on, or is started again, when the sweep does.
        pid: Of its process, which leads a group; 0 before it is there.
        metric: At its end.
        seconds: That it took.
        reason: Why it failed.
    """

    run_id: str
    wandb_id: str
    setting: int
    values: dict[str, Any]
    seed: int | None
    state: State = "running"
    pid: int = 0
    metric: float | None = None
    seconds: float | None = None
    reason: str = ""


class RunningProcess:
    """A run in progress, of this sweep command or of one that was killed: then its process went on.

    A lock on a file tells that it runs; the process holds it as long as it lives.

    Args:
        run: What runs.
        directory: Of the run.
    """

    def __init__(self, run: Run, directory: Path) -> None:
        self.run = run
        self.directory = directory
        self.start = time.monotonic()
        self.is_ended_early = False
        self.num_reported = 0
        self._lock_file = directory / "lock"
        self._is_asked = False
        self._process: subprocess.Popen[bytes] | None = None

    def begin(self, words: Sequence[str], num_threads: int) -> None:
        """Start the process.

        Args:
            words: After ``tabom``.
            num_threads: Of its tensor operations, unless ``OMP_NUM_THREADS`` says otherwise.
        """
        environment = {"OMP_NUM_THREADS": str(num_threads)} | os.environ
        environment.pop("WANDB_SWEEP_ID", None)
        environment |= {"WANDB_MODE": "offline", "WANDB_RUN_ID": self.run.wandb_id}
        with (self.directory / "output.log").open("ab") as output, self._lock_file.open("ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._process = subprocess.Popen(
                [*PROGRAM, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
        self.run = replace(self.run, pid=self._process.pid)

    def is_running(self) -> bool:
        """Whether the process lives."""
        return is_locked(self._lock_file) if self._process is None else self._process.poll() is None

    def stop(self) -> None:
        """Ask it to end, with all its helpers; asking again changes nothing."""
        if self.run.pid and not self._is_asked and self.is_running():
            os.killpg(self.run.pid, signal.SIGTERM)
            self._is_asked = True

    def values(self, metric: str) -> list[float]:
        """The metric at all checks so far, also at those before it was stopped."""
        stage, _, name = metric.partition("/")
        checks = [check for record in self._records() for check in record.checks if check.stage == stage]
        return list({check.step: check.values[name] for check in checks if name in check.values}.values())

    def outcome(self, metric: str) -> Run:
        """What became of it, once it has ended."""
        record = next((record for record in reversed(self._records()) if record.run_id == self.run.wandb_id), None)
        run = replace(self.run, seconds=round(time.monotonic() - self.start, 1))
        if record is not None and record.state == "finished":
            if values := self.values(metric):
                return replace(run, state="finished", metric=values[-1], seconds=record.seconds)
            return replace(run, state="failed", reason=f"expected the metric {metric} in {record.path}, found none")
        if self.is_ended_early:
            return replace(run, state="pruned")
        if self._is_asked or (self._process is None if record is None else record.state != "failed"):
            return replace(run, state="stopped")
        return replace(run, state="failed", reason=self._last_line() if record is None else record.reason)

    def _records(self) -> list[RunRecord]:
        """By time; one whose first line is not whole yet is left out."""
        paths = sorted((self.directory / DIRECTORY).glob("*.jsonl"))
        return [read_record(path) for path in paths if b"\n" in path.read_bytes()]

    def _last_line(self) -> str:
        lines = (self.directory / "output.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no output")


def claimed(path: Path) -> BinaryIO | None:
    """A file with a lock that is held until it is closed; None if another process holds it."""
    lock = path.open("ab")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.close()
        return None
    return lock


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    lock = claimed(path)
    if lock is not None:
        lock.close()
    return lock is None
