"""Questions with answers, from a data set of the hub."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tabom.errors import TabomError, short_reason
from tabom.tasks.questions import Questions, Source, Verifier
from tabom.tasks.rows import stored_columns, text_columns

if TYPE_CHECKING:
    from datasets import Dataset

_ROWS_AT_ONCE = 1000
"""One row at a time takes several times as long."""


class QuestionDataset(Questions):
    """Rows of a data set of the hub, or of a local directory in the hub's layout, read by ``datasets``.

    ``validation`` has a share of the rows of ``train_split``, ``test`` the rows of ``test_split`` or, without one,
    another share of the same size; ``pretrain`` and ``train`` share the others. A prompt that occurs again in its split
    is dropped. Rows are read at first use, from the cache of ``datasets`` where they are there.

    Args:
        path: ``owner/name`` on the hub, or a directory.
        name: Configuration; None for the default one.
        revision: Branch, tag or commit on the hub; None for the newest. A commit keeps a run the same.
        train_split: Split with the rows for training; slices such as ``train[:1000]`` are understood by ``datasets``.
        test_split: Split with the rows of the test split; None takes a share of ``train_split``.
        prompt_column: As in :class:`~tabom.tasks.question_file.QuestionFile`: a column, or a path of keys and list
            indices such as ``messages.0.content``.
        answer_column: Likewise, of the reference answer.
        verifier: As in :class:`~tabom.tasks.question_file.QuestionFile`.
        held_out: Share of the rows of ``train_split`` in ``validation``, by a hash of the prompt, in [0, 1); without a
            ``test_split`` as many are the test split, and it is below 0.5.
        allow_code_execution: As in :class:`~tabom.tasks.question_file.QuestionFile`.

    Raises:
        TabomError: If the share is out of range, or ``verifier`` is ``code`` and it is not allowed or this machine
            cannot confine programs.
    """

    def __init__(
        self,
        path: str,
        name: str | None = None,
        revision: str | None = None,
        train_split: str = "train",
        test_split: str | None = "test",
        prompt_column: str = "question",
        answer_column: str = "answer",
        verifier: Verifier = "exact",
        held_out: float = 0.05,
        allow_code_execution: bool = False,
    ) -> None:
        self.path = path
        self.name = name
        self.revision = revision
        self.train_split = train_split
        self.test_split = test_split
        super().__init__(prompt_column, answer_column, verifier, held_out, allow_code_execution)

    @property
    def has_test_rows(self) -> bool:
        """Whether there is a ``test_split``."""
        return self.test_split is not None

    def source(self, is_test: bool) -> Source:
        """The split; query ids begin with the last part of ``path``, so a copy in a directory gives the hub's ids."""
        configuration = "" if self.name is None else f" {self.name}"
        return Source(f"{self.path}{configuration}: split {self._split(is_test)}", Path(self.path).name)

    def rows(self, is_test: bool, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
        """Rows in the order of the split.

        Raises:
            TabomError: If the data set, configuration, split or a column cannot be had, or a value is no text.
        """
        place = str(self.source(is_test).place)
        data = self._load(is_test)
        needed = stored_columns(place, data.column_names, columns)
        batches = cast("Iterator[dict[str, list[object]]]", data.select_columns(needed).iter(_ROWS_AT_ONCE))
        rows = (values for batch in batches for values in zip(*(batch[name] for name in needed), strict=True))
        for number, values in enumerate(rows):
            where = f"{place}: row {number}"
            yield where, text_columns(where, dict(zip(needed, values, strict=True)), columns)

    def _load(self, is_test: bool) -> "Dataset":
        import datasets

        split = self._split(is_test)
        try:
            return datasets.load_dataset(self.path, self.name, split=split, revision=self.revision)
        except Exception as error:  # the hub's client, Arrow and the readers of many formats raise their own kinds
            place, reason = self.source(is_test).place, short_reason(error)
            raise TabomError(
                f"{place}: expected a data set of the hub or a directory in its layout ({reason})"
            ) from error

    def _split(self, is_test: bool) -> str:
        return self.test_split if is_test and self.test_split is not None else self.train_split
