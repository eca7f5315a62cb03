"""Programs that would do harm, programs that do none, and a machine that cannot tell them apart."""

import ctypes.util
import os
import signal
import socket
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import pytest

from tabom.errors import TabomError
from tabom.sandbox import Limits, Sandbox, check_sandbox, child
from tabom.sandbox import sandbox as sandbox_module

# In a program, OUTSIDE is a directory of the test's, and PORT a port at which the test listens.
HOSTILE = {
    "fork bomb": "import os\nfor _ in range(8): os.fork()\nwhile True: pass",
    "fork bomb that goes on": """
        import os
        for _ in range(8):
            try:
                os.fork()
            except OSError:
                pass
        while True: pass
    """,
    "vfork and clone by number": """
        import ctypes
        libc = ctypes.CDLL(None)
        made = [libc.syscall(number, 17, 0, 0, 0, 0) for number in (56, 57, 58, 435)]
        assert made != [-1] * 4
    """,
    "shell": "import subprocess\nsubprocess.run('touch OUTSIDE/new', shell=True, check=True)",
    "os.system": "import os\nassert os.system('rm -rf OUTSIDE') == 0",
    "system of libc": "import ctypes\nassert ctypes.CDLL(None).system(b'rm -rf OUTSIDE') == 0",
    "exec": "import os\nos.execv('/bin/rm', ['rm', '-rf', 'OUTSIDE'])",
    "posix_spawn": "import os\nos.posix_spawn('/bin/rm', ['rm', '-rf', 'OUTSIDE'], {})",
    "multiprocessing": "import multiprocessing as m\np = m.Process(target=print)\np.start()\np.join()",
    "daemon": "import os\nos.setsid()\nif os.fork(): os._exit(0)\nwhile True: pass",
    "endless loop": "while True: pass",
    "endless loop that catches everything": """
        import signal
        for number in (signal.SIGTERM, signal.SIGALRM, signal.SIGXCPU, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        while True:
            try:
                while True: pass
            except BaseException:
                pass
    """,
    "endless loop in C": "10 ** 10 ** 9",
    "endless regular expression": "import re\nre.match('(a+)+b', 'a' * 60)",
    "endless sleep": "import time\ntime.sleep(1000)",
    "endless thread": """
        import threading
        threading.Thread(target=lambda: [0 for _ in iter(int, 1)]).start()
        assert False
    """,
    "endless repr of the error": """
        class Error(Exception):
            def __str__(self):
                while True: pass
        raise Error
    """,
    "deadlock": "import threading\nlock = threading.Lock()\nlock.acquire()\nlock.acquire()",
    "rm -rf": "import shutil\nshutil.rmtree('OUTSIDE')",
    "write outside": "open('OUTSIDE/new', 'w').write('x')",
    "write over": "open('OUTSIDE/file', 'w').write('x')",
    "append": "open('OUTSIDE/file', 'a').write('x')",
    "truncate": "import os\nos.truncate('OUTSIDE/file', 0)",
    "unlink": "import os\nos.unlink('OUTSIDE/file')",
    "rename": "import os\nos.rename('OUTSIDE/file', 'OUTSIDE/new')",
    "move in": "import os\nos.rename('OUTSIDE/file', 'file')",
    "hard link": "import os\nos.link('OUTSIDE/file', 'file')\nopen('file', 'w')",
    "symlink out": "import os\nos.symlink('OUTSIDE', 'way')\nopen('way/file', 'w').write('x')",
    "way up": "import os\nopen(os.path.relpath('OUTSIDE/file'), 'w').write('x')",
    "chmod": "import os\nos.chmod('OUTSIDE/file', 0o777)",
    "chown": "import os\nos.chown('OUTSIDE/file', 1, 1)",
    "utime": "import os\nos.utime('OUTSIDE/file', (0, 0))",
    "setxattr": "import os\nos.setxattr('OUTSIDE/file', 'user.x', b'x')",
    "read a secret": "assert 'secret' in open('OUTSIDE/file').read()",
    "list a directory": "import os\nassert os.listdir('OUTSIDE')",
    "read /etc/passwd": "open('/etc/passwd').read()",
    "read the home": "import os\nos.listdir('/root' if os.getuid() == 0 else '/home')",
    "environment": "import os\nassert 'TABOM_SECRET' in os.environ",
    "environment of the parent": "import os\nopen(f'/proc/{os.getppid()}/environ', 'rb').read()",
    "memory of the parent": "import os\nopen(f'/proc/{os.getppid()}/mem', 'r+b')",
    "memory of the parent by number": """
        import ctypes, os
        buffer, size = ctypes.create_string_buffer(8), ctypes.c_size_t(8)
        piece = (ctypes.c_size_t * 2)(ctypes.addressof(buffer), 8)
        assert ctypes.CDLL(None).process_vm_readv(os.getppid(), piece, 1, piece, 1, 0) == 8
    """,
    "ptrace": "import ctypes, os\nassert ctypes.CDLL(None).ptrace(16, os.getppid(), 0, 0) == 0",
    "memory hog": "x = bytearray(10 ** 11)",
    "memory hog, slowly": "x = []\nwhile True: x.append(bytearray(10 ** 7))",
    "memory hog by mmap": "import mmap\nx = [mmap.mmap(-1, 2 ** 30) for _ in range(100)]",
    "memory hog that goes on": """
        x = []
        while True:
            try:
                x.append(bytearray(10 ** 6))
            except MemoryError:
                pass
    """,
    "shared memory": "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=100)",
    "memory file": "import os\nos.memfd_create('x')",
    "socket": "import socket\nsocket.create_connection(('127.0.0.1', PORT))",
    "datagram": "import socket\nsocket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('127.0.0.1', PORT))",
    "server": "import socket\nsocket.create_server(('127.0.0.1', 0))",
    "http": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:PORT')",
    "unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('OUTSIDE/socket')",
    "unix socket from a pair": """
        import socket
        socket.socketpair(type=socket.SOCK_DGRAM)[0].sendto(b'x', '\\0tabom-datagram-PORT')
    """,
    "abstract unix socket": "import socket\nsocket.socket(socket.AF_UNIX).connect('\\0tabom-PORT')",
    "signal to the parent": "import os\nos.kill(os.getppid(), 9)",
    "signal to all": "import os, signal\nos.kill(-1, signal.SIGURG)",
    "signal to its session": "import os\nos.killpg(0, 9)",
    "signal by a file": """
        import fcntl, os
        end, _ = os.pipe()
        fcntl.fcntl(end, fcntl.F_SETOWN, os.getppid())
    """,
    "signal by pidfd": "import os\nos.pidfd_open(os.getppid())",
    "prints without end": "while True: print('x')",
    "prints without end to stderr": "import sys\nwhile True: sys.stderr.write('x' * 1000)",
    "huge traceback": "raise ValueError('x' * 10 ** 7)",
    "huge file": "with open('x', 'wb') as f:\n while True: f.write(bytes(10 ** 6))",
    "huge file that goes on": """
        with open('x', 'wb') as f:
            while True:
                try:
                    f.write(bytes(10 ** 6))
                except OSError:
                    pass
    """,
    "many large files": "n = 0\nwhile True:\n n += 1\n with open(f'x{n}', 'wb') as f: f.write(bytes(10 ** 6))",
    "many files": "n = 0\nwhile True:\n n += 1\n open(f'x{n}', 'w').close()",
    "deep directories": "import os\nwhile True:\n os.mkdir('x' * 200)\n os.chdir('x' * 200)",
    "open files": "x = [open('/dev/null') for _ in range(1000)]",
    "thread bomb": """
        import threading, time
        threading.stack_size(2 ** 15)
        while True: threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    """,
    "thread bomb that goes on": """
        import threading, time
        while True:
            try:
                threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
            except RuntimeError:
                pass
    """,
    "os._exit": "import os\nos._exit(0)\nassert False",
    "sys.exit": "import sys\nsys.exit(0)\nassert False",
    "exit": "exit()\nassert False",
    "exit in atexit": "import atexit, os\natexit.register(os._exit, 0)\nassert False",
    "exit in a thread": "import os, threading\nthreading.Thread(target=os._exit, args=(0,)).start()\nwhile True: pass",
    "abort": "import os\nos.abort()",
    "crash": "import ctypes\nctypes.string_at(1)",
    "raises its limits": """
        import resource
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    """,
    "lives longer than its parent": "import ctypes\nassert ctypes.CDLL(None).prctl(1, 0, 0, 0, 0) == 0",
    "takes the processor": "import os\nos.nice(-20)",
    "takes the parent's processors": "import os\nos.sched_setaffinity(os.getppid(), {0})",
    "mount": "import ctypes\nassert ctypes.CDLL(None).mount(b'none', b'.', b'tmpfs', 0, None) == 0",
    "unshare": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "chroot": "import os\nos.chroot('.')",
    "keyring": "import ctypes\nassert ctypes.CDLL(None).syscall(250, 0, -3, 1) >= 0",
    "becomes another": "import os\nos.setuid(1)",
    "closes everything": "import os\nos.closerange(0, 1000)",
    "forges its result": """
        import os
        for pipe in range(3, 100):
            try:
                os.write(pipe, bytes(16))
            except OSError:
                pass
        os._exit(0)
    """,
    "reads stdin": "input()",
    "deep recursion": "def f(): f()\nf()",
    "deeper recursion": """
        import sys
        sys.setrecursionlimit(10 ** 9)
        class A:
            def __getattr__(self, name): return getattr(self, name + 'x')
        A().x
    """,
    "deep source": "(" * 100_000,
    "NUL in the source": "x = '\0'",
    "surrogate in the source": "x = '\ud800'",
    "no Python": "def f(:",
    "nothing but a wrong test": "assert 1 == 2",
    "KeyboardInterrupt": "raise KeyboardInterrupt",
    "error of its own": "class E(BaseException): pass\nraise E",
    "error that cannot be shown": "import sys\nsys.stdout = sys.stderr = sys.excepthook = None\nassert False",
}

MANY_THREADS = """
    import threading, time
    threading.stack_size(2 ** 15)
    for _ in range(70): threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()
    time.sleep(1000)
"""

HARMLESS = {
    "nothing": "",
    "libraries": """
        import bisect, collections, copy, dataclasses, datetime, decimal, enum, fractions, functools, hashlib, heapq
        import itertools, json, math, operator, pickle, queue, random, re, statistics, string, sys, time, typing, zlib
        assert hashlib.sha256(b'').hexdigest().startswith('e3b0')
        assert datetime.datetime(2024, 1, 1).strftime('%A') == 'Monday'
        random.shuffle([*range(10)])
    """,
    "more libraries": "import argparse, csv, ctypes, doctest, email, logging, sqlite3, ssl, unittest",
    "type of a file": "import mimetypes\nassert mimetypes.guess_type('a.txt')[0] == 'text/plain'",
    "time zone": "import datetime, zoneinfo\ndatetime.datetime.now(zoneinfo.ZoneInfo('Europe/Berlin'))",
    "numpy": "import numpy as np\nassert (np.ones((200, 200)) @ np.ones((200, 200))).sum() == 8e6",
    "thread": """
        import threading
        x = []
        thread = threading.Thread(target=x.append, args=(1,))
        thread.start()
        thread.join()
        assert x
    """,
    "pool of threads": """
        from concurrent.futures import ThreadPoolExecutor
        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(abs, range(-9, 0))) == 45
    """,
    "asyncio": "import asyncio\nassert asyncio.run(asyncio.sleep(0.01, 3)) == 3",
    "files": """
        import glob, os, tempfile
        assert os.listdir() == []
        os.mkdir('a')
        with open('a/b', 'w') as f: f.write('text')
        os.rename('a/b', 'c')
        assert open('c').read() == 'text' and glob.glob('*') and os.stat('c').st_size == 4
        with tempfile.TemporaryDirectory() as d, tempfile.NamedTemporaryFile() as f:
            f.write(b'x')
    """,
    "dataclass": """
        from __future__ import annotations
        import dataclasses, pickle, typing
        @dataclasses.dataclass
        class A:
            x: int = 1
        assert pickle.loads(pickle.dumps(A())) == A() and typing.get_type_hints(A) == {'x': int}
    """,
    "prints": "import sys\nprint('x' * 1000)\nprint('y', file=sys.stderr)",
    "no stdout": "import sys\nsys.stdout = sys.stderr = None\nprint(1)",
    "closed stdout": "import os\nos.close(1)\nos.close(2)",
    "replaced builtins": """
        import builtins, os, sys
        os.write = os._exit = None
        builtins.print = builtins.open = builtins.exec = builtins.compile = builtins.__import__ = None
        sys.modules.clear()
    """,
    "daemon thread": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,), daemon=True).start()",
    "thread left behind": "import threading, time\nthreading.Thread(target=time.sleep, args=(99,)).start()",
    "caught exit": "try:\n exit()\nexcept SystemExit:\n pass",
    "no main": "if __name__ == '__main__':\n raise SystemExit(input())",
    "deep but finite": "import sys\nsys.setrecursionlimit(5000)\ndef f(n): return n and f(n - 1)\nf(4000)",
    "Windows lines": "x = 1\r\nif x:\r\n\tx = 2\r\n",
    "a scratch directory in ruins": "import os\nos.mkdir('a')\nos.mkdir('a/b', 0)\nos.symlink('/', 'c')",
}


@pytest.fixture(scope="module")
def sandbox():
    return Sandbox(Limits(seconds=1))


@pytest.fixture(scope="module")
def patient():
    return Sandbox(Limits(seconds=20))


@pytest.fixture(autouse=True)
def _nothing_left(monkeypatch, tmp_path_factory):
    """No process and no file is left of any program; the scratch directories lie below the test's own."""
    directory = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(directory))
    yield
    assert processes(os.getpid()) == []
    assert list(directory.iterdir()) == []


def processes(*parents):
    """Process ids of the sandbox's, of these parents or without one."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if parent in (1, *parents) and b"child.py" in (path / "cmdline").read_bytes():
                found.append(int(path.name))
        except (FileNotFoundError, ProcessLookupError):
            pass
    return found


@pytest.fixture
def outside(tmp_path, monkeypatch):
    """A directory that has to stay as it is."""
    monkeypatch.setenv("TABOM_SECRET", "secret")
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "file").write_text("secret")
    before = state(directory / "file")
    yield directory
    assert state(directory / "file") == before
    assert {entry.name for entry in directory.iterdir()} <= {"file", "socket"}


def state(path):
    stat = path.stat()
    return path.read_text(), stat.st_mode, stat.st_uid, stat.st_nlink, stat.st_mtime, os.listxattr(path)


@pytest.fixture
def port(outside):
    """Where this process listens, in vain."""
    tcp, udp = socket.create_server(("127.0.0.1", 0)), socket.socket(type=socket.SOCK_DGRAM)
    number = tcp.getsockname()[1]
    udp.bind(("127.0.0.1", number))
    unix, abstract, datagram = (
        socket.socket(socket.AF_UNIX, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_STREAM, socket.SOCK_DGRAM)
    )
    unix.bind(str(outside / "socket"))
    abstract.bind(f"\0tabom-{number}")
    datagram.bind(f"\0tabom-datagram-{number}")
    for listener in (tcp, unix, abstract):
        listener.setblocking(False)
        listener.listen()
    yield number
    for listener in (tcp, unix, abstract):
        with listener, pytest.raises(BlockingIOError):
            listener.accept()
    for listener in (udp, datagram):
        with listener, pytest.raises(BlockingIOError):
            listener.recv(1, socket.MSG_DONTWAIT)


def source(program, **values):
    text = textwrap.dedent(program)
    for name, value in values.items():
        text = text.replace(name, str(value))
    return text


@pytest.mark.parametrize("program", HOSTILE.values(), ids=HOSTILE)
def test_hostile_programs_are_contained_and_fail(sandbox, program, outside, port):
    signals = []
    previous = signal.signal(signal.SIGURG, lambda *_: signals.append("SIGURG"))
    outcome = sandbox.run(source(program, OUTSIDE=outside, PORT=port))
    signal.signal(signal.SIGURG, previous)
    assert not outcome.is_passed
    assert outcome.reason
    assert outcome.seconds < sandbox.limits.seconds + 5
    assert signals == []


@pytest.mark.parametrize("program", HARMLESS.values(), ids=HARMLESS)
def test_harmless_programs_pass(patient, program):
    if "numpy" in program:
        pytest.importorskip("numpy")
    assert patient.run(source(program)).reason == ""


def test_strings_have_the_same_hash_every_time(patient):
    command = [sys.executable, "-c", "print(hash('text'))"]
    expected = subprocess.run(command, env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True).stdout
    assert patient.run(f"assert hash('text') == {expected}").is_passed


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("assert 1 == 2, 'why'", "exit code 1: AssertionError: why"),
        ("raise ValueError('x' * 1000)", "exit code 1: ValueError: " + "x" * 188),
        ("import sys\nsys.exit('sorry')", "exit code 1: sorry"),
        ("import sys\nsys.exit(3)", "exit code 3"),
        ("import sys\nsys.exit(0)", "ended before the end of the program"),
        ("import os\nos._exit(0)", "ended before the end of the program"),
        ("import ctypes\nctypes.string_at(1)", "killed by SIGSEGV"),
        ("import os\nos.fork()", "exit code 1: OSError: [Errno 38] Function not implemented"),
        ("x = bytearray(10 ** 10)", "exit code 1: MemoryError"),
        ("open('x', 'wb').write(bytes(2 << 20))", "exit code 1: OSError: [Errno 27] File too large"),
        ("print('x' * 70_000)", "too much output"),
        ("while True: print('x')", "too much output"),
        (MANY_THREADS, "too many threads"),
        (HOSTILE["many files"], "too many files"),
        (HOSTILE["many large files"], "too many files"),
        (HOSTILE["deep directories"], "a directory that cannot be read"),
    ],
    ids=range(16),
)
def test_reasons(patient, program, reason):
    assert patient.run(source(program)).reason == reason


@pytest.mark.parametrize(
    ("limits", "program", "reason"),
    [
        (Limits(seconds=0.5), "while True: pass", "timed out"),
        (Limits(cpu_seconds=1), "while True: pass", "timed out"),
        (
            Limits(cpu_seconds=1),
            "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
            "killed by SIGKILL",
        ),
    ],
    ids=["clock", "processor", "processor, ignored"],
)
def test_the_time_is_limited(limits, program, reason):
    outcome = Sandbox(limits).run(program)
    assert outcome.reason == reason
    assert 0.5 <= outcome.seconds < 30


def test_output_up_to_the_limit(patient):
    text = "import os\nfor pipe in (1, 2): os.write(pipe, b'x' * (32 << 10))\n"
    assert patient.run(text).is_passed
    assert patient.run(text + "os.write(1, b'x')").reason == "too much output"


def test_limits_of_its_own():
    use = "x = bytearray(100 << 20)\nopen('x', 'wb').write(bytes(2 << 20))\nprint('x' * 100_000)"
    assert Sandbox(Limits(file_mib=3, output_kib=200)).run(use).reason == ""
    assert Sandbox(Limits(memory_mib=90, file_mib=3, output_kib=200)).run(use).reason == "exit code 1: MemoryError"


def test_a_directory_however_deep_is_removed(patient):
    outcome = patient.run("import os\nfor _ in range(900):\n os.mkdir('x' * 9)\n os.chdir('x' * 9)\nopen('y', 'w')")
    assert outcome.reason in ("", "a directory that cannot be read")  # by when it is looked at


def test_a_long_program(patient):
    assert patient.run("x = 1\n" * 50_000).is_passed
    assert not patient.run("x = 1\n" * 50_000 + "assert not x").is_passed


@pytest.mark.parametrize("name", vars(Limits()))
@pytest.mark.parametrize("value", [0, -1, float("inf"), float("nan")])
def test_limits_are_positive(name, value):
    assert failure(lambda: Limits(**{name: value})) == f"{name}: expected a positive number, got {value}"


class TestRunAll:
    def test_outcomes_come_in_order(self, patient):
        numbers = []
        programs = [f"assert False, {number}" for number in range(5)] + ["x = 1"]
        outcomes = patient.run_all(programs, numbers.append)
        assert [o.reason for o in outcomes] == [f"exit code 1: AssertionError: {n}" for n in range(5)] + [""]
        assert numbers == [1, 2, 3, 4, 5, 6]

    def test_none(self, patient):
        assert patient.run_all([]) == []

    def test_several_at_a_time(self):
        start = time.monotonic()
        outcomes = Sandbox(num_workers=8).run_all(["import time\ntime.sleep(0.5)"] * 8)
        seconds = time.monotonic() - start
        assert all(outcome.is_passed for outcome in outcomes)
        assert sum(outcome.seconds for outcome in outcomes) > 2 * seconds

    def test_an_error_ends_it(self, monkeypatch):
        sandbox = Sandbox(num_workers=1)
        asked = []

        def run(program, stop):
            asked.append(program)
            if len(asked) == 2:
                assert stop.wait(timeout=10)
            raise TabomError("no")

        monkeypatch.setattr(sandbox, "_run", run)
        assert failure(lambda: sandbox.run_all(["x"] * 1000)) == "no"
        assert len(asked) < 1000  # the second waits for the end of the others

    def test_no_workers(self):
        assert failure(lambda: Sandbox(num_workers=0)) == "num_workers: expected at least 1, got 0"


class TestParent:
    """The end of the process that asks is the end of the program."""

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT], ids=["killed", "interrupted"])
    def test_its_end(self, number, tmp_path):
        ask = """
            import signal
            signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell in the background leaves it ignored
            from tabom.sandbox import Limits, Sandbox
            Sandbox(Limits(seconds=60), num_workers=2).run_all(["while True: pass"] * 4)
        """
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(ask)],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": str(tmp_path)},
        )
        with process:
            assert eventually(lambda: len(processes(process.pid)) == 2)
            children = processes(process.pid)
            process.send_signal(number)
            assert eventually(lambda: not set(children) & set(processes(process.pid)), seconds=10)
        assert number == signal.SIGKILL or list(tmp_path.iterdir()) == []

    def test_its_files_stay_closed(self, patient, tmp_path):
        with (tmp_path / "x").open("w") as file:
            os.set_inheritable(file.fileno(), True)
            assert patient.run(f"import os\nos.write({file.fileno()}, b'x')").reason.endswith("Bad file descriptor")


def eventually(holds, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end and not holds():
        time.sleep(0.05)
    return holds()


class TestMachine:
    """Nothing runs where nothing can be confined."""

    def test_another_system(self, monkeypatch):
        monkeypatch.setattr(sys, "platform", "darwin")
        assert failure(check_sandbox) == "sandbox: generated code runs on Linux only, this is darwin"

    @pytest.mark.parametrize("version", [0, -1])
    def test_no_landlock(self, monkeypatch, version):
        monkeypatch.setattr(sandbox_module, "landlock_version", lambda: version)
        assert failure(Sandbox) == ("sandbox: expected a kernel with Landlock (Linux 5.13, and switched on), got none")

    @pytest.fixture
    def forgotten(self, monkeypatch):
        sandbox_module._filter_instructions.cache_clear()
        monkeypatch.delitem(sys.modules, "pyseccomp", raising=False)

    def test_no_pyseccomp(self, monkeypatch, forgotten):
        monkeypatch.setitem(sys.modules, "pyseccomp", None)
        assert failure(Sandbox) == "sandbox: generated code needs pyseccomp; pip install 'tabom[eval]'"

    def test_no_libseccomp(self, monkeypatch, forgotten):
        monkeypatch.setattr(ctypes.util, "find_library", lambda name: None if name == "seccomp" else "libc.so.6")
        assert failure(Sandbox) == ("sandbox: expected the library libseccomp, found none (apt install libseccomp2)")

    @pytest.mark.parametrize("version", [1, 2, 3, 4, 5, 6])
    def test_an_older_landlock(self, monkeypatch, patient, tmp_path, version):
        """Its rights and attributes are left out; what it does not know, the filter of system calls refuses."""
        text = Path(child.__file__).read_text()
        assert text.count("version = landlock_version()") == text.count("_READABLE = (") == 1
        text = text.replace("= landlock_version()", f"= {version}")
        (tmp_path / "child.py").write_text(text.replace("_READABLE = (", f"_READABLE = ({str(tmp_path)!r}, "))
        monkeypatch.setattr(sandbox_module, "__file__", str(tmp_path / "sandbox.py"))
        (tmp_path / "file").write_text("text")
        before = state(tmp_path / "file")
        look = "import os\nassert open('FILE').read() == 'text'\n"
        for change in (
            "open('FILE', 'a')",
            "os.truncate('FILE', 0)",
            "os.open('FILE', os.O_TRUNC)",
            "os.unlink('FILE')",
        ):
            outcome = patient.run(source(look + change, FILE=tmp_path / "file"))
            assert outcome.reason.startswith(("exit code 1: OSError", "exit code 1: PermissionError"))
        assert state(tmp_path / "file") == before
        assert patient.run("open('x', 'w').write('x')\nimport os\nos.rename('x', 'y')\nopen('y')").is_passed
        assert not patient.run("import socket\nsocket.socket()").is_passed

    def test_a_process_that_cannot_be_confined(self, monkeypatch, patient):
        monkeypatch.setattr(sandbox_module, "_filter_instructions", lambda: bytes(8))
        assert failure(lambda: patient.run("")) == (
            "sandbox: expected a confined process, got exit code 1: OSError: [Errno 22] Invalid argument"
        )


def failure(call):
    with pytest.raises(TabomError) as error:
        call()
    return str(error.value)
