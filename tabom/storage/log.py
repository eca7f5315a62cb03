"""Logs: JSON Lines, an object a line, that are appended to while things happen."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tabom.errors import TabomError, require


def append_line(path: Path, content: Mapping[str, Any]) -> None:
    """Write a line; a process that is killed later leaves it.

    The end of a line that a killed process left unfinished is removed before.
    """
    with path.open("ab+") as file:
        if file.tell() and file.seek(-1, os.SEEK_END) and file.read() != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)
        file.write(json.dumps(content).encode() + b"\n")


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
        try:
            content = json.loads(line)
        except ValueError as error:
            raise TabomError(f"{got} ({error})") from error
        require(isinstance(content, dict), got)
        contents.append(content)
    return contents
