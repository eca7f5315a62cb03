"""Countdown: reach a target with three numbers."""

import random
import re
from pathlib import Path

from tabom.errors import TabomError, require
from tabom.tasks.arithmetic import evaluate, join_equations, solve
from tabom.tasks.base import Puzzles
from tabom.tasks.rows import read_rows
from tabom.types import Example

_MAX_RESPONSE_LENGTH = 64
_MAX_SEARCHED = 6
_NUMBERS = re.compile(r"\d{1,18}( *, *\d{1,18})+", re.ASCII)
_TARGET = re.compile(r"-?\d{1,18}", re.ASCII)


class Countdown(Puzzles):
    """Write an arithmetic expression that uses each given number once and equals the target.

    The prompt is ``countdown 30,100,93>23=``; an answer is an expression of numbers, + - * / and parentheses.

    Args:
        num_numbers: How many numbers a generated puzzle gives.
        max_number: Largest of them.
        test_file: Used as the test split instead of generated puzzles; a file that :func:`~tabom.tasks.read_rows`
            reads, with columns input and output in one of two layouts. d1's: numbers split by commas, and the target;
            the reference answer is searched for, among 6 numbers at most. Dream's: numbers and, last, the target; and
            equations split by commas, ``86+28=114,31-13=18,114-18=96``, which become the reference answer.
        seed: Of the generator.

    Raises:
        TabomError: If a number is below 2.
    """

    def __init__(
        self, num_numbers: int = 3, max_number: int = 100, test_file: str | None = None, seed: int = 0
    ) -> None:
        require(num_numbers >= 2, f"num_numbers: expected at least 2, got {num_numbers}")
        require(max_number >= 2, f"max_number: expected at least 2, got {max_number}")
        self.num_numbers = num_numbers
        self.max_number = max_number
        super().__init__(test_file, seed)

    def is_correct(self, example: Example, response: str) -> bool:
        """Accept any expression that uses each number exactly once and equals the target."""
        numbers, target = _parse_prompt(example.prompt)
        if len(response) > max(_MAX_RESPONSE_LENGTH, 2 * len(example.prompt)):
            return False
        try:
            used, value = evaluate(response.strip())
        except (ValueError, ZeroDivisionError, RecursionError):
            return False
        return sorted(used) == sorted(numbers) and value == target

    def _draw(self, rng: random.Random) -> Example:
        while True:
            numbers = [rng.randint(1, self.max_number) for _ in range(self.num_numbers)]
            expression = f"{numbers[0]}{rng.choice('+-*/')}{numbers[1]}"
            for number in numbers[2:]:
                expression = f"({expression}){rng.choice('+-*/')}{number}"
            _, value = evaluate(expression)
            if value.denominator == 1 and 0 < value <= self.max_number:
                shuffled = rng.sample(numbers, len(numbers))
                return _example(shuffled, int(value), expression)

    def _read(self, path: Path) -> list[Example]:
        return [self._row(where, row["input"], row["output"]) for where, row in read_rows(path, ("input", "output"))]

    def _row(self, where: str, given: str, output: str) -> Example:
        require(
            _NUMBERS.fullmatch(given.strip()) is not None,
            f"{where}: column input: expected whole numbers split by commas, got {given!r:.80}",
        )
        numbers = [int(number) for number in given.split(",")]
        equations = join_equations(output)
        if equations is not None:
            *numbers, target = numbers
            example = _example(numbers, target, equations)
            is_solution = self.is_correct(example, equations)
            require(
                is_solution,
                f"{where}: column output: expected equations from {numbers} to {target}, got {output!r:.80}",
            )
            return example
        require(
            _TARGET.fullmatch(output.strip()) is not None,
            f"{where}: column output: expected a whole number, or equations split by commas, got {output!r:.80}",
        )
        target = int(output)
        is_short = len(numbers) <= _MAX_SEARCHED
        require(is_short, f"{where}: column input: expected at most {_MAX_SEARCHED} numbers, got {len(numbers)}")
        expression = solve(numbers, target)
        if expression is None:
            raise TabomError(f"{where}: expected a puzzle with a solution, found none for {numbers} and {target}")
        return _example(numbers, target, expression)


def _example(numbers: list[int], target: int, expression: str) -> Example:
    listing = ",".join(map(str, numbers))
    return Example(f"countdown/{listing}>{target}", f"countdown {listing}>{target}=", expression)


def _parse_prompt(prompt: str) -> tuple[list[int], int]:
    numbers, target = prompt.removeprefix("countdown ").removesuffix("=").split(">")
    return [int(number) for number in numbers.split(",")], int(target)
