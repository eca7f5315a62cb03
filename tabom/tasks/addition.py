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

    The prompt is ``add 0234+5678 9012+3456=``, an answer the results in their order, ``05912 12468``. Zeros in front
    give every digit its place: the results have one digit more than the summands. A carry goes from right to left, so a
    result is easiest to find in this direction.

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
        return [int(word) for word in found] == _results(example.prompt.removeprefix("add ").removesuffix("="))

    def _draw(self, rng: random.Random) -> Example:
        numbers = [rng.randrange(10**self.num_digits) for _ in range(2 * self.num_sums)]
        return self._example(" ".join(f"{a}+{b}" for a, b in zip(numbers[::2], numbers[1::2], strict=True)))

    def _read(self, path: Path) -> list[Example]:
        examples = []
        for where, row in read_rows(path, ("input", "output")):
            sums = " ".join(row["input"].split())
            require(
                all(_SUM.fullmatch(word) for word in sums.split()),
                f"{where}: column input: expected sums such as 12+34 split by blanks, got {row['input']!r:.80}",
            )
            example = self._example(sums)
            require(
                self.is_correct(example, row["output"]),
                f"{where}: column output: expected {example.reference}, got {row['output']!r:.80}",
            )
            examples.append(example)
        return examples

    def _example(self, sums: str) -> Example:
        sums = re.sub(r"\d+", lambda number: number[0].zfill(self.num_digits), sums)
        results = [str(result) for result in _results(sums)]
        if self.answer_layout == "flat":
            reference = " ".join(result.zfill(self.num_digits + 1) for result in results)
        else:
            reference = ",".join(results)
        return Example(query_id=f"addition/{sums}", prompt=f"add {sums}=", reference=reference)


def _results(sums: str) -> list[int]:
    return [sum(map(int, word.split("+"))) for word in sums.split()]
