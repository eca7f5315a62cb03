"""Python source text: the interpreter's own standard library, as infilling."""

import functools
import os
import random
import re
import sysconfig
from pathlib import Path

from tabom.errors import require
from tabom.seeding import share_of
from tabom.tasks.base import ExampleSource, Split, given_number
from tabom.types import Example

_LEFT_OUT = {"test", "tests", "site-packages", "idlelib", "lib2to3", "tkinter", "encodings", "ensurepip"}
_UNPRINTABLE = re.compile(r"[^\n -~]")


class PythonSource(ExampleSource):
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
        require(prompt_length >= 1, f"prompt_length: expected at least 1, got {prompt_length}")
        require(response_length >= 1, f"response_length: expected at least 1, got {response_length}")
        require(0 < held_out < 1, f"held_out: expected a share between 0 and 1, got {held_out}")
        self.prompt_length = prompt_length
        self.response_length = response_length
        self.held_out = held_out
        self.root = Path(root if root is not None else sysconfig.get_paths()["stdlib"])
        self.seed = seed

    def examples(self, split: Split, num_examples: int | None) -> list[Example]:
        """Chunks at random offsets; a file's chance is proportional to its length."""
        number = given_number(num_examples)
        length = self.prompt_length + self.response_length
        texts = {
            name: text
            for name, text in _read_all(self.root).items()
            if self._is_in(name, split) and len(text) >= length
        }
        require(len(texts) > 0, f"{self.root}: expected *.py files of split {split}, found none that is long enough")
        rng = random.Random(f"{self.seed}/{split}")
        names = rng.choices(list(texts), weights=[len(text) - length + 1 for text in texts.values()], k=number)
        return [self._chunk(name, texts[name], rng) for name in names]

    def document(self, example: Example) -> str:
        """The file."""
        return str((self.root / example.query_id.rpartition(":")[0]).resolve())

    def _is_in(self, name: str, split: Split) -> bool:
        share = share_of(name)
        match split:
            case "validation":
                return share < self.held_out / 2
            case "test":
                return self.held_out / 2 <= share < self.held_out
            case _:
                return share >= self.held_out

    def _chunk(self, name: str, text: str, rng: random.Random) -> Example:
        start = rng.randrange(len(text) - self.prompt_length - self.response_length + 1)
        middle = start + self.prompt_length
        return Example(f"{name}:{start}", text[start:middle], text[middle : middle + self.response_length])


@functools.cache
def _read_all(root: Path) -> dict[str, str]:
    """Text by path relative to ``root``, in a fixed order."""
    paths: list[Path] = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = set(subfolders) - _LEFT_OUT  # not entered: site-packages is larger than all the rest
        paths += [Path(folder, file) for file in files if file.endswith(".py")]
    texts = {}
    for path in sorted(paths):
        text = path.read_text(encoding="utf-8", errors="ignore").expandtabs(4)
        texts[path.relative_to(root).as_posix()] = _UNPRINTABLE.sub("", text)
    return texts
