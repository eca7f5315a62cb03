"""JSON that holds a checksum of itself: a byte that was altered is noticed."""

import hashlib
import json
from pathlib import Path
from typing import Any

from tabom.errors import require
from tabom.storage.files import whole_file
from tabom.storage.typed import parse_json


def write_sealed(path: Path, content: dict[str, Any]) -> None:
    """Write JSON with a checksum of itself: the same content gives the same bytes."""
    with whole_file(path) as file:
        file.write(_sealed(content))


def read_sealed(path: Path, what: str, schema_version: int | None = None) -> dict[str, Any]:
    """Read what :func:`write_sealed` wrote.

    Args:
        path: Of the file.
        what: What the file should be, for the message.
        schema_version: Its ``schema_version``, which another release may have written in another way; None if it has
            none.

    Raises:
        TabomError: If a byte of it is not as it was written, or it has another schema version.
    """
    data = path.read_bytes()
    content = parse_json(data, f"{path}: expected {what}")
    require(isinstance(content, dict), f"{path}: expected {what}, got a {type(content).__name__}")
    version = content.get("schema_version", schema_version)
    require(schema_version in (None, version), f"{path}: expected schema_version {schema_version}, got {version}")
    content.pop("checksum", None)
    require(data == _sealed(content), f"{path}: expected {what}; the file is truncated or was altered")
    return content


def _sealed(content: dict[str, Any]) -> bytes:
    checksum = hashlib.sha256(_rendered(content)).hexdigest()
    return _rendered({**content, "checksum": checksum})


def _rendered(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, sort_keys=True) + "\n").encode()
