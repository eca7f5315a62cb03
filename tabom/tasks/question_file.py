"""Questions with answers, from a file."""

from collections.abc import Iterator
from pathlib import Path

from tabom.tasks.questions import Questions, Source, Verifier
from tabom.tasks.rows import read_rows


class QuestionFile(Questions):
    """Rows of JSON, CSV or Parquet files; a prompt that occurs again in its file is dropped.

    ``validation`` has a share of the rows of ``train_file``, ``test`` the rows of ``test_file`` or, without one,
    another share of the same size; ``pretrain`` and ``train`` share the others. Files are read at first use.

    Args:
        train_file: ``*.csv`` with a header, ``*.parquet``, or else one JSON object a line or one array of objects
            (``docs/tasks.md``).
        test_file: Likewise, for the test split; None takes a share of ``train_file``.
        prompt_column: Column of the prompt, or where there is none of that name a path of keys and list indices, such
            as ``messages.0.content``. Or a text with such names in braces: ``{text} It has to pass: {test_list.0}``.
        answer_column: Column of the reference answer, likewise.
        verifier: When a response is correct. ``exact``: it is the reference, up to blanks around it. ``number``: its
            last number has the same value as the reference's last one, exactly. ``math``: math-verify finds the two
            equal (``pip install 'tabom[math]'``), within 15 seconds. ``code``: its code, followed by the reference,
            which holds the tests, is a Python program that comes to its end (``docs/sandbox.md``).
        held_out: Share of the rows of ``train_file`` in ``validation``, by a hash of the prompt, in [0, 1); without a
            ``test_file`` as many are the test split, and it is below 0.5.
        allow_code_execution: Whether programs that a model wrote may run, for ``verifier: code``.

    Raises:
        TabomError: If the share is out of range, or ``verifier`` is ``code`` and it is not allowed or this machine
            cannot confine programs.
    """

    def __init__(
        self,
        train_file: str,
        test_file: str | None = None,
        prompt_column: str = "question",
        answer_column: str = "answer",
        verifier: Verifier = "exact",
        held_out: float = 0.05,
        allow_code_execution: bool = False,
    ) -> None:
        self.train_file = Path(train_file)
        self.test_file = Path(test_file) if test_file is not None else None
        super().__init__(prompt_column, answer_column, verifier, held_out, allow_code_execution)

    @property
    def has_test_rows(self) -> bool:
        """Whether there is a ``test_file``."""
        return self.test_file is not None

    def source(self, is_test: bool) -> Source:
        """The file; query ids begin with its name without suffix."""
        path = self._path(is_test)
        return Source(path, path.stem)

    def rows(self, is_test: bool, columns: tuple[str, ...]) -> Iterator[tuple[str, dict[str, str]]]:
        """Rows in the order of the file."""
        return read_rows(self._path(is_test), columns)

    def _path(self, is_test: bool) -> Path:
        return self.test_file if is_test and self.test_file is not None else self.train_file
