"""Prompts without an answer."""

import hashlib

from tabom.errors import require
from tabom.tasks.base import Split, Task, take
from tabom.types import Example


class OpenPrompts(Task):
    """Prompts that the configuration lists, for what a model writes by itself: nothing is verified, so all counts.

    All are in the training split; their reference is empty.

    Args:
        prompts: Different texts.

    Raises:
        TabomError: If there is none, or one is there twice.
    """

    def __init__(self, prompts: list[str]) -> None:
        require(len(prompts) > 0, "prompts: expected at least one, got none")
        twice = next((prompt for prompt in prompts if prompts.count(prompt) > 1), None)
        require(twice is None, f"prompts: expected different ones, got {twice!r} twice")
        self.prompts = prompts

    def examples(self, split: Split, num_examples: int | None) -> list[Example]:
        """In the order of the list."""
        return take([_example(prompt) for prompt in self.prompts if split == "train"], num_examples, "prompts")

    def is_correct(self, example: Example, response: str) -> bool:
        """Accept any response."""
        del example, response
        return True


def _example(prompt: str) -> Example:
    return Example(f"open/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}", prompt, "")
