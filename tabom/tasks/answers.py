"""When a response says the same as a reference."""

import atexit
import importlib.util
import json
import re
import select
import subprocess
import sys
import textwrap
import threading
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from tabom.errors import TabomError, require

_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?P<minus>(?<![\w)])[-\u2212]\$?)?(?P<top>{_UNSIGNED})(?:/(?P<bottom>{_UNSIGNED}))?", re.ASCII)
_MAX_NUMBER_LENGTH = 100_000  # characters; the arithmetic is quadratic, and takes a second here
_MATH_SECONDS = 15
_CODE_BLOCK = re.compile(r"^[ \t]*```(?P<language>[^\n`]*)\n(?P<code>.*?)(?:^[ \t]*```|\Z)", re.MULTILINE | re.DOTALL)
_PYTHON = {"", "python", "python3", "py"}


def last_number(text: str) -> Fraction | None:
    """Exact value of the last number in ``text``: sign, groups of thousands, decimals, ``a/b``.

    None if there is no number, its divisor is 0, or it is longer than 100,000 characters.

    Example:
        >>> last_number("#### 1,234"), last_number("That makes $1234.00."), last_number("x = -3/4")
        (Fraction(1234, 1), Fraction(1234, 1), Fraction(-3, 4))
    """
    numbers = list(_NUMBER.finditer(text))
    if not numbers or len(numbers[-1].group()) > _MAX_NUMBER_LENGTH:
        return None
    minus, top, bottom = numbers[-1].group("minus", "top", "bottom")
    divisor = _exact(bottom or "1")
    if divisor == 0:
        return None
    return (-1 if minus else 1) * _exact(top) / divisor


def _exact(number: str) -> Fraction:
    return Fraction(Decimal(number.replace(",", "")))


def code_of(response: str) -> str:
    r"""Python code in ``response``: the first fenced block of it or of no language, or else the whole response.

    A block that is not closed goes on to the end.

    Example:
        >>> code_of("It is:\n```python\nx = 1\n```\nDone.")
        'x = 1\n'
    """
    for block in _CODE_BLOCK.finditer(response):
        if block["language"].strip().lower() in _PYTHON:
            return textwrap.dedent(block["code"])
    return response


class MathComparison:
    """Asks math-verify in a process of its own (``math_worker.py``), started at the first question.

    math-verify limits its time by an alarm, which only a main thread may set and which a long operation on big integers
    does not notice. A process can be ended at any time, takes no memory from this one and may crash.

    Args:
        max_seconds: An answer that takes longer is wrong, and the process is started anew.
    """

    def __init__(self, max_seconds: float = _MATH_SECONDS) -> None:
        self.max_seconds = max_seconds
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def is_equal(self, reference: str, response: str) -> bool:
        """Whether math-verify finds the two equal, in time; may be called by any thread.

        Raises:
            TabomError: If math-verify is not installed or cannot be imported.
        """
        with self._lock:
            if self._process is not None and self._process.poll() is not None:
                self._end()
            self._process = self._process or _start_worker()
            answer = _ask(self._process, json.dumps([reference, response]), self.max_seconds)
            if answer is None:
                self._end()
            return answer == "true"

    def close(self) -> None:
        """End the process."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def _start_worker() -> subprocess.Popen[str]:
    is_installed = importlib.util.find_spec("math_verify") is not None
    require(is_installed, "verifier: math needs math-verify; pip install 'tabom[math]'")
    process = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("math_worker.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,  # Ctrl-C is for this process; the other one ends with its input
    )
    if _read_line(process, None) != "ready":
        process.communicate()
        raise TabomError(f"verifier: expected math-verify to start, its process ended with code {process.returncode}")
    return process


def _ask(process: subprocess.Popen[str], question: str, max_seconds: float) -> str | None:
    """The process's answer; None if it crashed or takes longer."""
    assert process.stdin is not None
    try:
        process.stdin.write(question + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    return _read_line(process, max_seconds)


def _read_line(process: subprocess.Popen[str], max_seconds: float | None) -> str | None:
    assert process.stdout is not None
    is_readable, _, _ = select.select([process.stdout], [], [], max_seconds)
    return (process.stdout.readline().strip() or None) if is_readable else None


MATH_COMPARISON = MathComparison()
"""The one that tasks ask: one process for all of them."""
atexit.register(MATH_COMPARISON.close)
