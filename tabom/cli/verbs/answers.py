"""Answers on standard output: step by step on a terminal, else as text, or as JSON for scripts."""

import contextlib
import json
import sys
import time
from collections.abc import Sequence
from math import isnan
from typing import TYPE_CHECKING, Any

from tabom.cli.verbs.trajectory_show import colour

if TYPE_CHECKING:
    from rich.text import Text

    from tabom.cli.verbs.model_options import Chosen
    from tabom.data.encoding import Conversation
    from tabom.generation import Generation, Model
    from tabom.samplers.trace import Canvas

_MASK = "·"
_REFRESHES_PER_SECOND = 12


class Answers:
    """Decodes prompts and shows what came out.

    Args:
        chosen: What decodes.
        is_json: Whether each answer is a JSON object on a line of its own.
        is_watched: Whether the steps are shown; there has to be a terminal.
    """

    def __init__(self, chosen: "Chosen", *, is_json: bool, is_watched: bool) -> None:
        self._chosen, self._is_json, self._is_watched = chosen, is_json, is_watched
        self._file = None if sys.stdout.isatty() else sys.stdout  # a bar on stderr would take what is printed to it

    def show(self, prompts: "Sequence[str | Conversation]", names: Sequence[str]) -> "list[Generation]":
        """Decode some prompts together, and write their answers.

        Args:
            prompts: Texts or conversations; one alone where the steps are shown.
            names: Of the prompts, in messages.

        Raises:
            TabomError: If one of them cannot be decoded.
        """
        model, length, is_chat = self._chosen
        view = _View(model, length) if self._is_watched else None
        start = time.monotonic()
        with contextlib.nullcontext() if view is None else view.live:
            answers = model.generate(
                prompts,
                response_length=length,
                chat=is_chat,
                names=names,
                on_step=None if view is None else view.step,
            )
        seconds = time.monotonic() - start
        for prompt, answer in zip(prompts, answers, strict=True):
            if view is not None:
                view.finish(answer, seconds)
            elif self._is_json:
                print(json.dumps(_row(prompt, answer, seconds), ensure_ascii=False), file=self._file, flush=True)
            else:
                print(answer.text, file=self._file, flush=True)
        return answers


class _View:
    """The canvas of one response: dots are masked, colours go by the step, what the last step revealed stands out.

    Args:
        model: Decodes it.
        response_length: Its tokens.

    Attributes:
        live: The part of the terminal that is redrawn.
    """

    def __init__(self, model: "Model", response_length: int) -> None:
        from rich.console import Console
        from rich.live import Live

        num_steps = model.sampler.num_steps(response_length, model.backbone.block_size)
        self._tokenizer, self._last = model.tokenizer, max(num_steps - 1, 1)
        self._special = frozenset(model.tokenizer.all_special_ids)
        self._pieces: dict[int, str] = {}
        self._shown = 0.0
        self._console = Console(highlight=False, markup=False, soft_wrap=True)
        self.live = Live(console=self._console, auto_refresh=False, transient=True)

    def step(self, canvas: "Canvas") -> None:
        """Show what there is after a step, if the eye can follow."""
        now = time.monotonic()
        if now - self._shown >= 1 / _REFRESHES_PER_SECOND:
            self._shown = now
            self.live.update(self.drawn(canvas.response_ids[0].tolist(), canvas.unmask_step[0].tolist()), refresh=True)

    def finish(self, answer: "Generation", seconds: float) -> None:
        """Print the text, in the colours of its steps where its tokens make it up one by one; and what it took."""
        from rich.text import Text

        pairs = zip(answer.response_ids, answer.unmask_step, strict=True)
        pieces = [(self._piece(token), self._style(step)) for token, step in pairs if token not in self._special]
        text = _printable(answer.text)
        is_whole = "".join(piece for piece, _ in pieces) == text
        self._console.print(Text.assemble(*pieces) if is_whole else text)
        num_tokens = sum(not isnan(entropy) for entropy in answer.unmask_entropy)
        self._console.print(f"{num_tokens:,} tokens in {answer.num_steps:,} steps, {seconds:.1f} s", style="dim")

    def drawn(self, ids: Sequence[int], steps: Sequence[int]) -> "Text":
        """Tokens, with the step that revealed each."""
        from rich.text import Text

        from tabom.types import NEVER

        text, newest = Text(), max(steps)
        for token, step in zip(ids, steps, strict=True):
            if step == NEVER:
                text.append(_MASK, "dim")
            else:
                style = "dim" if token in self._special else self._style(step)
                text.append(self._piece(token), f"reverse {style}" if step == newest else style)
        return text

    def _style(self, step: int) -> str:
        return colour(step / self._last)

    def _piece(self, token: int) -> str:
        if token not in self._pieces:
            self._pieces[token] = _printable(str(self._tokenizer.decode([token])))
        return self._pieces[token]


def _printable(text: str) -> str:
    """Without what a terminal would take for commands."""
    return "".join(character if character.isprintable() or character in "\n\t" else "\ufffd" for character in text)


def _row(prompt: "str | Conversation", answer: "Generation", seconds: float) -> dict[str, Any]:
    return {
        "prompt": prompt,
        "response": answer.text,
        "tokens": answer.response_ids,
        "unmask_step": answer.unmask_step,
        "unmask_entropy": [None if isnan(entropy) else entropy for entropy in answer.unmask_entropy],
        "steps": answer.num_steps,
        "seconds": round(seconds, 3),
    }
