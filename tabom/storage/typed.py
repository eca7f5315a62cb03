"""Content of JSON files, checked against the fields of a data class."""

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from typing import Any, TypeVar

from tabom.errors import TabomError, require

_T = TypeVar("_T")

LARGEST = 2**63 - 1
"""Of the integers that are taken."""


def parse_json(data: bytes | str, what: str) -> Any:
    """JSON of any depth that can be read.

    Args:
        data: UTF-8.
        what: File, and what was expected of it, for the message.

    Raises:
        TabomError: If it is no JSON, or nested too deeply.
    """
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise TabomError(f"{what} ({error})") from error


def typed(kind: type[_T], content: object, where: str, what: str = "") -> _T:
    """A data class from what a JSON file holds; data classes within it, lists and mappings are looked into.

    Args:
        kind: A data class, whose fields have simple types.
        content: Of the file.
        where: File and line, for the message.
        what: Whose fields are expected, for the message; by default the class's.

    Raises:
        TabomError: If a key is missing, unknown or holds something else; it is named.
    """
    return typing.cast("_T", _fields(kind, content, where, "", what))


def _typed(kind: Any, value: Any, where: str, key: str) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if is_dataclass(kind):
        return _fields(kind, value, where, key, "")
    if origin in (list, tuple) and isinstance(value, list):
        return origin(_typed(arguments[0], item, where, f"{key}[{i}]") for i, item in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return {name: _typed(arguments[1], item, where, f"{key}.{name}") for name, item in value.items()}
    if origin in (typing.Union, types.UnionType):
        matching = [one for one in arguments if _fits(one, value)]
        if matching:
            return _typed(matching[0], value, where, key)
    elif _fits(kind, value):
        return value
    raise TabomError(f"{where}: {key}: expected {_name(kind)}, got {json.dumps(value, default=str)[:60]}")


def _fields(kind: Any, value: Any, where: str, key: str, what: str) -> Any:
    prefix = f"{key}." if key else ""
    expected = f"{where}: expected the fields of {what or kind.__name__}"
    require(isinstance(value, Mapping), f"{expected}, got {type(value).__name__}" + (f" under {key}" if key else ""))
    hints = typing.get_type_hints(kind)
    own = {field.name for field in fields(kind)}
    needed = {field.name for field in fields(kind) if field.default is MISSING and field.default_factory is MISSING}
    for problem, names in (("no", needed - value.keys()), ("unknown", value.keys() - own)):
        require(not names, f"{expected}, got {problem} key {prefix}{min(names, default='')}")
    return kind(**{name: _typed(hints[name], item, where, prefix + name) for name, item in value.items()})


def _fits(kind: Any, value: Any) -> bool:
    """Whether a value is of a type, as far as can be seen without looking into it."""
    origin = typing.get_origin(kind)
    if kind is Any:
        return True
    if origin is typing.Literal:
        return isinstance(value, str) and value in typing.get_args(kind)
    if kind is float:
        return isinstance(value, int | float)
    if kind is int:
        return type(value) is int and abs(value) <= LARGEST
    if kind is str:
        return isinstance(value, str) and not any("\ud800" <= character <= "\udfff" for character in value)
    return isinstance(value, list if origin is tuple else dict if is_dataclass(kind) else origin or kind)


def _name(kind: Any) -> str:
    return getattr(kind, "__name__", str(kind)) if typing.get_origin(kind) is None else str(kind).replace("typing.", "")
