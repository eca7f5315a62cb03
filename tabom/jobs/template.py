"""A process that has imported what commands need, and starts each of them as a copy of itself.

Imports are most of what a short command costs. The copy runs ``python -m MODULE`` as a process started afresh would: in
a session of its own, with the variables of its environment, and with an exit code that is written down at its end.
"""

import gc
import importlib
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tabom.signals import SIGNALS

IMPORTED = ("tabom.cli.lightning_cli", "transformers.models.llama.modeling_llama")
"""What the commands of a pipeline or sweep import. A copy can share neither threads nor temporary files, so that W&B,
which makes some when it is imported, is left to the copies, and so is pandas.
"""
_LARGEST_REQUEST = 1 << 20


class Template:
    """Starts commands; the process behind it begins with the first one, and ends with this one or with :meth:`close`.

    What it has started goes on without it.

    Args:
        imported: Names of modules.
    """

    def __init__(self, imported: Sequence[str] = IMPORTED) -> None:
        self._imported = imported
        self._connection: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(
        self,
        module: str,
        words: Sequence[str],
        environment: Mapping[str, str],
        *,
        output: int,
        lock: int,
        exit_file: Path | None,
    ) -> int | None:
        """Start a command in a session of its own.

        Args:
            module: That is run.
            words: After it.
            environment: Variables of the process; those that libraries read when they are imported are taken from the
                first command.
            output: Open file that gets what is printed.
            lock: Open file that gets the id of the session, and stays open until the process has ended.
            exit_file: Gets the exit code at the end; None for none.

        Returns:
            Id of the session; None if no process could be started in this way.
        """
        connection = self._connection or self._connect(environment, output)
        path = None if exit_file is None else str(exit_file.absolute())
        request = {"module": module, "words": list(words), "environment": dict(environment), "exit_file": path}
        with suppress(OSError):
            socket.send_fds(connection, [json.dumps(request).encode()], [output, lock])
            if answer := connection.recv(32):
                return int(answer)
        self.close()
        return None

    def close(self) -> None:
        """End the process behind it."""
        if self._connection is not None and self._process is not None:
            self._connection.close()
            self._connection = None
            self._process.wait()

    def _connect(self, environment: Mapping[str, str], output: int) -> socket.socket:
        self._connection, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _LARGEST_REQUEST)
        with other:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(other.fileno()), *self._imported],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                pass_fds=[other.fileno()],
                start_new_session=True,
            )
        return self._connection


def has_devices() -> bool:
    """Whether this machine has GPUs for its commands, whose libraries are best begun by the process that uses them."""
    return os.environ.get("CUDA_VISIBLE_DEVICES") != "" and any(Path("/dev").glob("nvidia[0-9]*"))


def main() -> None:
    """Wait for commands; a copy of this process leaves by running one."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    gc.disable()
    for name in sys.argv[2:]:
        importlib.import_module(name)
    gc.freeze()  # what is never looked at again is not copied either
    gc.enable()
    signal.signal(signal.SIGCHLD, _reap)
    while True:
        message, files, *_ = socket.recv_fds(connection, _LARGEST_REQUEST, 2)
        if not message:
            _reap()
            os._exit(0)
        if os.fork() == 0:
            _run(connection, json.loads(message), *files)
            return
        for file in files:
            os.close(file)


def _reap(*_: object) -> None:
    """Wait for the copies that have ended, so that their processor time counts as that of who started them."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _run(connection: socket.socket, request: dict[str, Any], output: int, lock: int) -> None:
    """Run a command in a copy of this process, which only waits for its end: a copy may be killed at any moment."""
    os.setsid()
    os.write(lock, str(os.getpid()).encode())  # here, since who asked may have been killed meanwhile; it stays open
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in (1, 2):
        os.dup2(output, number)
    os.close(output)
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pid = os.fork()
    if pid == 0:
        connection.close()
        signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
        sys.argv = [request["module"], *request["words"]]
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
        return
    connection.send(str(os.getpid()).encode())
    connection.close()
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if request["exit_file"] is not None:
        Path(request["exit_file"]).write_text(f"{code if code >= 0 else 128 - code}\n")
    os._exit(0)


if __name__ == "__main__":
    main()
