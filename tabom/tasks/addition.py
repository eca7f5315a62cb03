"""Sums of whole numbers."""

import random
import re
from pathlib import Path
from typing import Literal

from tabom.errors import check_range, require
from tabom.tasks.base import Puzzles
from tabom.tasks.rows import read_rows
from tabom.types import Example

_SUM = re.compile(r"(\d{1,9})\+(\d{1,9})", re.ASCII)
_RESULT = re.compile(r"\d{1,10}", re.ASCII)


class Addition(Puzzles):
    """Add pairs of numbers.

    The prompt is ``add 00234 09012+05678 03456=``: the first summands of all sums, then the second ones. An answer has
    the results in the same order, ``05912 12468``. Zeros in front make all numbers equally wide, one digit more than a
    summand has, so that a digit of a result is always equally far from those that it depends on. A carry goes from
    right to left, so a result is easiest to find in this direction.

    Args:
        num_sums: Sums of a prompt.
        num_digits: Most digits of a summand, 1 to 9.
        answer_layout: How reference answers are written: ``flat`` (with zeros in front, split by blanks) or ``commas``
            (without them, split by commas), as offline data come in a layout that is not the model's own.
        test_file: Used as the test split instead of generated sums; a file that :func:`~tabom.tasks.read_rows` reads,
            with columns input (sums split by blanks) and output (their results).
        seed: Of the generator.

    Raises:
        TabomError: If a number is out of range.
    """

    def __init__(
        self,
        num_sums: int = 4,
        num_digits: int = 4,
        answer_layout: Literal["flat", "commas"] = "flat",
        test_file: str | None = None,
        seed: int = 0,
    ) -> None:
        check_range("num_sums", num_sums, least=1)
        check_range("num_digits", num_digits, least=1, most=9)
        self.num_sums = num_sums
        self.num_digits = num_digits
        self.answer_layout: Literal["flat", "commas"] = answer_layout
        super().__init__(test_file, seed)

    def is_correct(self, example: Example, response: str) -> bool:
        """Accept the right results in their order, split by blanks or commas, with any zeros in front."""
        found = response.replace(",", " ").split()
        if not all(_RESULT.fullmatch(word) for word in found):
            return False
        first, second = (part.split() for part in example.prompt.removeprefix("add ").removesuffix("=").split("+"))
        return [int(word) for word in found] == [int(a) + int(b) for a, b in zip(first, second, strict=True)]

    def _draw(self, rng: random.Random) -> Example:
        numbers = [rng.randrange(10**self.num_digits) for _ in range(2 * self.num_sums)]
        return self._example(list(zip(numbers[::2], numbers[1::2], strict=True)))

    def _read(self, path: Path) -> list[Example]:
        examples = []
        for where, row in read_rows(path, ("input", "output")):
            sums = [_SUM.fullmatch(word) for word in row["input"].split()]
            numbers = [(int(found[1]), int(found[2])) for found in sums if found]
            require(
                len(numbers) == len(sums) and max(map(max, numbers)) < 10**self.num_digits,
                f"{where}: column input: expected sums such as 12+34 split by blanks, of numbers with at most "
                f"{self.num_digits} digits (num_digits), got {row['input']!r:.80}",
            )
            example = self._example(numbers)
            require(
                self.is_correct(example, row["output"]),
                f"{where}: column output: expected {example.reference}, got {row['output']!r:.80}",
            )
            examples.append(example)
        return examples

    def _example(self, sums: list[tuple[int, int]]) -> Example:
        width = self.num_digits + 1
        first, second = (
            " ".join(str(number).zfill(width) for number in numbers) for numbers in zip(*sums, strict=True)
        )
        results = [str(a + b) for a, b in sums]
        if self.answer_layout == "flat":
            reference = " ".join(result.zfill(width) for result in results)
        else:
            reference = ",".join(results)
        return Example(query_id=f"addition/{first}+{second}", prompt=f"add {first}+{second}=", reference=reference)
