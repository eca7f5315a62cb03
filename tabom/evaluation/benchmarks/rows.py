"""Rows of the benchmarks in local files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabom.errors import require
from tabom.storage.rows import is_text, read_text_rows


class Kind(NamedTuple):
    """What a column holds: in words, and as a check."""

    words: str
    is_met: Callable[[Any], bool]


TEXT = Kind("text", is_text)
BOXED = Kind("text with an answer in \\boxed{}", lambda value: is_text(value) and "\\boxed{" in value)
NUMBER = Kind("a whole number", lambda value: type(value) is int)
TEXTS = Kind("a list of texts", lambda value: _all_are(value, is_text))
THREE_TEXTS = Kind("a list of three texts", lambda value: _all_are(value, is_text) and len(value) == 3)
OBJECTS = Kind("a list of objects", lambda value: _all_are(value, lambda item: isinstance(item, dict)))


def find_file(data_dir: Path, names: Sequence[str]) -> Path:
    """The first of ``names`` that is there.

    Raises:
        TabomError: If none is.
    """
    found = [path for name in names if (path := data_dir / name).is_file()]
    require(bool(found), f"{data_dir / names[0]}: expected a file of JSON Lines, found none")
    return found[0]


def read_objects(path: Path, columns: Mapping[str, Kind]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``file:line``, the columns asked for) of a file that :func:`~tabom.storage.rows.read_text_rows` reads.

    Raises:
        TabomError: If the file cannot be read, a line is no object, or a column is absent or holds something else.
    """
    for where, row in read_text_rows(path):
        missing = [key for key in columns if key not in row]
        require(not missing, f"{where}: expected columns {', '.join(columns)}, found no {', '.join(missing)}")
        for key, kind in columns.items():
            require(kind.is_met(row[key]), f"{where}: column {key}: expected {kind.words}, got {row[key]!r:.80}")
        yield where, {key: row[key] for key in columns}


def _all_are(values: object, is_met: Callable[[Any], bool]) -> bool:
    return isinstance(values, list) and all(map(is_met, values))
