"""Nested settings as a flat list, and what differs between two of them."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from tabom.errors import TabomError

_HASH = re.compile(r'"([0-9a-f]{12})[0-9a-f]{28,}"')


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


def check_same(path: Path, there: Mapping[str, Any], now: Mapping[str, Any], what: str, advice: str) -> None:
    """See that settings are those that something was made with.

    Args:
        path: Of what was made, for the message.
        there: What it was made with.
        now: What is wanted.
        what: What was made, for the message.
        advice: What to do about a difference.

    Raises:
        TabomError: Naming the first key that differs, with both values; those that look like hashes are cut.
    """
    old, new = (
        {key: json.dumps(value, sort_keys=True, default=str) for key, value in flat(one)} for one in (there, now)
    )
    differing = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if differing:
        was, is_now = (_HASH.sub(r"\1", one.get(differing[0], "nothing")) for one in (old, new))
        more = f" ({len(differing) - 1} more differ)" if len(differing) > 1 else ""
        raise TabomError(f"{path}: expected {differing[0]} {was}, of {what}, got {is_now}{more}; {advice}")
