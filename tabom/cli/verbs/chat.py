"""Talk to a model; on a terminal its answers fill in step by step, in the order of their decoding.

/reset begins a new conversation, /quit or Ctrl-D ends the chat.
"""

import argparse
import signal
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tabom.cli.verbs.model_options import add_options, check_options, load_chosen
from tabom.errors import TabomError

if TYPE_CHECKING:
    from tabom.cli.verbs.answers import Answers

_COMMANDS = ("/reset", "/quit")


def parser() -> argparse.ArgumentParser:
    """Options of ``tabom chat``."""
    options = argparse.ArgumentParser("tabom chat", description=__doc__)
    add_options(options)
    return options


def run(words: Sequence[str]) -> None:
    """``tabom chat``."""
    arguments = parser().parse_args(words)
    check_options(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ctrl-C ends a chat, which is no failure
    try:
        from rich.console import Console

        from tabom.cli.verbs.answers import Answers

        is_watched = Console().is_interactive and not arguments.is_json
        chosen = load_chosen(arguments)
        if not chosen.is_chat:
            _say("each turn is answered alone, since the tokenizer has no chat template or none is asked for")
        _talk(Answers(chosen, is_json=arguments.is_json, is_watched=is_watched), is_chat=chosen.is_chat)
    except (EOFError, KeyboardInterrupt):
        if sys.stdin.isatty():
            print()


def _talk(answers: "Answers", *, is_chat: bool) -> None:
    """Answer line by line."""
    if sys.stdin.isatty():
        import readline  # noqa: F401, lets one edit the line

        _say(f"{', '.join(_COMMANDS)} and Ctrl-D are understood; all else is for the model")
    turns: list[dict[str, str]] = []
    number = 0
    while True:
        text = input("> " if sys.stdin.isatty() else "").strip()
        if text == "/quit":
            return
        if text == "/reset":
            turns = []
        elif text.startswith("/") and " " not in text:
            _say(f"{text}: expected one of {', '.join(_COMMANDS)}")
        elif text:
            number += 1
            asked = [*turns, {"role": "user", "content": text}]
            try:
                (answer,) = answers.show([asked if is_chat else text], [f"turn {number}"])
            except TabomError as error:
                _say(f"{error}{'; /reset begins a new conversation' if turns else ''}")
            else:
                turns = [*asked, {"role": "assistant", "content": answer.text}]


def _say(text: str) -> None:
    print(f"tabom: {text}", file=sys.stderr, flush=True)
