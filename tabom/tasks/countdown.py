"""Countdown: reach a target with three numbers."""

import ast
import itertools
import operator
import random
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

from tabom.errors import TabomError, require
from tabom.tasks.base import Puzzles
from tabom.tasks.rows import read_rows
from tabom.types import Example

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_SYMBOLS = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}
_MAX_RESPONSE_LENGTH = 64


class Countdown(Puzzles):
    """Write an arithmetic expression that uses each given number once and equals the target.

    The prompt is ``countdown 30,100,93>23=``; an answer is an expression of numbers, + - * / and parentheses.

    Args:
        num_numbers: How many numbers a generated puzzle gives.
        max_number: Largest of them.
        test_file: JSON Lines with ``input`` (numbers split by commas) and ``output`` (target), used as the test split
            instead of generated puzzles; the reference answer is searched for.
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
        try:
            used, value = _evaluate(response)
        except (SyntaxError, ValueError, ZeroDivisionError, RecursionError):
            return False
        return sorted(used) == sorted(numbers) and value == target

    def _draw(self, rng: random.Random) -> Example:
        while True:
            numbers = [rng.randint(1, self.max_number) for _ in range(self.num_numbers)]
            expression = f"{numbers[0]}{rng.choice('+-*/')}{numbers[1]}"
            for number in numbers[2:]:
                expression = f"({expression}){rng.choice('+-*/')}{number}"
            _, value = _evaluate(expression)
            if value.denominator == 1 and 0 < value <= self.max_number:
                shuffled = rng.sample(numbers, len(numbers))
                return _example(shuffled, int(value), expression)

    def _read(self, path: Path) -> list[Example]:
        examples = []
        for where, row in read_rows(path, ("input", "output")):
            try:
                numbers, target = [int(number) for number in row["input"].split(",")], int(row["output"])
            except ValueError as error:
                raise TabomError(
                    f"{where}: expected input to be integers split by commas and output an integer, "
                    f"got {row['input']!r} and {row['output']!r}"
                ) from error
            expression = _solve([(Fraction(number), str(number)) for number in numbers], target)
            if expression is None:
                raise TabomError(f"{where}: expected a puzzle with a solution, found none for {numbers} and {target}")
            examples.append(_example(numbers, target, expression))
        return examples


def _example(numbers: list[int], target: int, expression: str) -> Example:
    listing = ",".join(map(str, numbers))
    return Example(f"countdown/{listing}>{target}", f"countdown {listing}>{target}=", expression)


def _parse_prompt(prompt: str) -> tuple[list[int], int]:
    numbers, target = prompt.removeprefix("countdown ").removesuffix("=").split(">")
    return [int(number) for number in numbers.split(",")], int(target)


def _evaluate(expression: str) -> tuple[list[int], Fraction]:
    """Numbers used and exact value; only literals and the four operations are read, nothing is executed."""
    if len(expression) > _MAX_RESPONSE_LENGTH:
        raise ValueError(f"expected at most {_MAX_RESPONSE_LENGTH} characters")
    used: list[int] = []

    def value_of(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() as number) if not isinstance(number, bool):
                used.append(number)
                return Fraction(number)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value_of(left), value_of(right))
            case _:
                raise ValueError(f"unexpected {ast.dump(node)}")

    value = value_of(ast.parse(expression.strip(), mode="eval").body)
    return used, value


def _solve(terms: list[tuple[Fraction, str]], target: int) -> str | None:
    """Search all expressions; three numbers have a few hundred."""
    if len(terms) == 1:
        value, expression = terms[0]
        return expression if value == target else None
    for (i, (a, left)), (j, (b, right)) in itertools.permutations(enumerate(terms), 2):
        rest = [term for k, term in enumerate(terms) if k not in (i, j)]
        for symbol, apply in _SYMBOLS.items():
            if symbol == "/" and b == 0:
                continue
            joined = f"({left}{symbol}{right})" if rest else f"{left}{symbol}{right}"
            found = _solve([*rest, (apply(a, b), joined)], target)
            if found is not None:
                return found
    return None
