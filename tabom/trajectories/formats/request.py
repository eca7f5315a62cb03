"""What is asked of an import: checked before anything is read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.errors import TabomError, check_range, require
from tabom.storage.rows import read_text_rows, text_of
from tabom.trajectories.formats import d3llm, prophet, released, step_map
from tabom.trajectories.formats.decoding import Decoding, Options

Parser = Callable[[Mapping[str, Any], Options], list[Decoding]]

FORMATS: dict[str, Parser] = {
    "tabom": released.decodings,
    "d3llm": d3llm.decodings,
    "step_map": step_map.decodings,
    "prophet": prophet.decodings,
}


@dataclass(frozen=True)
class ImportRequest:
    """What is imported, and how.

    Attributes:
        sources: Files, folders or data sets of the hub; see :func:`tabom.trajectories.formats.source_rows`.
        tokenizer: Of the model that decoded: ``characters``, a directory or a hub id.
        mask_token: Its mask token by the text, where its files have none; the manifest keeps it.
        format: One of :data:`tabom.trajectories.formats.FORMATS`.
        methods: Values of ``method`` that are wanted, in the format ``tabom``; empty if all are.
        first_step: Number of the first step, in the format ``step_map``.
        prompts: File with what the user says in each question, a row a question, in the format ``prophet``.
        is_chat: Whether prompts stand in the tokenizer's chat template, where the format has them without one.
        rows_per_shard: Trajectories a file, and how many are held in memory.
        response_length: N, to which shorter responses are filled; None if all are as long as the first.
        block_length: Response positions that were decoded before any to their right, which no format says; the length
            of the response if there were no blocks. None if it is not known.
        name: Configuration of a data set.
        split: Split of a data set.
        revision: Branch, tag or commit on the hub.
    """

    sources: Sequence[str]
    tokenizer: str
    format: str = "tabom"
    methods: Sequence[str] = ()
    first_step: int | None = None
    prompts: Path | None = None
    is_chat: bool = True
    rows_per_shard: int = 1000
    response_length: int | None = None
    block_length: int | None = None
    name: str | None = None
    split: str = "train"
    revision: str | None = None
    mask_token: str | None = None

    def check(self) -> None:
        """Raise ``TabomError`` if a value is out of range, missing, or of another format."""
        _check_format(self.format)
        require(self.rows_per_shard >= 1, f"rows_per_shard: expected at least 1, got {self.rows_per_shard}")
        check_range("block_length", self.block_length, least=1)
        check_range("response_length", self.response_length, least=1)
        for option, value, owner in (
            ("--method", self.methods or None, "tabom"),
            ("--first_step", self.first_step, "step_map"),
            ("--prompts", self.prompts, "prophet"),
        ):
            require(
                value is None or self.format == owner,
                f"{option}: expected nothing with --format {self.format}, which ignores it, got {value}",
            )
        require(
            self.format != "step_map" or self.first_step in step_map.FIRST_STEPS,
            "--first_step: expected 0 (dLLM-RL's LLaDA and Dream) or 1 (SDAR, T3D, tabom trajectories export), got "
            f"{self.first_step}; rows do not say whether a 0 is the first step or stands for never",
        )
        require(
            self.format != "prophet" or self.prompts is not None,
            "--prompts: expected a file with the prompt of each question, as the files have none, got nothing",
        )

    def parser(self, mask_token_id: int) -> Callable[[Mapping[str, Any]], list[Decoding]]:
        """What reads a row of the format.

        Args:
            mask_token_id: Of the model that decoded.

        Raises:
            TabomError: If ``prompts`` cannot be read.
        """
        options = Options(
            mask_token_id=mask_token_id,
            methods=tuple(self.methods),
            first_step=self.first_step,
            prompts={} if self.prompts is None else _prompts(self.prompts),
        )
        parse = FORMATS[self.format]
        return lambda content: parse(content, options)

    def settings(self, sources: Sequence[Mapping[str, str]]) -> dict[str, Any]:
        """What decides the rows, as a manifest has it; files by their names without folders.

        Args:
            sources: As an :class:`~tabom.trajectories.formats.report.ImportReport` has them.
        """
        options = ("block_length", "first_step", "response_length", "name", "revision", "mask_token")
        given = {name: getattr(self, name) for name in options if getattr(self, name) is not None}
        named = [
            {**source, "source": Path(source["source"]).name if source["sha256"] else source["source"]}
            for source in sources
        ]
        return {"imported_from": named, "format": self.format, **given}


def _check_format(name: str) -> None:
    if name == "dmax":
        raise TabomError(
            "--format dmax: expected trajectories, got questions and answers without tokens or steps, which is all "
            "that DMax's data sets hold; data.task QuestionFile or QuestionDataset reads them, and tabom predict "
            "decodes them"
        )
    if name not in FORMATS:
        raise TabomError(f"--format: expected one of {', '.join(FORMATS)}, got {name}")


def _prompts(path: Path) -> dict[int, str]:
    """Texts of a file of questions by their number, from 0."""
    prompts: dict[int, str] = {}
    for number, (place, row) in enumerate(read_text_rows(path)):
        try:
            found = next(filter(None, (text_of(row.get(key)) for key in ("prompt", "question"))), None)
        except ValueError as error:
            raise TabomError(f"{place}: {error}") from error
        if found is None:
            raise TabomError(f"{place}: expected text in prompt or question, found {', '.join(row)}")
        prompts[number] = found
    return prompts
