"""The process in which one generated program runs: it confines itself, runs the program, and says that the end came.

Run as a file by :class:`~tabom.sandbox.Sandbox`, so that it starts without torch. Every program waits for the
imports, so they are few; ``typing`` alone would double its start.
"""

import ctypes
import marshal
import os
import struct
import sys
import types

Request = tuple[str, bytes, int, int, dict[str, tuple[int, int]], bytes]
"""Program, token, descriptor of the result pipe, id of the parent, limits by name, instructions for seccomp."""

RESULT_READY = b"\n"
"""Written to the result pipe before the program starts; the token follows when it has come to its end."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long

_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = (ctypes.c_long(number) for number in (444, 445, 446))
_GET_VERSION = 1
_PATH_BENEATH = 1
_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR, _TRUNCATE = (1 << bit for bit in (0, 1, 2, 3, 14))
_NUM_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15}  # by version; the kernel refuses rights that it does not know
_MAX_FILE_RIGHTS = 16
_BIND_AND_CONNECT_TCP, _ABSTRACT_SOCKETS_AND_SIGNALS = 0b11, 0b11
_TCP_VERSION, _SCOPE_VERSION = 4, 6

_READABLE = ("/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/usr/share/zoneinfo")
_READABLE_FILES = ("/etc/ld.so.cache", "/etc/mime.types", "/dev/urandom")

_SET_DEATH_SIGNAL, _SET_FILTER, _SET_NO_NEW_PRIVILEGES = 1, 22, 38
_FILTER_MODE = 2
_SIGKILL = 9
_CAPABILITY_VERSION = 0x20080522
_KEPT_CAPABILITIES = 0b110  # reading files of others: the interpreter's may be; Landlock says which


def landlock_version() -> int:
    """Version of Landlock that the kernel has; below 1 if it has none."""
    return _LIBC.syscall(_CREATE_RULESET, None, ctypes.c_size_t(0), ctypes.c_uint32(_GET_VERSION))


def run_request() -> None:
    """Read the request, confine the process and run the program; ends the process when it came to its end."""
    request: Request = marshal.loads(sys.stdin.buffer.read())
    program, token, result, parent, limits, instructions = request
    os.dup2(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC), 0)
    _limit_resources(limits)
    _drop_capabilities()
    _prctl(_SET_DEATH_SIGNAL, _SIGKILL)
    if os.getppid() != parent:  # it died before the line above
        os._exit(1)
    _prctl(_SET_NO_NEW_PRIVILEGES, 1)
    _restrict_files()
    _filter_system_calls(instructions)
    os.write(result, RESULT_READY)
    _run_program(program, result, token)


def _run_program(program: str, result: int, token: bytes) -> None:
    write, end_process = os.write, os._exit  # the program may replace them
    module = types.ModuleType("program")
    sys.modules["__main__"] = sys.modules["program"] = module
    sys.argv = ["program"]
    exec(compile(program, "program", "exec", dont_inherit=True), module.__dict__)
    write(result, token)
    end_process(0)  # without waiting for threads or handlers at exit


def _limit_resources(limits: dict[str, tuple[int, int]]) -> None:
    import resource

    for name, wanted in limits.items():
        number = getattr(resource, name)
        hard = resource.getrlimit(number)[1]
        soft_and_hard = wanted if hard == resource.RLIM_INFINITY else (min(wanted[0], hard), min(wanted[1], hard))
        resource.setrlimit(number, soft_and_hard)


def _drop_capabilities() -> None:
    header = struct.pack("=Ii", _CAPABILITY_VERSION, 0)
    words = (ctypes.c_uint32 * 6)()  # effective, permitted and inheritable of capabilities 0 to 31, then of the others
    _check(_LIBC.capget(header, words))
    for index in range(6):
        words[index] &= _KEPT_CAPABILITIES if index < 3 else 0
    _check(_LIBC.capset(header, words))


def _restrict_files() -> None:
    """Landlock: the interpreter and its libraries can be read, the working directory written; nothing else opened."""
    version = landlock_version()
    everything = (1 << _NUM_FILE_RIGHTS.get(version, _MAX_FILE_RIGHTS)) - 1
    tcp = _BIND_AND_CONNECT_TCP if version >= _TCP_VERSION else 0
    scopes = _ABSTRACT_SOCKETS_AND_SIGNALS if version >= _SCOPE_VERSION else 0
    attributes = struct.pack("=QQQ", everything, tcp, scopes)
    ruleset = _check(_LIBC.syscall(_CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), ctypes.c_uint32(0)))
    prefixes = {sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix}
    libraries = [f"{prefix}/{name}" for prefix in prefixes for name in ("lib", "lib64")]
    for path in (*_READABLE, *libraries):
        _allow(ruleset, path, _READ_FILE | _READ_DIR)
    for path in _READABLE_FILES:
        _allow(ruleset, path, _READ_FILE)
    _allow(ruleset, os.devnull, (_READ_FILE | _WRITE_FILE | _TRUNCATE) & everything)
    _allow(ruleset, ".", everything & ~_EXECUTE)
    _check(_LIBC.syscall(_RESTRICT_SELF, ctypes.c_int(ruleset), ctypes.c_uint32(0)))
    os.close(ruleset)


def _allow(ruleset: int, path: str, rights: int) -> None:
    try:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    rule = struct.pack("=Qi", rights, place)
    _check(_LIBC.syscall(_ADD_RULE, ctypes.c_int(ruleset), ctypes.c_int(_PATH_BENEATH), rule, ctypes.c_uint32(0)))
    os.close(place)


def _filter_system_calls(instructions: bytes) -> None:
    buffer = ctypes.create_string_buffer(instructions, len(instructions))
    program = struct.pack("@HP", len(instructions) // 8, ctypes.addressof(buffer))
    _prctl(_SET_FILTER, _FILTER_MODE, program)


def _prctl(option: int, value: int, argument: bytes | None = None) -> None:
    zero = ctypes.c_ulong(0)
    _check(_LIBC.prctl(option, ctypes.c_ulong(value), argument, zero, zero))


def _check(status: int) -> int:
    if status < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return status


if __name__ == "__main__":
    run_request()
