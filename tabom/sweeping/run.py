"""One run of a sweep: a process, its directory, and what became of it."""

import fcntl
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabom.storage.run_record import DIRECTORY, RunRecord, read_record

PROGRAM = (sys.executable, "-m", "tabom")


class Run:
    """One setting with one seed: a process of this sweep command, or of one that was killed; then it went on.

    A lock on a file tells that the process runs, which holds it as long as it lives; the file holds its id. All else
    is read from the run's own records.

    Args:
        directory: Of the run.
        setting: Number of the setting that it tries.
        values: Of the setting.
        seed: None leaves it to the configuration.
        metric: Stage and name of what is optimised.
    """

    def __init__(self, directory: Path, setting: int, values: dict[str, Any], seed: int | None, metric: str) -> None:
        self.directory = directory
        self.setting = setting
        self.values = values
        self.seed = seed
        self.num_reported = 0
        self._stage, _, self._name = metric.partition("/")
        self._lock_file = directory / "lock"
        self._is_asked = False
        self._process: subprocess.Popen[bytes] | None = None
        self._wandb_id = ""
        self.is_tried = self.is_running()
        self.metric: float | None = None  # at its end
        if not self.is_tried:
            self.finish()

    def begin(self, words: Sequence[str], num_threads: int) -> None:
        """Start the process; one that was stopped and has a checkpoint goes on from it.

        Args:
            words: After ``tabom``.
            num_threads: Of its tensor operations, unless ``OMP_NUM_THREADS`` says otherwise.
        """
        self.is_tried = True
        self.directory.mkdir(exist_ok=True)
        self._wandb_id = secrets.token_hex(4)  # another one each time: W&B takes no run twice
        environment = {"OMP_NUM_THREADS": str(num_threads)} | os.environ
        environment.pop("WANDB_SWEEP_ID", None)
        mode = "disabled" if os.environ.get("WANDB_MODE") == "disabled" else "offline"
        environment |= {"WANDB_MODE": mode, "WANDB_RUN_ID": self._wandb_id}
        goes_on = ["--ckpt_path=last"] if (self.directory / "checkpoints/last.ckpt").exists() else []
        with (self.directory / "output.log").open("ab") as output, self._lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            self._process = subprocess.Popen(
                [*PROGRAM, *words, f"--run_dir={self.directory}", *goes_on],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[lock.fileno()],
                start_new_session=True,
            )
            lock.write(str(self._process.pid))

    def is_running(self) -> bool:
        """Whether the process lives."""
        if self._process is None:
            return self._lock_file.exists() and is_locked(self._lock_file)
        return self._process.poll() is None

    def stop(self) -> None:
        """Ask it to end, with all its helpers; asking again changes nothing."""
        pid = self._lock_file.read_text() if self._lock_file.exists() else ""
        if pid and not self._is_asked and self.is_running():
            self._is_asked = True
            os.killpg(int(pid), signal.SIGTERM)

    def checks(self) -> list[float]:
        """The metric at all checks so far, also at those before it was stopped."""
        checks = [check for record in self._records() for check in record.checks if check.stage == self._stage]
        return list({check.step: check.values[self._name] for check in checks if self._name in check.values}.values())

    def finish(self) -> str:
        """Read what became of it, once it has ended; returns why it failed, if it did."""
        records, values = self._records(), self.checks()
        record = next((one for one in reversed(records) if self._wandb_id in ("", one.run_id)), None)
        if record is None:
            return self._last_line() if self._process is not None and not self._is_asked else ""
        if record.state == "finished":
            self.metric = values[-1] if values else None
            return "" if values else f"expected the metric {self._stage}/{self._name} in {record.path}, found none"
        if record.state == "failed":
            return record.reason
        return "" if self._is_asked else "its process was killed"

    def _records(self) -> list[RunRecord]:
        """By time; one whose first line is not whole yet is left out."""
        paths = sorted((self.directory / DIRECTORY).glob("*.jsonl"))
        return [read_record(path) for path in paths if b"\n" in path.read_bytes()]

    def _last_line(self) -> str:
        lines = (self.directory / "output.log").read_text(errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "no output")


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
