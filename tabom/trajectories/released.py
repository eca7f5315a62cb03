"""The trajectories that the authors of TABOM released: JSON Lines, one decoded response a line."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from tabom.errors import TabomError
from tabom.storage.rows import is_nothing, is_text, json_rows, text_of
from tabom.types import NEVER

_REFERENCE_KEYS = {
    "prompt": ("response", "output"),
    "instruction": ("output", "response"),
    "messages": (),
    "question": ("answer", "output", "response"),
}
"""Where a prompt may stand, in order of precedence, and the reference answer beside it."""

_VERDICT_KEYS = ("is_correct", "correct", "verified")
_ID_KEYS = ("id", "query_id")
_MAX_STEP = 2**31 - 1


@dataclass(frozen=True)
class ReleasedRow:
    """One trajectory that can be used.

    Attributes:
        line: In the file, from 1.
        query_id: The row's own, or a hash of the prompt; rows of one prompt share the id of their first, and others
            have another.
        sample: Number of the row among those of its prompt, from 0.
        is_verified: The row's own verdict; True where it has none or null, as only verified trajectories were released.
        prompt: Text of the prompt: all that the model saw, so conversations of several turns are left out.
        prompt_ids: Its tokens.
        reference: Reference answer, or "".
        response_ids: N tokens, filled up to the response budget.
        decoding_order: Step that revealed each of them, with gaps; ``NEVER`` where none did.
        non_ltr_positions: Response positions that the row lists as decoded out of order; None if it lists none.
    """

    line: int
    query_id: str
    sample: int
    is_verified: bool
    prompt: str
    prompt_ids: list[int]
    reference: str
    response_ids: list[int]
    decoding_order: list[int]
    non_ltr_positions: list[int] | None


@dataclass(frozen=True)
class Rejection:
    """One line that cannot be used.

    Attributes:
        line: In the file, from 1.
        reason: The same words for all lines with this fault.
        detail: What was found in this one.
    """

    line: int
    reason: str
    detail: str


class _UnusableError(Exception):
    """Reason and detail of a rejection."""


def read_released(
    lines: Iterable[bytes],
    *,
    vocabulary_size: int,
    methods: Sequence[str],
    encode_prompt: Callable[[str, str], list[int]],
) -> Iterator[ReleasedRow | Rejection]:
    """Judge row after row, as :func:`~tabom.storage.rows.json_rows` finds them. None stops the reading.

    Args:
        lines: Of the file: JSON Lines, or one JSON array.
        vocabulary_size: Token ids must lie below.
        methods: Values of ``method`` that are wanted; empty if all are.
        encode_prompt: Turns prompt and query id into tokens; a ``TabomError`` from it rejects the line.

    Yields:
        What each line holds. Usable rows are distinct, and as long as the first of them.
    """
    response_length: int | None = None
    query_ids: dict[str, str] = {}
    taken: set[str] = set()
    num_samples: Counter[str] = Counter()
    digests: set[bytes] = set()
    for line, row in json_rows(lines):
        try:
            content = _content(row, methods)
            prompt, reference = _prompt_and_reference(content)
            response_ids, order = _response(content, vocabulary_size, response_length)
            digest = hashlib.sha256(json.dumps([prompt, response_ids, order]).encode()).digest()
            _check(digest not in digests, "duplicate", "prompt, response and order of an earlier line")
            query_id = query_ids.get(prompt) or _query_id(content, prompt, line, taken)
            is_verified = _is_verified(content)
            prompt_ids = encode_prompt(prompt, query_id)
        except _UnusableError as error:
            yield Rejection(line, *error.args)
        except TabomError as error:
            yield Rejection(line, "prompt cannot be encoded", str(error))
        else:
            response_length = len(response_ids)
            query_ids[prompt] = query_id
            taken.add(query_id)
            digests.add(digest)
            positions = content.get("non_ltr_positions")
            yield ReleasedRow(
                line=line,
                query_id=query_id,
                sample=num_samples[prompt],
                is_verified=is_verified,
                prompt=prompt,
                prompt_ids=prompt_ids,
                reference=reference,
                response_ids=response_ids,
                decoding_order=order,
                non_ltr_positions=positions if _are_integers(positions) else None,
            )
            num_samples[prompt] += 1


def _check(condition: bool, reason: str, detail: str) -> None:
    if not condition:
        raise _UnusableError(reason, detail)


def _content(row: object, methods: Sequence[str]) -> dict[str, Any]:
    if isinstance(row, ValueError):
        raise _UnusableError("no JSON object", str(row))
    if not isinstance(row, dict):
        raise _UnusableError("no JSON object", f"got {type(row).__name__}")
    method = row.get("method")
    _check(not methods or method in methods, "method not asked for", f"got {method!r}")
    return row


def _prompt_and_reference(content: Mapping[str, Any]) -> tuple[str, str]:
    for key, reference_keys in _REFERENCE_KEYS.items():
        if key == "messages":
            prompt, reference = _turns(content)
        else:
            prompt = _text(content, key)
            reference = next((text for name in reference_keys if (text := _text(content, name))), "")
        if prompt:
            has_more = key == "instruction" and _text(content, "input")
            _check(not has_more, "instruction with an input", "expected both in one text, as prompt")
            return prompt, reference
    raise _UnusableError("no prompt", f"expected text in one of {', '.join(_REFERENCE_KEYS)}")


def _text(content: Mapping[str, Any], key: str) -> str:
    """Text or number under a key; empty where there is nothing."""
    try:
        return text_of(content.get(key)) or ""
    except ValueError as error:
        raise _UnusableError(f"{key} is no text", str(error)) from error


def _turns(content: Mapping[str, Any]) -> tuple[str, str]:
    """Text of the user and of the assistant in a conversation of one question; empty where there is none."""
    messages = content.get("messages")
    if not isinstance(messages, list):
        return "", ""
    roles = [message.get("role") if isinstance(message, dict) else None for message in messages]
    is_question = roles in ([], ["user"], ["user", "assistant"])
    _check(is_question, "messages are more than a question and an answer", f"got {roles!r:.80}")
    prompt, reference, *_ = [*(_text(message, "content") for message in messages), "", ""]
    return prompt, reference


def _is_verified(content: Mapping[str, Any]) -> bool:
    for key in _VERDICT_KEYS:
        verdict = content.get(key)
        if not is_nothing(verdict):
            _check(verdict in (True, False), f"{key} is neither true nor false", f"got {verdict!r:.80}")
            return bool(verdict)
    return True


def _response(
    content: Mapping[str, Any], vocabulary_size: int, response_length: int | None
) -> tuple[list[int], list[int]]:
    ids, order = _integers(content, "response_token_ids"), _integers(content, "decoding_order")
    _check(
        len(ids) == len(order),
        "response_token_ids and decoding_order differ in length",
        f"got {len(ids)} and {len(order)}",
    )
    _check(
        response_length in (None, len(ids)),
        "response of another length than the first",
        f"expected {response_length} tokens, got {len(ids)}",
    )
    foreign = [i for i in ids if not 0 <= i < vocabulary_size]
    _check(
        not foreign, "token outside the tokenizer", f"expected ids from 0 to {vocabulary_size - 1}, got {foreign[:1]}"
    )
    wrong = [step for step in order if not NEVER <= step <= _MAX_STEP]
    _check(not wrong, "decoding_order holds no step", f"expected {NEVER} or a step from 0, got {wrong[:1]}")
    _check(any(step != NEVER for step in order), "no position decoded", f"every step is {NEVER}")
    return ids, order


def _query_id(content: Mapping[str, Any], prompt: str, line: int, taken: Collection[str]) -> str:
    own = [str(content[key]) for key in _ID_KEYS if type(content.get(key)) is int or is_text(content.get(key))]
    query_id = own[0] if own else f"{hashlib.sha256(prompt.encode()).hexdigest()[:16]}"
    while query_id in taken:
        query_id += f"/{line}"
    return query_id


def _integers(content: Mapping[str, Any], key: str) -> list[int]:
    values = content.get(key)
    if not _are_integers(values):
        found = "nothing" if values is None else type(values).__name__
        raise _UnusableError(f"{key} is no list of integers", f"got {found}")
    return values


def _are_integers(value: object) -> TypeGuard[list[int]]:
    return isinstance(value, list) and all(type(item) is int for item in value)
