"""Runs generated Python programs where they can do no harm: ``docs/sandbox.md`` says against what, and what not."""

import contextlib
import errno
import functools
import marshal
import math
import os
import secrets
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

from tabom.errors import TabomError, require
from tabom.sandbox.child import RESULT_READY, Request, landlock_version

_MAX_REASON_LENGTH = 200  # characters
_MAX_ENTRIES = 1000  # files and directories in the scratch directory
_MAX_OPEN_FILES = 64
_STACK_BYTES = 8 << 20
_SECONDS_BETWEEN_LOOKS = 0.05
_MIB = 1 << 20
_ENVIRONMENT = {"PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

# Any other system call does not exist (ENOSYS), those of kernels to come included. Left out on purpose, beside what
# makes processes, sockets and mounts: signals to processes (kill, tgkill), and what Landlock does not see and acts on
# files that can only be read (chmod, chown, utime, xattr; truncate, and openat2 that can do so, before its version 3).
_ALLOWED = """
    brk madvise mincore mmap mprotect mremap msync munmap
    close close_range dup dup2 dup3 lseek read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2
    copy_file_range fadvise64 fallocate fdatasync flock fsync ftruncate sendfile
    access chdir creat faccessat faccessat2 fchdir fstat fstatfs getcwd getdents getdents64 link linkat lstat mkdir
    mkdirat newfstatat readlink readlinkat rename renameat renameat2 rmdir stat statfs statx
    symlink symlinkat umask unlink unlinkat
    epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 pipe pipe2 poll ppoll pselect6 recvfrom select
    alarm clock_getres clock_gettime clock_nanosleep getitimer gettimeofday nanosleep pause setitimer time times
    capget getcpu getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getrandom getresgid
    getresuid getrlimit getrusage getsid gettid getuid sched_get_priority_max sched_get_priority_min sched_getaffinity
    sched_getparam sched_getscheduler sched_yield sysinfo uname
    exit exit_group futex get_robust_list membarrier restart_syscall rseq set_robust_list set_tid_address
    rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait sigaltstack
"""
_WORD = 0xFFFFFFFF
_CLONE_THREAD = 0x00010000
_CLONE_NEW_NAMESPACE = 0x7E020000


@dataclass(frozen=True)
class Limits:
    """What a program may use.

    Args:
        seconds: From the start of its process to its end, however busy the machine is.
        cpu_seconds: Of the processor, over all its threads, rounded up; a reference solution of MBPP takes 6.
        memory_mib: Address space, MiB; the interpreter takes 30 of it.
        file_mib: Size of one file, MiB.
        scratch_mib: Size of all files in its directory, MiB, looked at every 50 ms.
        output_kib: What it prints to stdout and stderr together, KiB.
        num_threads: Threads at a time, looked at every 50 ms.

    Raises:
        TabomError: If one of them is not positive.
    """

    seconds: float = 60.0
    cpu_seconds: float = 15.0
    memory_mib: int = 1024
    file_mib: int = 1
    scratch_mib: int = 16
    output_kib: int = 64
    num_threads: int = 64

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            require(0 < value < math.inf, f"{name}: expected a positive number, got {value}")

    def resources(self) -> dict[str, tuple[int, int]]:
        """What the kernel keeps, by name: soft and hard limit."""
        cpu = math.ceil(self.cpu_seconds)
        values = {
            "RLIMIT_AS": self.memory_mib * _MIB,
            "RLIMIT_CORE": 0,
            "RLIMIT_FSIZE": self.file_mib * _MIB,
            "RLIMIT_NOFILE": _MAX_OPEN_FILES,
            "RLIMIT_STACK": _STACK_BYTES,
        }
        return {"RLIMIT_CPU": (cpu, cpu + 1), **{name: (value, value) for name, value in values.items()}}


@dataclass(frozen=True)
class Outcome:
    """What became of a program.

    Args:
        is_passed: Whether it ran to its end.
        reason: Why it did not; empty if it did.
        seconds: How long it took.
    """

    is_passed: bool
    reason: str
    seconds: float


class Sandbox:
    """Runs programs, each in a confined process of its own; may be called by any thread.

    Args:
        limits: Of every program; None for the defaults.
        num_workers: Programs that :meth:`run_all` runs at a time; None for one for each processor.

    Raises:
        TabomError: If there are no workers, or this machine cannot confine a process.
    """

    def __init__(self, limits: Limits | None = None, num_workers: int | None = None) -> None:
        require(num_workers is None or num_workers >= 1, f"num_workers: expected at least 1, got {num_workers}")
        check_sandbox()
        self.limits = limits or Limits()
        self.num_workers = num_workers or len(os.sched_getaffinity(0))

    def run(self, program: str) -> Outcome:
        """Run one program; it passes when its last line is done and no exception was raised.

        Raises:
            TabomError: If its process cannot be confined; the program has not run then.
        """
        return self._run(program, threading.Event())

    def run_all(self, programs: Sequence[str], on_finished: Callable[[int], None] | None = None) -> list[Outcome]:
        """Run programs, several at a time.

        Args:
            programs: In any number.
            on_finished: Called after each of them, in this thread, with the number of those that have finished.

        Returns:
            Their outcomes, in the order of ``programs``.

        Raises:
            TabomError: As :meth:`run` does; the others are ended then.
        """
        stop = threading.Event()
        with ThreadPoolExecutor(self.num_workers) as pool:
            try:
                futures = [pool.submit(self._run, program, stop) for program in programs]
                for num_finished, future in enumerate(as_completed(futures), start=1):
                    future.result()
                    if on_finished is not None:
                        on_finished(num_finished)
            except BaseException:  # Ctrl-C too
                stop.set()
                pool.shutdown(cancel_futures=True)
                raise
        return [future.result() for future in futures]

    def _run(self, program: str, stop: threading.Event) -> Outcome:
        scratch = Path(tempfile.mkdtemp(prefix="tabom-sandbox-"))
        try:
            start = time.monotonic()
            reason = _run_confined(program, self.limits, scratch, stop)
            seconds = time.monotonic() - start
        finally:
            _remove(scratch)
        return Outcome(not reason, reason, seconds)


def check_sandbox() -> None:
    """Check that this machine can confine a process.

    Raises:
        TabomError: If it cannot; says what is missing.
    """
    require(sys.platform == "linux", f"sandbox: generated code runs on Linux only, this is {sys.platform}")
    require(landlock_version() >= 1, "sandbox: expected a kernel with Landlock (Linux 5.13, and switched on), got none")
    _filter_instructions()


@functools.cache
def _filter_instructions() -> bytes:
    """The filter of system calls for seccomp, made here: libseccomp takes longer to load than a program to run."""
    try:
        import pyseccomp
    except ImportError as error:
        raise TabomError("sandbox: generated code needs pyseccomp; pip install 'tabom[eval]'") from error
    except RuntimeError as error:
        raise TabomError("sandbox: expected the library libseccomp, found none (apt install libseccomp2)") from error
    calls = pyseccomp.SyscallFilter(pyseccomp.ERRNO(errno.ENOSYS))
    for name in _ALLOWED.split():
        number = pyseccomp.resolve_syscall(pyseccomp.Arch.NATIVE, name)
        if number != -1:  # known to this libseccomp
            calls.add_rule(pyseccomp.ALLOW, number)
    for name, argument, mask, value in _allowed_arguments():
        calls.add_rule(pyseccomp.ALLOW, name, pyseccomp.Arg(argument, pyseccomp.MASKED_EQ, mask, value))
    with tempfile.TemporaryFile() as file:
        calls.export_bpf(file)
        file.seek(0)
        return file.read()


def _allowed_arguments() -> Iterator[tuple[str, int, int, int]]:
    """System calls that are allowed where an argument, masked, has a value."""
    import fcntl
    import socket
    import termios

    yield "clone", 0, _CLONE_THREAD | _CLONE_NEW_NAMESPACE, _CLONE_THREAD
    for name, flags in (("open", 1), ("openat", 2)):
        yield name, flags, os.O_TRUNC, 0
        yield name, flags, os.O_ACCMODE, os.O_WRONLY  # with O_RDONLY, O_TRUNC empties files that can only be read
        yield name, flags, os.O_ACCMODE, os.O_RDWR
    yield "prlimit64", 2, (1 << 64) - 1, 0  # asks for a limit, sets none
    yield "socketpair", 0, _WORD, socket.AF_UNIX  # asyncio wakes itself through one
    yield "sendto", 4, (1 << 64) - 1, 0  # along such a pair, to no address
    yield "prctl", 0, _WORD, 15  # PR_SET_NAME, of a thread
    for command in ("DUPFD", "GETFD", "SETFD", "GETFL", "SETFL", "GETLK", "SETLK", "SETLKW", "DUPFD_CLOEXEC"):
        yield "fcntl", 1, _WORD, getattr(fcntl, f"F_{command}")
    for command in ("FIOCLEX", "FIONCLEX", "FIONBIO", "FIONREAD", "TCGETS", "TIOCGWINSZ"):
        yield "ioctl", 1, _WORD, getattr(termios, command)


def _run_confined(program: str, limits: Limits, scratch: Path, stop: threading.Event) -> str:
    """Why the program failed; empty if it passed."""
    token = secrets.token_bytes(16)
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as result:
        try:
            process = _start(program, limits, scratch, token, write_end)
        finally:
            os.close(write_end)
        with process:
            try:
                stopped, errors = _watch(process, limits, scratch, stop)
            finally:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            return stopped or _failure(process.returncode, result.read(), token, errors)


def _start(program: str, limits: Limits, scratch: Path, token: bytes, result: int) -> subprocess.Popen[bytes]:
    request: Request = (program, token, result, os.getpid(), limits.resources(), _filter_instructions())
    with tempfile.TemporaryFile() as file:
        file.write(marshal.dumps(request))
        file.seek(0)
        return subprocess.Popen(
            [sys.executable, "-s", "-P", "-B", "-X", "utf8", str(Path(__file__).with_name("child.py"))],
            stdin=file,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            cwd=scratch,
            env={**_ENVIRONMENT, "HOME": str(scratch), "TMPDIR": str(scratch)},
            pass_fds=(result,),
            start_new_session=True,
        )


def _watch(process: subprocess.Popen[bytes], limits: Limits, scratch: Path, stop: threading.Event) -> tuple[str, bytes]:
    """Wait for the process to end; returns why it has to be ended, empty if it did so itself, and its stderr."""
    assert process.stderr is not None
    stderr = process.stderr.fileno()
    errors, num_bytes = b"", 0
    next_look, deadline = 0.0, time.monotonic() + limits.seconds
    with _events(process) as (selector, end):
        while (ready := {key.fd for key, _ in selector.select(_SECONDS_BETWEEN_LOOKS)}) != {end}:
            for pipe in ready - {end}:
                data = os.read(pipe, 1 << 16)
                num_bytes += len(data)
                errors += data if pipe == stderr else b""
                if not data:
                    selector.unregister(pipe)
            if num_bytes > limits.output_kib << 10:
                return "too much output", errors
            if (now := time.monotonic()) > deadline or stop.is_set():
                return "timed out", errors
            if now > next_look:
                next_look = now + _SECONDS_BETWEEN_LOOKS
                if excess := _excess(process.pid, limits, scratch):
                    return excess, errors
    return "", errors


@contextlib.contextmanager
def _events(process: subprocess.Popen[bytes]) -> Iterator[tuple[selectors.BaseSelector, int]]:
    """What wakes up when the process prints, closes its output or ends, and the descriptor that stands for its end."""
    assert process.stdout is not None
    assert process.stderr is not None
    end = os.pidfd_open(process.pid)
    try:
        with selectors.DefaultSelector() as selector:
            for descriptor in (process.stdout.fileno(), process.stderr.fileno(), end):
                selector.register(descriptor, selectors.EVENT_READ)
            yield selector, end
    finally:
        os.close(end)


def _excess(pid: int, limits: Limits, scratch: Path) -> str:
    """What the process has too much of, among what the kernel does not count; empty if nothing."""
    if len(list(Path(f"/proc/{pid}/task").iterdir())) > limits.num_threads:
        return "too many threads"
    num_bytes = 0
    try:
        for number, entry in enumerate(_entries(scratch), start=1):
            with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                num_bytes += entry.stat(follow_symlinks=False).st_blocks * 512
            if number > _MAX_ENTRIES or num_bytes > limits.scratch_mib * _MIB:
                return "too many files"
    except OSError:
        return "a directory that cannot be read"
    return ""


def _entries(scratch: Path) -> Iterator[os.DirEntry[str]]:
    directories = [str(scratch)]
    while directories:
        with contextlib.suppress(FileNotFoundError), os.scandir(directories.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    directories.append(entry.path)
                yield entry


def _failure(exit_code: int, told: bytes, token: bytes, errors: bytes) -> str:
    """Why a program failed whose process ended by itself; empty if it passed.

    Raises:
        TabomError: If its process could not be confined.
    """
    last_line = (errors.decode(errors="replace").strip().splitlines() or [""])[-1][:_MAX_REASON_LENGTH]
    if exit_code == -signal.SIGXCPU:
        return "timed out"
    ending = f"killed by {signal.Signals(-exit_code).name}" if exit_code < 0 else f"exit code {exit_code}"
    ending += f": {last_line}" if last_line else ""
    if not told.startswith(RESULT_READY):
        raise TabomError(f"sandbox: expected a confined process, got {ending}")
    if told == RESULT_READY + token and exit_code == 0:
        return ""
    return ending if exit_code else "ended before the end of the program"


def _remove(scratch: Path) -> None:
    """Remove the directory, however deep it is: what lies two levels down moves up, so that no path gets long."""
    directories = _clear(scratch)
    while directories:
        directory = directories.pop()
        for inner in _clear(directory):
            directories.append(scratch / uuid.uuid4().hex)
            inner.rename(directories[-1])
        directory.rmdir()
    scratch.rmdir()


def _clear(directory: Path) -> list[Path]:
    """Remove the files; returns the directories, which can be changed then."""
    directories: list[Path] = []
    with os.scandir(directory) as entries:
        for entry in list(entries):
            path = Path(entry.path)
            if entry.is_dir(follow_symlinks=False):
                path.chmod(0o700)  # one that cannot be changed cannot be moved
                directories.append(path)
            else:
                path.unlink()
    return directories
