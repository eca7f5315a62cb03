"""Replay: rows on which a training keeps the model near the base."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tabom.data.encoding import Row, encode_examples
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError, check_range, check_used, require
from tabom.tasks import ExampleSource
from tabom.trajectories import Manifest, read_trajectories, row_names
from tabom.types import Example


@dataclass(frozen=True)
class ReplayData:
    """Where the rows of the replay come from, and how many go into a step.

    Attributes:
        batch_size: Rows a batch and device, besides those of the training data.
        source: Gives text, or questions with answers, of which the training split is taken.
        trajectories: Or a directory that ``tabom predict`` wrote: what the base itself decoded, right or wrong.
        num_examples: Examples of ``source``.
        response_length: Tokens that longer answers of ``source`` are cut to; None leaves them as they are.

    Raises:
        TabomError: If not one of ``source`` and ``trajectories`` is given, a number is below 1, or an option belongs to
            the other one.
    """

    batch_size: int
    source: ExampleSource | None = None
    trajectories: str | None = None
    num_examples: int = 1000
    response_length: int | None = None

    def __post_init__(self) -> None:
        num_given = sum(origin is not None for origin in (self.source, self.trajectories))
        require(
            num_given == 1, f"replay: expected either source or trajectories, got {('neither', '', 'both')[num_given]}"
        )
        for name in ("batch_size", "num_examples", "response_length"):
            check_range(f"replay.{name}", getattr(self, name), least=1)
        for name, default in (("num_examples", 1000), ("response_length", None)):
            is_used, owner = self.source is not None, "trajectories"
            check_used(f"replay.{name}", getattr(self, name), default, is_used=is_used, owner=owner)

    def rows(self, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> list[Row]:
        """All rows, without an order of decoding.

        Args:
            tokenizer: Of the training.
            chat: Whether prompts and answers of ``source`` are turns of a chat; trajectories are as they were recorded.

        Raises:
            TabomError: If there are none, or they cannot be read or encoded.
        """
        if self.trajectories is not None:
            path = Path(self.trajectories)
            table = read_trajectories(
                path,
                tokenizer_fingerprint=tokenizer_fingerprint(tokenizer),
                response_length=Manifest.load(path).origin.response_length,
            )
            return [Row(*row) for row in zip(table.query_ids, table.prompt_ids, table.response_ids, strict=True)]
        require(len(self._examples) > 0, f"{self._name}: expected examples of split train, got none")
        rows = encode_examples(tokenizer, self._examples, None, chat=chat)
        return [dataclasses.replace(row, response_ids=row.response_ids[: self.response_length]) for row in rows]

    def check_apart(self, name: str, domain: ExampleSource, examples: Sequence[Example]) -> None:
        """Refuse text that forgetting is measured on if the replay has rows of the same document.

        Args:
            name: Of the base domain.
            domain: The base domain.
            examples: What is measured on.

        Raises:
            TabomError: If it does; names both sources and the document.
        """
        shared = [document for document in map(domain.document, examples) if document in self._documents]
        if shared:
            raise TabomError(
                f"{self._name}: expected no document that forgetting is measured on, got {shared[0][:80]!r}, which "
                f"base_domains.{name} ({type(domain).__name__}) has too"
            )

    @property
    def _name(self) -> str:
        """For messages."""
        return (
            f"replay.source ({type(self.source).__name__})"
            if self.source is not None
            else f"replay.trajectories ({self.trajectories})"
        )

    @functools.cached_property
    def _examples(self) -> list[Example]:
        assert self.source is not None
        return self.source.examples("train", self.num_examples)

    @functools.cached_property
    def _documents(self) -> set[str]:
        if self.source is not None:
            return set(map(self.source.document, self._examples))
        return {prompt for _, _, prompt in row_names(Path(str(self.trajectories)))}
