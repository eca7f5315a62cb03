"""Questions with answers, wherever their rows come from."""

import functools
import hashlib
import re
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from tabom.errors import TabomError, require
from tabom.sandbox import Sandbox, check_sandbox
from tabom.seeding import share_of
from tabom.tasks.answers import MATH_COMPARISON, code_of, last_number
from tabom.tasks.base import Split, Task, take
from tabom.types import Example

Verifier = Literal["exact", "number", "math", "code"]
_IN_BRACES = re.compile(r"\{([^{}]+)\}")


class Source(NamedTuple):
    """What holds rows: ``place`` is how errors name it, ``name`` begins the query ids of its rows."""

    place: Path | str
    name: str


class Questions(Task):
    """Rows of a prompt and a reference answer; a prompt that occurs again in its source is dropped.

    A row belongs to a split by the share in [0, 1) that a hash of its prompt gives. With h for ``held_out``,
    ``validation`` has the rows below h. ``test`` has rows of its own, which share no prompt with the others, or, where
    there are none, those from h to below 2h. ``pretrain`` and ``train`` share all others. Rows are read at first use. A
    query id is ``name/hash of the prompt``: it does not depend on the row's place. Distinct texts are held in memory
    once: 100,000 rows of 400 characters take 65 MB.

    Args:
        prompt_column: As :class:`~tabom.tasks.question_file.QuestionFile` has it.
        answer_column: Likewise.
        verifier: Likewise.
        held_out: Likewise.
        allow_code_execution: Likewise.

    Raises:
        TabomError: If the share is out of range, or ``verifier`` is ``code`` and it is not allowed or this machine
            cannot confine programs.
    """

    def __init__(
        self,
        prompt_column: str,
        answer_column: str,
        verifier: Verifier,
        held_out: float,
        allow_code_execution: bool,
    ) -> None:
        limit = 1 if self.has_test_rows else 0.5
        require(0 <= held_out < limit, f"held_out: expected a share from 0 to below {limit}, got {held_out}")
        if verifier == "code":
            require(
                allow_code_execution,
                "verifier: code runs programs that a model wrote, confined as docs/sandbox.md says; "
                "expected allow_code_execution: true, got false",
            )
            check_sandbox()
        self.prompt_column = prompt_column
        self.answer_column = answer_column
        self.verifier: Verifier = verifier
        self.held_out = held_out

    @abstractmethod
    def source(self, is_test: bool) -> Source:
        """Where the rows for training, or the test split's own ones, come from."""

    @abstractmethod
    def rows(self, is_test: bool, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield (place, values of ``columns``) of every row, in order."""

    @property
    @abstractmethod
    def has_test_rows(self) -> bool:
        """Whether the test split has rows of its own."""

    def examples(self, split: Split, num_examples: int | None) -> list[Example]:
        """Rows in the order of their source.

        Raises:
            TabomError: If there are fewer, or none; if the test split has neither rows of its own nor a share; if rows
                for training share a prompt with the test split's own ones, of which both are read where rows for
                training or validation are asked for.
        """
        if split == "test" and self.has_test_rows:
            return take(self._test_examples, num_examples, self.source(is_test=True).place)
        place = self.source(is_test=False).place
        require(
            split != "test" or self.held_out > 0,
            f"{place}: expected rows of their own for split test (test_file or test_split) or held_out above 0, "
            "got neither",
        )
        lower, upper = self._shares(split)
        chosen = [example for example in self._train_examples if lower <= share_of(example.prompt) < upper]
        return take(chosen, num_examples, place)

    def is_correct(self, example: Example, response: str) -> bool:
        """Compare with the reference by ``verifier``; a response that cannot be compared, or not in time, is wrong.

        Raises:
            TabomError: If ``verifier`` is ``math`` and math-verify is not installed, or it is ``code`` and the program
                cannot be confined.
        """
        match self.verifier:
            case "exact":
                return response.strip() == example.reference.strip()
            case "number":
                value = last_number(response)
                return value is not None and value == last_number(example.reference)
            case "math":
                return MATH_COMPARISON.is_equal(example.reference, response)
            case "code":
                return self._sandbox.run(_program(example, response)).is_passed

    def are_correct(self, examples: Sequence[Example], responses: Sequence[str]) -> list[bool]:
        """Programs run side by side."""
        if self.verifier != "code":
            return super().are_correct(examples, responses)
        programs = [_program(example, response) for example, response in zip(examples, responses, strict=True)]
        return [outcome.is_passed for outcome in self._sandbox.run_all(programs)]

    def _shares(self, split: Split) -> tuple[float, float]:
        """From which share to below which the rows of a split are."""
        match split:
            case "validation":
                return 0.0, self.held_out
            case "test":
                return self.held_out, 2 * self.held_out
            case _:
                return self.held_out if self.has_test_rows else 2 * self.held_out, 1.0

    @functools.cached_property
    def _sandbox(self) -> Sandbox:
        return Sandbox()

    @functools.cached_property
    def _train_examples(self) -> list[Example]:
        examples = self._read(is_test=False)
        tested = {example.prompt for example in self._test_examples} if self.has_test_rows else set[str]()
        shared = next((example.prompt for example in examples if example.prompt in tested), None)
        if shared is not None:
            train, test = (self._place_of(shared, is_test) for is_test in (False, True))
            raise TabomError(f"{train}: expected a question that is not in the test split, got that of {test}")
        return examples

    @functools.cached_property
    def _test_examples(self) -> list[Example]:
        return self._read(is_test=True)

    def _read(self, is_test: bool) -> list[Example]:
        examples: dict[str, Example] = {}
        name = self.source(is_test).name
        columns = dict.fromkeys([*columns_of(self.prompt_column), *columns_of(self.answer_column)])
        for _, row in self.rows(is_test, tuple(columns)):
            prompt = text_of(self.prompt_column, row)
            query_id = f"{name}/{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"
            examples.setdefault(prompt, Example(query_id, prompt, text_of(self.answer_column, row)))
        return list(examples.values())

    def _place_of(self, prompt: str, is_test: bool) -> str:
        rows = self.rows(is_test, columns_of(self.prompt_column))
        return next(place for place, row in rows if text_of(self.prompt_column, row) == prompt)


def columns_of(pattern: str) -> tuple[str, ...]:
    """Columns of a text with names in braces; the text itself where there are none.

    >>> columns_of("{text} {test_list.0}"), columns_of("question")
    (('text', 'test_list.0'), ('question',))
    """
    return tuple(dict.fromkeys(_IN_BRACES.findall(pattern))) or (pattern,)


def text_of(pattern: str, row: Mapping[str, str]) -> str:
    """What a row says: the column of this name, or the text with the columns in the places of their names."""
    return row[pattern] if pattern in row else _IN_BRACES.sub(lambda name: row[name[1]], pattern)


def _program(example: Example, response: str) -> str:
    """The response's code, followed by the tests."""
    return f"{code_of(response)}\n\n{example.reference}\n"
