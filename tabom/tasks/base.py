"""The contract of a task."""

import csv
import itertools
import json
import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Literal

from tabom.errors import TabomError, require
from tabom.seeding import share_of
from tabom.types import Example

Split = Literal["pretrain", "train", "validation", "test"]
"""``pretrain`` is what a base model saw, ``train`` what it is post-trained on; no example is in two splits."""

_SHARE_UP_TO: dict[Split, float] = {"pretrain": 0.3, "train": 0.8, "validation": 0.9, "test": 1.0}
_MAX_FRUITLESS_DRAWS = 3000
_ROWS_A_PIECE = 1000


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

    def are_correct(self, examples: Sequence[Example], responses: Sequence[str]) -> list[bool]:
        """The same of many; a task may judge them side by side."""
        return [self.is_correct(example, response) for example, response in zip(examples, responses, strict=True)]


class Puzzles(Task):
    """Generated puzzles; those of the test split may come from a file.

    Args:
        test_file: Puzzles of the test split; None generates them as well.
        seed: Of the generated ones.
    """

    def __init__(self, test_file: str | None, seed: int) -> None:
        self.test_file = Path(test_file) if test_file is not None else None
        self.seed = seed

    def examples(self, split: Split, num_examples: int) -> list[Example]:
        """Generated puzzles, or the rows of ``test_file``."""
        if split == "test" and self.test_file is not None:
            return take(self._read(self.test_file), num_examples, self.test_file)
        rng = random.Random(f"{self.seed}/{split}")
        return generate_distinct(lambda: self._draw(rng), split, num_examples)

    @abstractmethod
    def _draw(self, rng: random.Random) -> Example:
        """A random puzzle."""

    @abstractmethod
    def _read(self, path: Path) -> list[Example]:
        """All puzzles of a file."""


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
    """Yield (place, row) of a file: ``*.csv`` with a header, ``*.parquet``, or else one JSON object a line.

    The place is ``file:line`` (from 1) of a text file and ``file: row n`` (from 0) of a Parquet file. Columns are found
    by :func:`text_columns`. A Parquet file is read in pieces, and only the columns asked for.

    Raises:
        TabomError: If the file is missing or cannot be read, a row is no JSON object, or a column is absent, empty or
            no text.
    """
    require(path.is_file(), f"{path}: expected a CSV, JSON Lines or Parquet file, found no such file")
    rows = _parquet_rows(path, columns) if path.suffix == ".parquet" else _text_rows(path)
    for where, row in rows:
        yield where, text_columns(where, row, columns)


def text_columns(where: str, row: object, columns: tuple[str, ...]) -> dict[str, str]:
    """The values of ``columns`` in a row, as text.

    A name is a key of the row or, where there is no such key, a path of keys and list indices split by dots:
    ``answer.value``, ``messages.0.content``.

    Raises:
        TabomError: If a value is absent or null, or a list, an object or bytes; the message starts with ``where``.
    """
    values = {column: _value(row, column) for column in columns}
    missing = [column for column, value in values.items() if value is None]
    require(not missing, f"{where}: expected columns {', '.join(columns)}, found no {', '.join(missing)}")
    for column, value in values.items():
        is_text = not isinstance(value, dict | list | bytes)
        require(is_text, f"{where}: column {column}: expected text or a number, got {type(value).__name__}")
    return {column: str(value) for column, value in values.items()}


def stored_columns(where: str, stored: Sequence[str], columns: tuple[str, ...]) -> list[str]:
    """The stored columns that hold ``columns``: a path of keys begins with the name of one.

    Raises:
        TabomError: If there is no such column; the message starts with ``where``.
    """
    needed = [column if column in stored else column.split(".")[0] for column in columns]
    is_there = set(needed) <= set(stored)
    require(is_there, f"{where}: expected columns {', '.join(columns)}, found {', '.join(stored)}")
    return needed


def _value(row: object, column: str) -> object:
    if isinstance(row, dict) and column in row:
        return row[column]
    value = row
    for key in column.split("."):
        if isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            value = value.get(key) if isinstance(value, dict) else None
    return value


def _text_rows(path: Path) -> Iterator[tuple[str, object]]:
    is_csv = path.suffix == ".csv"
    with path.open(newline="", encoding="utf-8") as file:
        try:
            for line, row in enumerate(csv.DictReader(file) if is_csv else map(_parse_json, file), 2 if is_csv else 1):
                yield f"{path}:{line}", row
        except (UnicodeDecodeError, csv.Error) as error:
            raise TabomError(f"{path}: expected {'CSV' if is_csv else 'JSON Lines'} in UTF-8 ({error})") from error


def _parse_json(line: str) -> object:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return error


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = itertools.count()
    try:
        with pq.ParquetFile(path) as file:
            needed = stored_columns(str(path), file.schema_arrow.names, columns)
            for batch in file.iter_batches(batch_size=_ROWS_A_PIECE, columns=needed):
                yield from ((f"{path}: row {next(number)}", row) for row in batch.to_pylist())
    except (pa.ArrowException, OSError) as error:
        raise TabomError(f"{path}: expected a Parquet file ({error})") from error


def take(examples: list[Example], num_examples: int, place: Path | str) -> list[Example]:
    """The first ``num_examples``; an error that names the place if it holds fewer."""
    if len(examples) < num_examples:
        raise TabomError(f"{place}: expected at least {num_examples} examples, found {len(examples)}")
    return examples[:num_examples]
