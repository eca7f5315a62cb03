"""Logs: JSON Lines, an object a line, that are appended to while things happen."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabom.errors import require
from tabom.storage.typed import parse_json


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Write a line; a process that is killed later leaves it. One that was left unfinished is dropped before."""
    drop_unfinished_line(path)
    with path.open("a") as file:
        file.write(json.dumps(content) + "\n")


def drop_unfinished_line(path: Path) -> None:
    """Remove what stands after the last line break."""
    with path.open("ab+") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) and file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def read_lines(path: Path, what: str) -> list[dict[str, Any]]:
    """Read all lines; a last one that a killed process left unfinished is left out.

    Args:
        path: Of the log.
        what: What a line should be, for the message.

    Raises:
        TabomError: Naming file and line, if one is no JSON object.
    """
    contents = []
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        got = f"{path}, line {number}: expected {what}, got {line[:40].decode(errors='replace')!r}"
        content = parse_json(line, got)
        require(isinstance(content, dict), got)
        contents.append(content)
    return contents
