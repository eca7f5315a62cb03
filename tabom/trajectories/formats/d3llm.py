"""The format ``d3llm``: whole canvases after every step, as d3LLM's trajectories of LLaDA and Dream have them.

A row has ``question``, ``prompt_ids``, ``trajectory`` (a list of canvases, prompt included, of which the first is the
one after the first step) and ``final_output``.

References:
    hao-ai-lab/d3LLM at commit e5bfcac, ``distill_1_data_prepare``.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tabom.trajectories.formats.decoding import (
    Decoding,
    Options,
    UnusableError,
    are_integers,
    check,
    check_steps,
    integers,
    no_integers,
    own_id,
    text,
    verdict,
)
from tabom.types import NEVER


def decodings(content: Mapping[str, Any], options: Options) -> list[Decoding]:
    """The decoding of a row: a position was revealed before the first canvas that has no mask there.

    A position that changes once it was revealed is refused, as a trajectory reveals each position once. ``is_correct``
    is always true in d3LLM's trajectories of Dream, which checked no answers.
    """
    question = text(content, "question")
    check(bool(question), "no prompt", "expected text in question")
    prompt_ids, final = integers(content, "prompt_ids"), integers(content, "final_output")
    check(len(final) > len(prompt_ids), "no response", f"got {len(final)} tokens, all of the prompt")
    canvases = content.get("trajectory")
    if not isinstance(canvases, list) or not canvases:
        raise no_integers("trajectory", canvases or None)
    for canvas in canvases:
        if not are_integers(canvas):
            raise no_integers("canvas of trajectory", canvas)
        check(
            len(canvas) == len(final),
            "canvas of another length than final_output",
            f"expected {len(final)} tokens, got {len(canvas)}",
        )
        check(
            canvas[: len(prompt_ids)] == prompt_ids,
            "canvas that does not begin with prompt_ids",
            f"expected {str(prompt_ids[:4])[:-1]} ..., got {str(canvas[:4])[:-1]} ...",
        )
    check(canvases[-1] == final, "final_output is not the last canvas", "expected the same tokens in both")
    states = np.array(canvases)[:, len(prompt_ids) :]
    is_revealed = states != options.mask_token_id
    was_changed = is_revealed[:-1] & (states[:-1] != states[1:])
    for step, position in np.argwhere(was_changed)[:1].tolist():
        before, after = states[step : step + 2, position].tolist()
        raise UnusableError(
            "position revealed more than once",
            f"position {position} of the response became {after} in canvas {step + 1}, from {before}",
        )
    order = np.where(is_revealed.any(0), is_revealed.argmax(0), NEVER).tolist()
    check_steps(order, "trajectory")
    return [
        Decoding(
            prompt=question,
            prompt_ids=prompt_ids,
            response=final[len(prompt_ids) :],
            order=order,
            is_verified=verdict(content, "is_correct"),
            reference=text(content, "gt_answer"),
            query_id=own_id(content, "idx"),
        )
    ]
