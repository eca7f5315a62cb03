"""The format ``step_map``: texts, and the step of every token of the response, as dLLM-RL and T3D have them.

It holds no tokens, so texts are tokenised again, and a row is refused where the response is not as many tokens as its
``step_map``. Three layouts are known by their keys:

* ``prompt``, ``response``, ``step_map``: one response, and the prompt as the model saw it; ``reward`` above 0 is a
  correct one (``rl_data`` of dLLM-RL, and what :func:`row_of` makes).
* ``prompt``, ``full_output``, ``step_map``: lists over the responses to a question (``outputs`` of dLLM-RL). Correct
  ones are told by ``correctness``, or else by ``extracted_output``, which is then ``ground_truth_answer``.
* ``question``, ``answer``, ``step_map``: the question as it is put into the chat template (T3D); no verdict.

References:
    Gen-Verse/dLLM-RL at commit 10b4fd1, ``sample``; Tyrion58/T3D at commit 330e9c6.
"""

from collections.abc import Mapping
from typing import Any

from tabom.trajectories.formats.decoding import (
    Decoding,
    Options,
    UnusableError,
    are_integers,
    check,
    check_steps,
    no_integers,
    own_id,
    text,
)
from tabom.types import NEVER, TrajectoryRow

FIRST_STEPS = (0, 1)
EXPORTED_FIRST_STEP = 1
"""The one that tells a position that was never revealed from one of the first step."""

_RESPONSES = {"full_output": "prompt", "response": "prompt", "answer": "question"}
"""Where responses stand, and the prompt beside them."""


def decodings(content: Mapping[str, Any], options: Options) -> list[Decoding]:
    """The decodings of a row."""
    key = next((name for name in _RESPONSES if name in content), None)
    if key is None or "step_map" not in content:
        found = ", ".join(map(str, content)) or "none"
        raise UnusableError("keys of no known layout", f"expected step_map with response or others, got {found:.120}")
    prompt = text(content, _RESPONSES[key])
    check(bool(prompt), "no prompt", f"expected text in {_RESPONSES[key]}")
    responses, maps = content[key], content["step_map"]
    if not isinstance(responses, list):
        responses, maps = [responses], [maps] if are_integers(maps) else maps
    check(
        isinstance(maps, list) and len(maps) == len(responses),
        f"{key} and step_map differ in number",
        f"got {len(responses)} and {len(maps) if isinstance(maps, list) else type(maps).__name__}",
    )
    verdicts = _verdicts(content, len(responses))
    return [
        Decoding(
            prompt=text(content, "question") or prompt,
            model_prompt=None if key == "answer" else prompt,
            response=text({key: response}, key),
            order=_order(steps, options),
            is_verified=is_verified,
            reference=text(content, "ground_truth_answer"),
            query_id=own_id(content, "query_id", "task_id"),
        )
        for response, steps, is_verified in zip(responses, maps, verdicts, strict=True)
    ]


def row_of(row: TrajectoryRow, prompt: str, response: str) -> dict[str, Any]:
    """A row of the first layout; its steps count from 1, 0 is never.

    Args:
        row: A trajectory.
        prompt: Text of its prompt's tokens, special ones included.
        response: Likewise, of all N tokens of its response.
    """
    return {
        "prompt": prompt,
        "response": response,
        "step_map": [step + EXPORTED_FIRST_STEP for step in row.unmask_step],
        "reward": 1.0 if row.is_verified else -1.0,
        "question": row.prompt,
        "ground_truth_answer": row.reference,
        "query_id": row.query_id,
    }


def _order(steps: object, options: Options) -> list[int]:
    if not are_integers(steps):
        raise no_integers("step_map", steps)
    first = options.first_step
    assert first is not None
    order = [step - first for step in steps]
    check_steps(order, "step_map")
    check(
        min(step for step in order if step != NEVER) == 0,
        f"step_map does not begin with step {first}",
        f"got {sorted(set(steps))[:4]}; --first_step says which number the first step has",
    )
    return order


def _verdicts(content: Mapping[str, Any], number: int) -> list[bool]:
    """Of each response."""
    reward, correct = content.get("reward"), content.get("correctness")
    extracted, truth = content.get("extracted_output"), text(content, "ground_truth_answer")
    if isinstance(reward, int | float):
        return [reward > 0] * number
    if isinstance(correct, list):
        check(
            len(correct) == number and all(value in (True, False) for value in correct),
            "correctness does not say true or false for each response",
            f"got {correct!r:.80}",
        )
        return [bool(value) for value in correct]
    if isinstance(extracted, list) and truth:
        check(
            len(extracted) == number,
            "extracted_output and responses differ in number",
            f"got {len(extracted)} and {number}",
        )
        return [str(answer).strip() == truth.strip() for answer in extracted]
    return [True] * number
