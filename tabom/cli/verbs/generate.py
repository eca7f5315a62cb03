"""Decode prompts with a model; on a terminal the response fills in step by step, in the order of its decoding."""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from tabom.cli.verbs.model_options import add_options, check_options, load_chosen
from tabom.errors import check_range, require
from tabom.storage.rows import is_text, read_text_rows

if TYPE_CHECKING:
    from tabom.data.encoding import Conversation

_TABLES = (".jsonl", ".json", ".csv", ".gz")
_BATCH_SIZE = 8
"""Prompts that are decoded together where nobody watches."""


class _Prompt(NamedTuple):
    name: str
    content: "str | Conversation"


def parser() -> argparse.ArgumentParser:
    """Options of ``tabom generate``."""
    options = argparse.ArgumentParser("tabom generate", description=__doc__)
    add_options(options)
    what = options.add_argument_group("prompts").add_mutually_exclusive_group(required=True)
    what.add_argument("--prompt", nargs="+", metavar="TEXT", help="one or several")
    what.add_argument(
        "--file",
        metavar="FILE",
        help="one prompt per line; of JSON Lines, JSON and CSV the column prompt, or messages; - is standard input",
    )
    options.add_argument(
        "--batch_size", type=int, metavar="N", help=f"prompts at a time (1 on a terminal, else {_BATCH_SIZE})"
    )
    return options


def run(words: Sequence[str]) -> None:
    """``tabom generate``."""
    arguments = parser().parse_args(words)
    check_options(arguments)
    check_range("--batch_size", arguments.batch_size, least=1)
    prompts = _given(arguments.prompt) if arguments.file is None else read_prompts(arguments.file)

    from rich.console import Console

    from tabom.cli.verbs.answers import Answers
    from tabom.reporting.progress import Display

    is_watched = Console().is_interactive and not arguments.is_json and arguments.batch_size in (None, 1)
    size = 1 if is_watched else arguments.batch_size or _BATCH_SIZE
    answers = Answers(load_chosen(arguments), is_json=arguments.is_json, is_watched=is_watched)
    display = Display(Console(stderr=True), is_shown=len(prompts) > size and not is_watched)
    task = display.add("Decoding", len(prompts), "prompts")
    try:
        for start in range(0, len(prompts), size):
            names, contents = zip(*prompts[start : start + size], strict=True)
            if is_watched and len(prompts) > 1:
                print(f"{names[0]}:")
            answers.show(contents, names)
            display.update(task, start + len(names))
    finally:
        display.close()


def read_prompts(file: str) -> list[_Prompt]:
    """Prompts of a file by its lines or rows, which name them.

    Args:
        file: Text with one prompt per line; JSON Lines, JSON or CSV with a column ``prompt``, or ``messages`` with the
            turns of a chat; ``-`` for lines of standard input.

    Raises:
        TabomError: If there is no such file, it holds no prompt, or a row is none.
    """
    path = Path(file)
    require(file == "-" or path.is_file(), f"{file}: expected a file of prompts, found no such file")
    if path.suffix.lower() in _TABLES:
        prompts = [
            _Prompt(f"{path.name}:{where.rpartition(':')[2]}", _content(where, row))
            for where, row in read_text_rows(path)
        ]
    else:
        lines = (sys.stdin.read() if file == "-" else path.read_text(encoding="utf-8-sig")).splitlines()
        prompts = [_Prompt(f"{path.name}:{number}", line) for number, line in enumerate(lines, 1) if line.strip()]
    require(len(prompts) > 0, f"{file}: expected at least one prompt, found none")
    return prompts


def _given(texts: Sequence[str]) -> list[_Prompt]:
    for text in texts:
        require(bool(text.strip()), f"--prompt: expected text, got {text!r}")
    return [_Prompt(f"prompt {number}", text) for number, text in enumerate(texts, 1)]


def _content(where: str, row: Mapping[str, object]) -> "str | Conversation":
    turns = row.get("messages")
    if turns is not None:
        is_chat = isinstance(turns, list) and len(turns) > 0 and all(map(_is_turn, turns))
        require(is_chat, f"{where}: messages: expected a list of turns with role and content as text, got {turns!r}")
        return cast("Conversation", turns)
    text = row.get("prompt")
    require(is_text(text), f"{where}: expected text under the key prompt, or turns under messages, got {text!r}")
    return str(text)


def _is_turn(turn: object) -> bool:
    return isinstance(turn, dict) and is_text(turn.get("role")) and is_text(turn.get("content"))
