"""4x4 Sudoku."""

import functools
import itertools
import operator
import random
from collections.abc import Set
from pathlib import Path
from typing import Literal

from tabom.errors import require
from tabom.tasks.base import Puzzles
from tabom.tasks.rows import column_names, read_rows
from tabom.types import Example, Grid

_SIZE = 4
_DIGITS = "1234"
_BLANK = "0"


class Sudoku4x4(Puzzles):
    """Complete a 4x4 grid whose rows, columns and 2x2 boxes hold 1 to 4 once each.

    The prompt is ``sudoku `` + 16 digits, row by row, 0 for a blank, + ``=``. Generated puzzles have one solution.

    Args:
        num_blanks: Numbers of blanks to draw from, each 1 to 15.
        answer_layout: How reference answers are written: ``flat`` (16 digits) or ``rows`` (four groups of four, split
            by blanks), as offline data come in a layout that is not the model's own.
        test_file: Used as the test split instead of generated puzzles; a file that :func:`~tabom.tasks.read_rows`
            reads, with columns Puzzle and Solution (d1's) or input and output (Dream's, a line break after each row).
        seed: Of the generator.

    Raises:
        TabomError: If ``num_blanks`` is out of range.
    """

    def __init__(
        self,
        num_blanks: tuple[int, ...] = (8, 9, 10),
        answer_layout: Literal["flat", "rows"] = "flat",
        test_file: str | None = None,
        seed: int = 0,
    ) -> None:
        require(
            len(num_blanks) > 0 and all(1 <= n <= 15 for n in num_blanks),
            f"num_blanks: expected numbers from 1 to 15, got {list(num_blanks)}",
        )
        self.num_blanks = tuple(num_blanks)
        self.answer_layout: Literal["flat", "rows"] = answer_layout
        super().__init__(test_file, seed)

    def is_correct(self, example: Example, response: str) -> bool:
        """Accept any valid completion, in any layout of blanks and line breaks."""
        puzzle = _puzzle(example.prompt)
        grid = "".join(response.split())
        return grid in _completions(puzzle)

    @classmethod
    def drawing(cls, prompt: str) -> Grid | None:
        """The grid, with its clues; None of a prompt that is no puzzle."""
        puzzle = _puzzle(prompt)
        if len(puzzle) != _SIZE * _SIZE:
            return None
        return Grid(num_columns=_SIZE, box=2, clues=["" if digit == _BLANK else digit for digit in puzzle])

    def _draw(self, rng: random.Random) -> Example:
        while True:
            solution = rng.choice(_all_grids())
            blanks = set(rng.sample(range(_SIZE * _SIZE), rng.choice(self.num_blanks)))
            puzzle = "".join(_BLANK if i in blanks else digit for i, digit in enumerate(solution))
            if len(_completions(puzzle)) == 1:
                return self._example(puzzle, solution)

    def _read(self, path: Path) -> list[Example]:
        names = ("input", "output") if "input" in column_names(path) else ("Puzzle", "Solution")
        examples = []
        for where, row in read_rows(path, names):
            puzzle, solution = ("".join(row[name].split()) for name in names)
            require(
                len(puzzle) == _SIZE * _SIZE and set(puzzle) <= set(_BLANK + _DIGITS),
                f"{where}: column {names[0]}: expected {_SIZE * _SIZE} digits from 0 to {_SIZE}, got {puzzle!r:.80}",
            )
            require(
                solution in _completions(puzzle),
                f"{where}: column {names[1]}: expected a valid completion of {puzzle}, got {solution!r:.80}",
            )
            examples.append(self._example(puzzle, solution))
        return examples

    def _example(self, puzzle: str, solution: str) -> Example:
        rows = [solution[i : i + _SIZE] for i in range(0, len(solution), _SIZE)]
        reference = " ".join(rows) if self.answer_layout == "rows" else solution
        return Example(query_id=f"sudoku4x4/{puzzle}", prompt=f"sudoku {puzzle}=", reference=reference)


def _puzzle(prompt: str) -> str:
    return prompt.removeprefix("sudoku ").removesuffix("=")


def _completions(puzzle: str) -> Set[str]:
    """The valid grids that agree with the clues."""
    grids = _grids_by_clue()
    clues = (clue for clue in enumerate(puzzle) if clue[1] != _BLANK)
    return functools.reduce(operator.and_, (grids.get(clue, frozenset()) for clue in clues), frozenset(_all_grids()))


@functools.cache
def _grids_by_clue() -> dict[tuple[int, str], frozenset[str]]:
    """The valid grids with a digit at a place."""
    clues = itertools.product(range(_SIZE * _SIZE), _DIGITS)
    return {(i, digit): frozenset(grid for grid in _all_grids() if grid[i] == digit) for i, digit in clues}


@functools.cache
def _all_grids() -> tuple[str, ...]:
    """The 288 valid grids, in the order of their digits."""
    rows = ["".join(row) for row in itertools.permutations(_DIGITS)]
    halves = [a + b for a, b in itertools.product(rows, repeat=2) if _differ(a[:2] + b[:2]) and _differ(a[2:] + b[2:])]
    grids = (upper + lower for upper, lower in itertools.product(halves, repeat=2))
    return tuple(grid for grid in grids if all(_differ(grid[column::_SIZE]) for column in range(_SIZE)))


def _differ(digits: str) -> bool:
    return len(set(digits)) == _SIZE
