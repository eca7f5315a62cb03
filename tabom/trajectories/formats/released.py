"""The format ``tabom``: the trajectories that its authors released, one decoded response a row.

A row has ``response_token_ids`` and ``decoding_order``, and the prompt as text.
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
    integers,
    own_id,
    text,
    verdict,
)

_REFERENCE_KEYS = {
    "prompt": ("response", "output"),
    "instruction": ("output", "response"),
    "messages": (),
    "question": ("answer", "output", "response"),
}
"""Where a prompt may stand, in order of precedence, and the reference answer beside it."""


def decodings(content: Mapping[str, Any], options: Options) -> list[Decoding]:
    """The decoding of a row.

    A row without a verdict counts as verified, as only verified trajectories were released. The prompt is all that the
    model saw, so conversations of several turns are refused.
    """
    method = content.get("method")
    check(not options.methods or method in options.methods, "method not asked for", f"got {method!r}")
    prompt, reference = prompt_and_reference(content)
    ids, order = integers(content, "response_token_ids"), integers(content, "decoding_order")
    check(
        len(ids) == len(order),
        "response_token_ids and decoding_order differ in length",
        f"got {len(ids)} and {len(order)}",
    )
    check_steps(order, "decoding_order")
    positions = content.get("non_ltr_positions")
    return [
        Decoding(
            prompt=prompt,
            response=ids,
            order=order,
            is_verified=verdict(content, "is_correct", "correct", "verified"),
            reference=reference,
            query_id=own_id(content, "id", "query_id"),
            non_ltr_positions=positions if are_integers(positions) else None,
        )
    ]


def prompt_and_reference(content: Mapping[str, Any]) -> tuple[str, str]:
    """Text of the prompt, and the reference answer beside it, or ""."""
    for key, reference_keys in _REFERENCE_KEYS.items():
        if key == "messages":
            prompt, reference = _turns(content)
        else:
            prompt = text(content, key)
            reference = next((found for name in reference_keys if (found := text(content, name))), "")
        if prompt:
            has_more = key == "instruction" and text(content, "input")
            check(not has_more, "instruction with an input", "expected both in one text, as prompt")
            return prompt, reference
    raise UnusableError("no prompt", f"expected text in one of {', '.join(_REFERENCE_KEYS)}")


def _turns(content: Mapping[str, Any]) -> tuple[str, str]:
    """Text of the user and of the assistant in a conversation of one question; empty where there is none."""
    messages = content.get("messages")
    if not isinstance(messages, list):
        return "", ""
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    is_question = roles in ([], ["user"], ["user", "assistant"])
    check(is_question, "messages are more than a question and an answer", f"got {roles!r:.80}")
    prompt, reference, *_ = [*(text(message, "content") for message in messages), "", ""]
    return prompt, reference
