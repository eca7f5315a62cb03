"""English text: the manual that comes with the interpreter, as infilling."""

from collections.abc import Mapping

from tabom.tasks.text_chunks import TextChunks, printable


class PythonManual(TextChunks):
    """Chunks of the topics of Python's ``help()``: English sentences on Python, 460,000 characters, on every machine.

    Topics are held out whole, by a hash of their name: ``pretrain`` and ``train`` share the training topics,
    ``validation`` and ``test`` take half of the held-out ones each. Text is reduced to printable ASCII and newlines.
    It is that of the interpreter's release.

    Args:
        prompt_length: Characters of the prompt.
        response_length: Characters of the reference.
        held_out: Share of the topics that is held out, in (0, 1).
        seed: Of the choice of chunks.

    Raises:
        TabomError: If a length is below 1, or the share not between 0 and 1.
    """

    def __init__(
        self, prompt_length: int = 100, response_length: int = 100, held_out: float = 0.2, seed: int = 0
    ) -> None:
        super().__init__(prompt_length, response_length, held_out, seed)

    @property
    def kind(self) -> str:
        """Topics of the package that holds them."""
        return "pydoc_data.topics: expected topics"

    def texts(self) -> Mapping[str, str]:
        """Text by topic."""
        from pydoc_data.topics import topics  # half a megabyte

        return {name: printable(text) for name, text in sorted(topics.items())}
