"""Python source text: the interpreter's own standard library, as infilling."""

import functools
import os
import sysconfig
from collections.abc import Mapping
from pathlib import Path

from tabom.tasks.text_chunks import TextChunks, printable
from tabom.types import Example

_LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "lib2to3", "tkinter", "encodings", "ensurepip"}


class PythonSource(TextChunks):
    """Chunks of ``*.py`` files: the first characters are the prompt, the ones that follow the reference.

    Files are held out whole, by a hash of their path: ``pretrain`` and ``train`` share the training files,
    ``validation`` and ``test`` take half of the held-out ones each. Text is reduced to printable ASCII and newlines.

    Args:
        prompt_length: Characters of the prompt.
        response_length: Characters of the reference.
        held_out: Share of the files that is held out, in (0, 1).
        root: Directory that is searched for ``*.py``; default is the standard library of the running interpreter.
        seed: Of the choice of chunks.

    Raises:
        TabomError: If a length is below 1, or the share not between 0 and 1.
    """

    def __init__(
        self,
        prompt_length: int = 24,
        response_length: int = 24,
        held_out: float = 0.1,
        root: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(prompt_length, response_length, held_out, seed)
        self.root = Path(root if root is not None else sysconfig.get_paths()["stdlib"])

    @property
    def kind(self) -> str:
        """Files below the root."""
        return f"{self.root}: expected *.py files"

    def texts(self) -> Mapping[str, str]:
        """Text by path relative to the root."""
        return _read_all(self.root)

    def document(self, example: Example) -> str:
        """The file."""
        return str((self.root / super().document(example)).resolve())


@functools.cache
def _read_all(root: Path) -> dict[str, str]:
    """Text by path relative to ``root``, in a fixed order."""
    paths: list[Path] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = set(subfolders) - _LEFT_OUT  # not entered: site-packages is larger than all the rest
        paths += [Path(folder, file) for file in files if file.endswith(".py")]
    return {
        path.relative_to(root).as_posix(): printable(path.read_text(encoding="utf-8", errors="ignore"))
        for path in sorted(paths)
    }
