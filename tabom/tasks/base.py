"""The contract of a task."""

import csv
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

from tabom.errors import TabomError, require
from tabom.seeding import share_of
from tabom.types import Example

Split = Literal["pretrain", "train", "validation", "test"]
"""``pretrain`` is what a base model saw, ``train`` what it is post-trained on; no example is in two splits."""

_SHARE_UP_TO: dict[Split, float] = {"pretrain": 0.3, "train": 0.8, "validation": 0.9, "test": 1.0}
_MAX_FRUITLESS_DRAWS = 3000


class ExampleSource(ABC):
    """Gives examples by split; cheap to make, reads and generates in :meth:`examples`."""

    @abstractmethod
    def examples(self, split: Split, num_examples: int) -> list[Example]:
        """The first ``num_examples`` of a split; the same ones at every call and on every machine.

        Raises:
            TabomError: If there are fewer.
        """


class Task(ExampleSource):
    """Prompts with a verifier."""

    @abstractmethod
    def is_correct(self, example: Example, response: str) -> bool:
        """Whether the whole response, up to its first end-of-sequence token, answers the prompt."""


def split_of(text: str) -> Split:
    """Split of a generated problem, by a hash of its text: the same problem never lands in two."""
    return next(split for split, upper in _SHARE_UP_TO.items() if share_of(text) < upper)


def generate_distinct(draw: Callable[[], Example], split: Split, num_examples: int) -> list[Example]:
    """Collect distinct examples whose prompt belongs to ``split``, until many draws in a row bring nothing new."""
    examples: dict[str, Example] = {}
    num_fruitless = 0
    while len(examples) < num_examples and num_fruitless < _MAX_FRUITLESS_DRAWS:
        example = draw()
        is_new = split_of(example.prompt) == split and example.prompt not in examples
        num_fruitless = 0 if is_new else num_fruitless + 1
        if is_new:
            examples[example.prompt] = example
    require(len(examples) == num_examples, f"expected {num_examples} examples of split {split}, found {len(examples)}")
    return list(examples.values())


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (``file:line``, row) of a CSV or JSON Lines file.

    Raises:
        TabomError: If the file is missing, a row is no JSON object, or a column is absent.
    """
    require(path.is_file(), f"{path}: expected a CSV or JSON Lines file, found no such file")
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.DictReader(file) if path.suffix == ".csv" else map(_parse_json, file)
        first_line = 2 if path.suffix == ".csv" else 1
        for line, row in enumerate(rows, first_line):
            where = f"{path}:{line}"
            values = row if isinstance(row, dict) else {}
            missing = [column for column in columns if values.get(column) is None]
            require(not missing, f"{where}: expected columns {', '.join(columns)}, found no {', '.join(missing)}")
            yield where, {column: str(values[column]) for column in columns}


def _parse_json(line: str) -> object:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return error


def take(examples: list[Example], num_examples: int, path: Path) -> list[Example]:
    """The first ``num_examples``; an error that names the file if it holds fewer."""
    if len(examples) < num_examples:
        raise TabomError(f"{path}: expected at least {num_examples} examples, found {len(examples)}")
    return examples[:num_examples]
