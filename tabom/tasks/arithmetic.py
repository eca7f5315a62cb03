"""Expressions of whole numbers, + - * / and parentheses: their exact value, and the search for one."""

import ast
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction

_OPERATORS: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
_EXPRESSION = re.compile(r"(?!.*\b0\d)[-+*/()\d \t]+", re.ASCII)
_EQUATION = re.compile(r"(\d{1,18})([-+*/])(\d{1,18})=(\d{1,18})", re.ASCII)
_NUM_TABULATED = 3

Value = int | Fraction


def evaluate(expression: str) -> tuple[list[int], Fraction]:
    """Numbers used and exact value; nothing is executed.

    Raises:
        ValueError: If the text is no such expression. Python's other spellings of numbers and operators are none.
        ZeroDivisionError: If it divides by 0.
        RecursionError: If it is nested too deeply.
    """
    if not _EXPRESSION.fullmatch(expression):
        raise ValueError("expected digits, + - * / and parentheses")
    used: list[int] = []

    def value_of(node: ast.expr) -> Fraction:
        match node:
            case ast.Constant(value=int() as number):
                used.append(number)
                return Fraction(number)
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return _OPERATORS[type(op)](value_of(left), value_of(right))
            case _:
                raise ValueError(f"unexpected {ast.dump(node)}")

    try:
        tree = ast.parse(expression.strip(), mode="eval")
    except (SyntaxError, MemoryError) as error:  # the latter: too many parentheses
        raise ValueError("expected an expression") from error
    value = value_of(tree.body)
    return used, value


def join_equations(equations: str) -> str | None:
    """The last of some equations as one expression, earlier results put in; None unless all are equations, and hold.

    Example:
        >>> join_equations("86+28=114,31-13=18,114-18=96")
        '(86+28)-(31-13)'
    """
    made: dict[str, list[str]] = {}
    expression = ""
    for equation in equations.replace(" ", "").split(","):
        match = _EQUATION.fullmatch(equation)
        if match is None:
            return None
        left, symbol, right, value = match.groups()
        a, b, c = int(left), int(right), int(value)
        if not {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": b != 0 and a == b * c}[symbol]:
            return None
        terms = [made[number].pop() if made.get(number) else number for number in (left, right)]
        expression = f"({symbol.join(terms)})"
        made.setdefault(value, []).append(expression)
    return expression[1:-1]


def solve(numbers: Sequence[int], target: int) -> str | None:
    """An expression that uses each number once and equals the target; None if there is none.

    The root of an expression splits the numbers in two. Each value of the smaller part says what the other part would
    have to be, and of three numbers or fewer all values are in a table: five numbers take
    5,490 operations at most.
    """
    everything = (1 << len(numbers)) - 1
    expression = _Search(numbers).find(everything, target)
    return expression[1:-1] if expression and len(numbers) > 1 else expression


class _Search:
    """Subsets of the numbers are bit masks; expressions of more than one number stand in parentheses."""

    def __init__(self, numbers: Sequence[int]) -> None:
        self._numbers = numbers
        self._tables: dict[int, dict[Value, str]] = {
            1 << place: {number: str(number)} for place, number in enumerate(numbers)
        }

    def find(self, subset: int, target: Value) -> str | None:
        """An expression with this value."""
        if subset.bit_count() <= _NUM_TABULATED:
            return self._table(subset).get(target)
        for part, rest in _splits(subset):
            for value, expression in self._table(part).items():
                if value == 0 == target:
                    factors = [str(number) for place, number in enumerate(self._numbers) if rest >> place & 1]
                    return f"({'*'.join([expression, *factors])})"
                for needed, form in _needed(value, target):
                    other = self.find(rest, needed)
                    if other is not None:
                        return form.format(expression, other)
        return None

    def _table(self, subset: int) -> dict[Value, str]:
        """All values of a subset, each with an expression."""
        if subset not in self._tables:
            table: dict[Value, str] = {}
            for part, rest in _splits(subset):
                for a, left in self._table(part).items():
                    for b, right in self._table(rest).items():
                        for value, form in _joined(a, b):
                            table.setdefault(value, form.format(left, right))
            self._tables[subset] = table
        return self._tables[subset]


def _splits(subset: int) -> Iterator[tuple[int, int]]:
    """Every way to split a subset in two, the smaller part first."""
    part = (subset - 1) & subset
    while part:
        rest = subset ^ part
        if (part.bit_count(), part) < (rest.bit_count(), rest):
            yield part, rest
        part = (part - 1) & subset


def _joined(a: Value, b: Value) -> Iterator[tuple[Value, str]]:
    yield a + b, "({0}+{1})"
    yield a * b, "({0}*{1})"
    yield a - b, "({0}-{1})"
    yield b - a, "({1}-{0})"
    if b:
        yield _divided(a, b), "({0}/{1})"
    if a:
        yield _divided(b, a), "({1}/{0})"


def _needed(value: Value, target: Value) -> Iterator[tuple[Value, str]]:
    """What gives the target when it is joined with a value."""
    yield target - value, "({0}+{1})"
    yield value - target, "({0}-{1})"
    yield target + value, "({1}-{0})"
    if value:
        yield _divided(target, value), "({0}*{1})"
        yield target * value, "({1}/{0})"
        if target:
            yield _divided(value, target), "({0}/{1})"


def _divided(a: Value, b: Value) -> Value:
    """Whole numbers stay such, which is many times as fast."""
    return a // b if a % b == 0 else Fraction(a) / b
