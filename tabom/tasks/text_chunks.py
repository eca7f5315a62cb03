"""Running text as infilling: chunks of documents."""

import random
import re
from abc import abstractmethod
from collections.abc import Mapping

from tabom.errors import require
from tabom.seeding import share_of
from tabom.tasks.base import ExampleSource, Split, given_number
from tabom.types import Example

_UNPRINTABLE = re.compile(r"[^\n -~]")


def printable(text: str) -> str:
    """Text reduced to printable ASCII and newlines."""
    return _UNPRINTABLE.sub("", text.expandtabs(4))


class TextChunks(ExampleSource):
    """Chunks of documents: the first characters are the prompt, the ones that follow the reference.

    Documents are held out whole, by a hash of their name: ``pretrain`` and ``train`` share the training documents,
    ``validation`` and ``test`` take half of the held-out ones each.

    Args:
        prompt_length: Characters of the prompt.
        response_length: Characters of the reference.
        held_out: Share of the documents that is held out, in (0, 1).
        seed: Of the choice of chunks.

    Raises:
        TabomError: If a length is below 1, or the share not between 0 and 1.
    """

    def __init__(self, prompt_length: int, response_length: int, held_out: float, seed: int) -> None:
        require(prompt_length >= 1, f"prompt_length: expected at least 1, got {prompt_length}")
        require(response_length >= 1, f"response_length: expected at least 1, got {response_length}")
        require(0 < held_out < 1, f"held_out: expected a share between 0 and 1, got {held_out}")
        self.prompt_length = prompt_length
        self.response_length = response_length
        self.held_out = held_out
        self.seed = seed

    @property
    @abstractmethod
    def kind(self) -> str:
        """What the documents are, and of which place, for error messages."""

    @abstractmethod
    def texts(self) -> Mapping[str, str]:
        """Text by the name of its document, in a fixed order."""

    def examples(self, split: Split, num_examples: int | None) -> list[Example]:
        """Chunks at random offsets; a document's chance is proportional to its length."""
        number = given_number(num_examples)
        length = self.prompt_length + self.response_length
        texts = {name: text for name, text in self.texts().items() if self._is_in(name, split) and len(text) >= length}
        require(len(texts) > 0, f"{self.kind} of split {split}, found none that is long enough")
        rng = random.Random(f"{self.seed}/{split}")
        names = rng.choices(list(texts), weights=[len(text) - length + 1 for text in texts.values()], k=number)
        return [self._chunk(name, texts[name], rng) for name in names]

    def document(self, example: Example) -> str:
        """Its name."""
        return example.query_id.rpartition(":")[0]

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
