"""Rows of text files that others wrote, as editors, spreadsheets and pandas save them; and what a cell may hold."""

import codecs
import csv
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import TypeGuard

from tabom.errors import TabomError

_MAX_CELL = 2**31 - 1  # characters; csv's own limit is 131,072
_ARRAY = re.compile(rb"\s*\[\s*(\{|\]|$)")
_BLANKS = re.compile(r"[ \t\r\n]*")
_HALF_PAIR = re.compile(r"[\ud800-\udfff]")
_MAX_SHOWN = 40  # characters


def read_text_rows(path: Path) -> Iterator[tuple[str, dict[str, object]]]:
    """Yield (``file:line``, row) of ``*.csv`` with a header, or else of JSON Lines or one JSON array of objects.

    Lines count from 1; a row has the number of the line on which it begins. A byte order mark and blank lines are
    passed over, lines end in any way, the case of the file's ending does not matter, and ``*.gz`` is unpacked.

    Raises:
        TabomError: Naming file and line, if the file cannot be read or a row is none.
    """
    is_csv = path.name.lower().removesuffix(".gz").endswith(".csv")
    expected = "CSV in UTF-8" if is_csv else "a JSON object"
    try:
        with gzip.open(path) if path.suffix.lower() == ".gz" else path.open("rb") as file:
            for line, row in csv_rows(file) if is_csv else json_rows(file):
                if not isinstance(row, dict):
                    got = row if isinstance(row, ValueError) else f"got {type(row).__name__}"
                    raise TabomError(f"{path}:{line}: expected {expected}, {got}")
                yield f"{path}:{line}", row
    except (OSError, EOFError, zlib.error) as error:
        raise TabomError(f"{path}: expected a file that can be read ({error})") from error


def json_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, object]]:
    """Yield (line, value) of JSON Lines, or of the one JSON array of objects that all lines make up.

    In the place of what cannot be parsed stands a ``ValueError`` that says why. An array is parsed whole or not at all.
    """
    pieces = chain.from_iterable(piece.splitlines() for piece in lines)
    numbered = ((line, text.removeprefix(codecs.BOM_UTF8)) for line, text in enumerate(pieces, 1))
    filled = ((line, text) for line, text in numbered if text.strip())
    first = next(filled, None)
    if first is None:
        return
    if _ARRAY.match(first[1]):
        yield from _array_rows(b"\n".join([first[1], *(text for _, text in numbered)]), first[0])
        return
    for line, text in chain([first], filled):
        try:
            yield line, _parse(text)
        except ValueError as error:
            yield line, error


def csv_rows(lines: Iterable[bytes]) -> Iterator[tuple[int, object]]:
    """Yield (line, row by column) of CSV with a header, likewise; after what is no CSV nothing follows."""
    csv.field_size_limit(_MAX_CELL)
    reader = csv.reader(_decoded(lines), strict=True)
    header: list[str] = []
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except UnicodeDecodeError as error:
            yield reader.line_num + 1, ValueError(f"got something else ({error})")
            return
        except csv.Error as error:
            yield line, ValueError(f"got something else ({error})")
            return
        if cells is None:
            return
        if len(cells) < 2 and not "".join(cells).strip():
            continue
        if not header:
            header = cells
        elif any(cells[len(header) :]):
            yield line, ValueError(f"got {len(cells)} cells below a header of {len(header)}")
        else:
            yield line, dict(zip(header, cells, strict=False))


def is_text(value: object) -> TypeGuard[str]:
    """Whether a value is text, not blank and without half a surrogate pair, which JSON can hold and UTF-8 cannot."""
    return isinstance(value, str) and bool(value.strip()) and not _HALF_PAIR.search(value)


def is_nothing(value: object) -> bool:
    """Whether a value stands for none: null, NaN or blank text."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def text_of(value: object) -> str | None:
    """Text or a number as text; None for what holds nothing: null, NaN and blank text.

    Raises:
        ValueError: Saying what was expected; for infinity, true and false, lists, objects, bytes, dates, and text with
            half a surrogate pair.
    """
    if is_nothing(value):
        return None
    if isinstance(value, str):
        half = _HALF_PAIR.search(value)
        if half is None:
            return value
        raise ValueError(f"expected text, got half a surrogate pair, {half[0]!r}, as character {half.start() + 1}")
    if type(value) is int or (isinstance(value, float | Decimal) and math.isfinite(value)):
        return str(value)
    got = value if isinstance(value, float) else type(value).__name__
    raise ValueError(f"expected text or a number, got {got}")


def _decoded(lines: Iterable[bytes]) -> Iterator[str]:
    """Lines as text, with their ends, which quoted cells keep."""
    encoding = "utf-8-sig"
    for piece in lines:
        for line in piece.splitlines(keepends=True):
            yield line.decode(encoding)
            encoding = "utf-8"


def _parse(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"got {line[:_MAX_SHOWN].decode(errors='replace')!r} ({_reason(error)})") from error


def _array_rows(array: bytes, line: int) -> Iterator[tuple[int, object]]:
    """Yield (line, value) of an array that begins on a line."""
    try:
        text = array.decode()
        json.loads(text)
    except UnicodeDecodeError as error:
        yield line + array.count(b"\n", 0, error.start), ValueError(f"got a JSON array with a fault ({error})")
        return
    except (ValueError, RecursionError) as error:
        further = error.lineno - 1 if isinstance(error, json.JSONDecodeError) else 0
        yield line + further, ValueError(f"got a JSON array with a fault ({_reason(error)})")
        return
    decoder, end = json.JSONDecoder(), text.index("[")
    start = _after_blanks(text, end + 1)
    while text[start] != "]":
        line += text.count("\n", end, start)
        value, end = decoder.raw_decode(text, start)
        yield line, value
        line += text.count("\n", start, end)
        comma = _after_blanks(text, end)
        start = _after_blanks(text, comma + 1) if text[comma] == "," else comma


def _after_blanks(text: str, start: int) -> int:
    match = _BLANKS.match(text, start)
    return start if match is None else match.end()


def _reason(error: Exception) -> str:
    """Without the line number of a text that is itself a line."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at column {error.colno}"
    return "nested too deeply" if isinstance(error, RecursionError) else str(error)
