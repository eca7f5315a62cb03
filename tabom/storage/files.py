"""Files that are there whole or not at all, and their checksums."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PARTIAL = ".partial"
"""End of the names of files that are being written."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_file(path: Path, writer: str = "") -> Iterator[BinaryIO]:
    """A file to write that gets its name when everything is on the disk; until then it ends in ``PARTIAL``.

    Args:
        path: Of the file.
        writer: Part of the name until then, where two processes may write the file.
    """
    partial = path.with_name(path.name + writer + PARTIAL)
    with partial.open("wb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
