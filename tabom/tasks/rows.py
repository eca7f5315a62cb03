"""Rows of question files, and the values in their columns."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tabom.errors import TabomError, require
from tabom.storage.rows import read_text_rows, text_of

if TYPE_CHECKING:
    import pyarrow.parquet as pq

_ROWS_A_PIECE = 1000


def read_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield (place, values of ``columns``) of a file: ``*.csv`` with a header, ``*.parquet``, or else JSON.

    JSON is an object a line, or one array of objects. The place is ``file:line`` (from 1) of a text file and
    ``file: row n`` (from 0) of a Parquet file. :func:`tabom.storage.rows.read_text_rows` says what of a text file is
    passed over, :func:`text_columns` how values are found. A Parquet file is read in pieces, and only the columns asked
    for.

    Raises:
        TabomError: If the file is missing or cannot be read, a row is no JSON object, or a column is absent, empty or
            no text.
    """
    _require_file(path)
    for where, row in _parquet_rows(path, columns) if _is_parquet(path) else read_text_rows(path):
        yield where, text_columns(where, row, columns)


def column_names(path: Path) -> list[str]:
    """Columns of the first row of such a file.

    Raises:
        TabomError: If the file is missing or its beginning cannot be read.
    """
    _require_file(path)
    if _is_parquet(path):
        with _parquet_file(path) as file:
            return file.schema_arrow.names
    return next((list(row) for _, row in read_text_rows(path)), [])


def text_columns(where: str, row: object, columns: tuple[str, ...]) -> dict[str, str]:
    """The values of ``columns`` in a row, as text.

    A name is a key of the row or, where there is no such key, a path of keys and list indices split by dots:
    ``answer.value``, ``messages.0.content``.

    Raises:
        TabomError: If a value is absent or :func:`tabom.storage.rows.text_of` finds no text or number in it; the
            message starts with ``where``.
    """
    values: dict[str, str] = {}
    for column in columns:
        try:
            text = text_of(_value(row, column))
        except ValueError as error:
            raise TabomError(f"{where}: column {column}: {error}") from error
        if text is not None:
            values[column] = text
    missing = [column for column in columns if column not in values]
    require(not missing, f"{where}: expected columns {', '.join(columns)}, found no {', '.join(missing)}")
    return values


def stored_columns(where: str, stored: Sequence[str], columns: tuple[str, ...]) -> list[str]:
    """The stored columns that hold ``columns``: a path of keys begins with the name of one.

    Raises:
        TabomError: If there is no such column; the message starts with ``where``.
    """
    needed = [column if column in stored else column.split(".")[0] for column in columns]
    is_there = set(needed) <= set(stored)
    require(is_there, f"{where}: expected columns {', '.join(columns)}, found {_printable(', '.join(stored))}")
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


def _printable(text: str) -> str:
    return "".join(character if character.isprintable() else " " for character in text).strip()


def _require_file(path: Path) -> None:
    require(path.is_file(), f"{path}: expected a CSV, JSON Lines or Parquet file, found no such file")


def _is_parquet(path: Path) -> bool:
    return path.suffix.lower() == ".parquet"


@contextmanager
def _parquet_file(path: Path) -> "Iterator[pq.ParquetFile]":
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            yield file
    except TabomError:
        raise
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:  # the latter two: values without an object
        raise TabomError(f"{path}: expected a Parquet file ({_printable(str(error))})") from error


def _parquet_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    number = itertools.count()
    with _parquet_file(path) as file:
        needed = stored_columns(str(path), file.schema_arrow.names, columns)
        for batch in file.iter_batches(batch_size=_ROWS_A_PIECE, columns=needed):
            yield from ((f"{path}: row {next(number)}", row) for row in batch.to_pylist())
