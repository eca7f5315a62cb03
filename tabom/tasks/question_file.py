"""Questions with answers, from a file."""

import functools
import hashlib
import re
import threading
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Literal

from tabom.errors import TabomError, require
from tabom.seeding import share_of
from tabom.tasks.base import Split, Task, read_rows, take
from tabom.types import Example

Verifier = Literal["exact", "number", "math"]

_UNSIGNED = r"(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d+)?|\.\d+"
_NUMBER = re.compile(rf"(?P<minus>(?<![\w)])[-\u2212]\$?)?(?P<top>{_UNSIGNED})(?:/(?P<bottom>{_UNSIGNED}))?", re.ASCII)
_MATH_SECONDS = 5


class QuestionFile(Task):
    """Rows of JSON Lines or CSV files; a prompt that occurs again in its file is dropped.

    ``pretrain`` and ``train`` share the rows of ``train_file`` that are not held out, ``validation`` has those that
    are, ``test`` the rows of ``test_file``. Files are read at first use.

    Args:
        train_file: ``*.csv`` with a header, or else one JSON object a line.
        test_file: Likewise, for the test split.
        prompt_column: Key of the prompt.
        answer_column: Key of the reference answer.
        verifier: When a response is correct. ``exact``: it is the reference, up to blanks around it. ``number``: its
            last number has the same value as the reference's last one, exactly. ``math``: math-verify finds the two
            equal (``pip install 'tabom[math]'``).
        held_out: Share of the rows of ``train_file`` in ``validation``, by a hash of the prompt, in [0, 1).

    Raises:
        TabomError: If the share is out of range.
    """

    def __init__(
        self,
        train_file: str,
        test_file: str | None = None,
        prompt_column: str = "question",
        answer_column: str = "answer",
        verifier: Verifier = "exact",
        held_out: float = 0.05,
    ) -> None:
        require(0 <= held_out < 1, f"held_out: expected a share from 0 to below 1, got {held_out}")
        self.train_file = Path(train_file)
        self.test_file = Path(test_file) if test_file is not None else None
        self.prompt_column = prompt_column
        self.answer_column = answer_column
        self.verifier: Verifier = verifier
        self.held_out = held_out

    def examples(self, split: Split, num_examples: int) -> list[Example]:
        """Rows in the order of the file."""
        if split == "test":
            if self.test_file is None:
                raise TabomError("test_file: expected a file with the rows of split test, got none")
            return take(self._test_examples, num_examples, self.test_file)
        is_wanted = split == "validation"
        chosen = [e for e in self._train_examples if (share_of(e.prompt) < self.held_out) == is_wanted]
        return take(chosen, num_examples, self.train_file)

    def is_correct(self, example: Example, response: str) -> bool:
        """Compare with the reference by ``verifier``.

        Raises:
            TabomError: If ``verifier`` is ``math`` and math-verify is not installed.
        """
        match self.verifier:
            case "exact":
                return response.strip() == example.reference.strip()
            case "number":
                value = last_number(response)
                return value is not None and value == last_number(example.reference)
            case "math":
                return _is_equal_mathematically(example.reference, response)

    @functools.cached_property
    def _train_examples(self) -> list[Example]:
        return self._read(self.train_file)

    @functools.cached_property
    def _test_examples(self) -> list[Example]:
        return [] if self.test_file is None else self._read(self.test_file)

    def _read(self, path: Path) -> list[Example]:
        examples: dict[str, Example] = {}
        for _, row in read_rows(path, (self.prompt_column, self.answer_column)):
            prompt = row[self.prompt_column]
            query_id = f"{path.stem}/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"
            examples.setdefault(prompt, Example(query_id, prompt, row[self.answer_column]))
        return list(examples.values())


def last_number(text: str) -> Fraction | None:
    """Exact value of the last number in ``text``: sign, groups of thousands, decimals, ``a/b``; None if there is none.

    Example:
        >>> last_number("#### 1,234"), last_number("That makes $1234.00."), last_number("x = -3/4")
        (Fraction(1234, 1), Fraction(1234, 1), Fraction(-3, 4))
    """
    numbers = list(_NUMBER.finditer(text))
    if not numbers:
        return None
    minus, top, bottom = numbers[-1].group("minus", "top", "bottom")
    divisor = _exact(bottom or "1")
    if divisor == 0:
        return None
    return (-1 if minus else 1) * _exact(top) / divisor


def _exact(number: str) -> Fraction:
    return Fraction(Decimal(number.replace(",", "")))


def _is_equal_mathematically(reference: str, response: str) -> bool:
    try:
        import math_verify
    except ImportError as error:
        raise TabomError("verifier: math needs math-verify; pip install 'tabom[math]'") from error
    # its time limit (0: none) is an alarm signal, which only the main thread may set
    seconds = _MATH_SECONDS if threading.current_thread() is threading.main_thread() else 0
    expected, found = (math_verify.parse(text, parsing_timeout=seconds) for text in (reference, response))
    return math_verify.verify(expected, found, timeout_seconds=seconds)
