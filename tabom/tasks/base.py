"""The contract of a task."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from tabom.errors import TabomError, require
from tabom.seeding import share_of
from tabom.types import Example, Grid

Split = Literal["pretrain", "train", "validation", "test"]
"""``pretrain`` is what a base model saw, ``train`` what it is post-trained on; no example is in two splits."""

_SHARE_UP_TO: dict[Split, float] = {"pretrain": 0.3, "train": 0.8, "validation": 0.9, "test": 1.0}
_MAX_FRUITLESS_DRAWS = 3000


class ExampleSource(ABC):
    """Gives examples by split; cheap to make, reads and generates in :meth:`examples`."""

    @abstractmethod
    def examples(self, split: Split, num_examples: int | None) -> list[Example]:
        """The first ``num_examples`` of a split, or all; the same ones at every call and on every machine.

        Args:
            split: Whose examples.
            num_examples: None for all there are.

        Raises:
            TabomError: If there are fewer, or none; if all are wanted of a source that generates them.
        """

    def document(self, example: Example) -> str:
        """What an example is a piece of, by a name that is the same in every source: by default the prompt itself.

        Text that is trained on and text that is measured on have no document in common.
        """
        return example.prompt


class Task(ExampleSource):
    """Prompts with a verifier."""

    @abstractmethod
    def is_correct(self, example: Example, response: str) -> bool:
        """Whether the whole response, up to its first end-of-sequence token, answers the prompt."""

    @classmethod
    def drawing(cls, prompt: str) -> Grid | None:
        """How the viewer draws an answer to a prompt, beside its tokens; None leaves it at them."""
        del prompt
        return None

    def are_correct(self, examples: Sequence[Example], responses: Sequence[str]) -> list[bool]:
        """The same of many; a task may judge them side by side."""
        return [self.is_correct(example, response) for example, response in zip(examples, responses, strict=True)]


class Puzzles(Task):
    """Generated puzzles; those of the test split may come from a file.

    Args:
        test_file: Puzzles of the test split; None generates them as well.
        seed: Of the generated ones.
    """

    def __init__(self, test_file: str | None, seed: int) -> None:
        self.test_file = Path(test_file) if test_file is not None else None
        self.seed = seed

    def examples(self, split: Split, num_examples: int | None) -> list[Example]:
        """Generated puzzles, or the rows of ``test_file``."""
        if split == "test" and self.test_file is not None:
            return take(self._read(self.test_file), num_examples, self.test_file)
        rng = random.Random(f"{self.seed}/{split}")
        return generate_distinct(lambda: self._draw(rng), split, num_examples)

    @abstractmethod
    def _draw(self, rng: random.Random) -> Example:
        """A random puzzle."""

    @abstractmethod
    def _read(self, path: Path) -> list[Example]:
        """All puzzles of a file."""


def split_of(text: str) -> Split:
    """Split of a generated problem, by a hash of its text: the same problem never lands in two."""
    return next(split for split, upper in _SHARE_UP_TO.items() if share_of(text) < upper)


def generate_distinct(draw: Callable[[], Example], split: Split, num_examples: int | None) -> list[Example]:
    """Collect distinct examples whose prompt belongs to ``split``: the generated problems of a task.

    Args:
        draw: Gives a random example; draws must follow from a seed for the examples to be the same at every call.
        split: A prompt belongs to one, by a hash of its text.
        num_examples: How many are wanted.

    Raises:
        TabomError: If no number is given; if 3,000 draws in a row bring nothing new before there are as many.
    """
    wanted = given_number(num_examples)
    examples: dict[str, Example] = {}
    num_fruitless = 0
    while len(examples) < wanted and num_fruitless < _MAX_FRUITLESS_DRAWS:
        example = draw()
        is_new = split_of(example.prompt) == split and example.prompt not in examples
        num_fruitless = 0 if is_new else num_fruitless + 1
        if is_new:
            examples[example.prompt] = example
    require(len(examples) == wanted, f"expected {wanted} examples of split {split}, found {len(examples)}")
    return list(examples.values())


def given_number(num_examples: int | None) -> int:
    """How many examples are to be generated.

    Raises:
        TabomError: If it is None, since what is generated has no end.
    """
    if num_examples is None:
        raise TabomError("num_queries: expected a number, since the task generates its examples, got null")
    return num_examples


def take(examples: list[Example], num_examples: int | None, place: Path | str) -> list[Example]:
    """The first ``num_examples`` of a place, which the message names; None for all there are.

    Raises:
        TabomError: If it holds fewer, or none.
    """
    least = 1 if num_examples is None else num_examples
    if len(examples) < least:
        raise TabomError(f"{place}: expected at least {least} examples, found {len(examples)}")
    return examples[:num_examples]
