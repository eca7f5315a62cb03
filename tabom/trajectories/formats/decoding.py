"""What every format's reader finds in a row, and how it refuses one."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from tabom.storage.rows import is_nothing, is_text, text_of
from tabom.types import NEVER

_MAX_STEP = 2**31 - 1


class UnusableError(Exception):
    """Reason of a refusal, the same words for all rows with this fault, and what was found in this one."""


@dataclass(frozen=True)
class Options:
    """What a format does not say of itself, and the command line does.

    Attributes:
        mask_token_id: Of the model that decoded.
        methods: Values of ``method`` that are wanted, in the format ``tabom``; empty if all are.
        first_step: Number of the first step, in the format ``step_map``: 0, which is also that of a position that was
            never revealed, or 1, where 0 means never. None in the other formats.
        prompts: What the user says by the number of the question, in the format ``prophet``.
    """

    mask_token_id: int
    methods: tuple[str, ...] = ()
    first_step: int | None = None
    prompts: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Decoding:
    """One decoded response, as a row of a format tells it.

    Attributes:
        prompt: Text of the question.
        response: N tokens, or a text of N tokens.
        order: Step that revealed each of them, with gaps; ``NEVER`` where none did.
        prompt_ids: What the model saw, if the row has its tokens.
        model_prompt: What the model saw as text, template included; None where ``prompt`` has to be put into the
            tokenizer's template, unless there are tokens.
        num_prompt_tokens: How many the model saw, if the row says it.
        is_verified: The row's own verdict; True where it has none.
        reference: Reference answer, or "".
        query_id: The row's own, or "".
        non_ltr_positions: Response positions that the row lists as decoded out of order; None if it lists none.
    """

    prompt: str
    response: list[int] | str
    order: list[int]
    prompt_ids: list[int] | None = None
    model_prompt: str | None = None
    num_prompt_tokens: int | None = None
    is_verified: bool = True
    reference: str = ""
    query_id: str = ""
    non_ltr_positions: list[int] | None = None


def check(condition: bool, reason: str, detail: str) -> None:
    """Raise ``UnusableError`` unless ``condition`` holds."""
    if not condition:
        raise UnusableError(reason, detail)


def integers(content: Mapping[str, Any], key: str) -> list[int]:
    """The list of whole numbers under a key."""
    values = content.get(key)
    if not are_integers(values):
        raise no_integers(key, values)
    return values


def no_integers(name: str, value: object) -> UnusableError:
    """The refusal of what should be a list of whole numbers."""
    return UnusableError(
        f"{name} is no list of integers", f"got {'nothing' if value is None else type(value).__name__}"
    )


def are_integers(value: object) -> TypeGuard[list[int]]:
    """Whether a value is a list of whole numbers."""
    return isinstance(value, list) and all(type(item) is int for item in value)


def check_steps(order: list[int], name: str) -> None:
    """Refuse steps that are none, or that reveal nothing."""
    wrong = [step for step in order if not NEVER <= step <= _MAX_STEP]
    check(not wrong, f"{name} holds no step", f"expected {NEVER} or a step from 0, got {wrong[:1]}")
    check(any(step != NEVER for step in order), "no position decoded", f"every step is {NEVER}")


def text(content: Mapping[str, Any], key: str) -> str:
    """Text or number under a key; empty where there is nothing."""
    try:
        return text_of(content.get(key)) or ""
    except ValueError as error:
        raise UnusableError(f"{key} is no text", str(error)) from error


def verdict(content: Mapping[str, Any], *keys: str) -> bool:
    """What the first of the keys that holds a verdict says; True where none does."""
    for key in keys:
        value = content.get(key)
        if not is_nothing(value):
            check(value in (True, False), f"{key} is neither true nor false", f"got {value!r:.80}")
            return bool(value)
    return True


def own_id(content: Mapping[str, Any], *keys: str) -> str:
    """The row's own query id: the first of the keys that holds a text or a whole number; empty without one."""
    values = (content.get(key) for key in keys)
    return next((str(value) for value in values if type(value) is int or is_text(value)), "")
