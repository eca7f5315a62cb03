"""Nested settings as a flat list."""

from collections.abc import Iterator, Mapping
from typing import Any


def flat(content: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values by dotted key.

    Example:
        >>> dict(flat({"a": {"b": 1, "c": {}}}))
        {'a.b': 1, 'a.c': {}}
    """
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def flat_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A resolved configuration by the names that the command line has for its options.

    Example:
        >>> flat_config({"model": {"class_path": "Module", "init_args": {"optimizer": {"init_args": {"lr": 0.1}}}}})
        {'model': 'Module', 'model.optimizer.lr': 0.1}
    """
    keys = ((key.split("."), value) for key, value in flat(config))
    return {
        ".".join(part for part in parts if part not in ("class_path", "init_args")): value
        for parts, value in keys
        if parts[-1] != "init_args"
    }
