"""The contract of a benchmark."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lm_eval.api.task import Task


class Benchmark(ABC):
    """Questions and their scoring; cheap to make, lm-eval and the data are read in :meth:`load`.

    Attributes:
        name: Names it in results.
        domain: ``maths``, ``code``, ``instructions`` or empty.
        metric: Its headline number: lm-eval's metric and filter, such as ``exact_match,flexible-extract``.
        num_fewshot: Answered questions ahead of each one; None for the task's own number.
        runs_code: Whether scoring runs the code that a model wrote.
        keeps_special_tokens: Whether special tokens other than the end of sequence are part of a response's text, also
            where prompts are a user's turns.
    """

    name: str
    domain: str
    metric: str
    num_fewshot: int | None
    runs_code: bool
    keeps_special_tokens: bool = False

    @abstractmethod
    def load(self) -> "Task":
        """The task for ``lm_eval.simple_evaluate``.

        Raises:
            TabomError: If lm-eval, the task or its data cannot be had, or a row is not as expected.
        """

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """What decides the questions, the prompts and the verdicts, in JSON's types.

        Raises:
            TabomError: If lm-eval or the data cannot be had.
        """
