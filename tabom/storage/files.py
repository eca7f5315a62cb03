"""Files that are there whole or not at all, and their checksums."""

import hashlib
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from tabom.storage.claims import alone

PARTIAL = ".partial"
"""End of the names of files that are being written."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def whole_directory(path: Path, verb: str) -> Iterator[Path]:
    """A directory to fill with files, which get to ``path`` when all are written, in the order of their writing.

    Args:
        path: Of the directory; made if it is missing. Where writing fails nothing is left of it.
        verb: Of the command line, which no other process may run on ``path`` meanwhile.

    Raises:
        TabomError: If another one does.
    """
    with alone(path, verb):
        new = path / f"new{PARTIAL}"
        shutil.rmtree(new, ignore_errors=True)  # of a process that was killed
        new.mkdir()
        try:
            yield new
            for file in sorted(new.iterdir(), key=lambda file: file.stat().st_mtime_ns):
                file.replace(path / file.name)
        finally:
            shutil.rmtree(new, ignore_errors=True)


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file to write that gets its name when everything is on the disk.

    Until then it has a name of its own, since another process may write the same file, that ends in ``PARTIAL``.
    """
    partial = path.with_name(f"{path.name}.{secrets.token_hex(8)}{PARTIAL}")
    try:
        with partial.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(partial)  # noqa: PTH108
        raise
