"""Rows of the benchmarks in local files."""

import gzip
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tabom.errors import TabomError, require


class Kind(NamedTuple):
    """What a column holds: in words, and as a check."""

    words: str
    is_met: Callable[[Any], bool]


TEXT = Kind("text", lambda value: isinstance(value, str))
BOXED = Kind("text with an answer in \\boxed{}", lambda value: isinstance(value, str) and "\\boxed{" in value)
NUMBER = Kind("a whole number", lambda value: type(value) is int)
TEXTS = Kind("a list of texts", lambda value: _all_are(value, str))
THREE_TEXTS = Kind("a list of three texts", lambda value: _all_are(value, str) and len(value) == 3)
OBJECTS = Kind("a list of objects", lambda value: _all_are(value, dict))


def find_file(data_dir: Path, names: Sequence[str]) -> Path:
    """The first of ``names`` that is there.

    Raises:
        TabomError: If none is.
    """
    found = [path for name in names if (path := data_dir / name).is_file()]
    require(bool(found), f"{data_dir / names[0]}: expected a file of JSON Lines, found none")
    return found[0]


def read_objects(path: Path, columns: Mapping[str, Kind]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield (``file:line``, the columns asked for) of JSON Lines, zipped or not.

    Raises:
        TabomError: If the file cannot be read, a line is no object, or a column is absent or holds something else.
    """
    for where, row in _lines(path):
        missing = [key for key in columns if not isinstance(row, dict) or key not in row]
        require(not missing, f"{where}: expected columns {', '.join(columns)}, found no {', '.join(missing)}")
        for key, kind in columns.items():
            require(kind.is_met(row[key]), f"{where}: column {key}: expected {kind.words}, got {row[key]!r:.80}")
        yield where, {key: row[key] for key in columns}


def _lines(path: Path) -> Iterator[tuple[str, Any]]:
    where = str(path)
    try:
        with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                where = f"{path}:{number}"
                yield where, json.loads(line)
    except (OSError, EOFError, ValueError, RecursionError) as error:
        raise TabomError(f"{where}: expected JSON Lines in UTF-8 ({error})") from error


def _all_are(values: object, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)
