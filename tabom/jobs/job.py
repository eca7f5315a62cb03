"""One command as a process that outlives the one that started it."""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabom.jobs.template import Template

PROGRAM = (sys.executable, "-m", "tabom")
_NOTING_ITS_EXIT_CODE = 'trap : TERM INT USR1; exit_file=$1; shift; "$@"; code=$?; echo $code >"$exit_file"; exit $code'
"""Shell that waits for a command, which a signal to the whole group reaches as well, and writes down how it ended."""


class Job:
    """A command of this process, or of one that was killed; then it went on.

    A lock on a file tells that the process runs, which holds it as long as it lives; the file holds its id.

    Args:
        lock_file: In a directory that is there when the command begins.
        log: Gets all that the command prints, after what earlier starts printed.
        exit_file: Gets the exit code as a decimal number at the end, also when nobody waits for it; one of an earlier
            start is to be removed before. None for none.

    Attributes:
        is_begun: Whether this object started the command.
    """

    def __init__(self, lock_file: Path, log: Path, exit_file: Path | None = None) -> None:
        self.log = log
        self.is_asked_to_stop = False
        self._lock_file = lock_file
        self._exit_file = exit_file
        self._process: subprocess.Popen[bytes] | None = None
        self.is_begun = False

    def begin(self, command: Sequence[str], environment: Mapping[str, str], template: Template | None = None) -> None:
        """Start the process, in a session of its own: a signal to this one does not reach it.

        Args:
            command: All its words.
            environment: Its variables.
            template: Starts modules of Python without their imports; without it they are started afresh.
        """
        self.is_begun = True
        with self.log.open("ab") as output, self._lock_file.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if template is not None and tuple(command[:2]) == PROGRAM[:2]:
                pid = template.start(
                    command[2],
                    command[3:],
                    environment,
                    output=output.fileno(),
                    lock=lock.fileno(),
                    exit_file=self._exit_file,
                )
                if pid is not None:
                    return
            if self._exit_file is not None:
                command = ["/bin/sh", "-c", _NOTING_ITS_EXIT_CODE, "sh", str(self._exit_file), *command]
            self._process = subprocess.Popen(
                command,
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
        if pid and not self.is_asked_to_stop and self.is_running():
            self.is_asked_to_stop = True
            os.killpg(int(pid), signal.SIGTERM)

    def exit_code(self) -> int | None:
        """How it ended, as the shell says it; None if it runs, was killed with its shell, or never began."""
        text = self._exit_file.read_text() if self._exit_file is not None and self._exit_file.exists() else ""
        return int(text) if text.strip().isdecimal() and not self.is_running() else None

    def last_lines(self, number: int) -> list[str]:
        """The last lines of the log that are not empty."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return [line for line in lines if line.strip()][-number:]


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock."""
    with path.open("ab") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
