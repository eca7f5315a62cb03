"""Which rows can be used: all of one length, with tokens that the tokenizer has, and each there once."""

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tabom.errors import TabomError
from tabom.trajectories.formats.decoding import Decoding, UnusableError, check
from tabom.types import NEVER


@dataclass(frozen=True)
class ImportedRow:
    """One trajectory that can be used.

    Attributes:
        place: File and line, or file and row.
        query_id: The row's own, or a hash of the prompt; rows of one prompt share the id of their first, and others
            have another.
        sample: Number of the row among those of its prompt, from 0.
        is_verified: The row's own verdict; True where it has none or null.
        prompt: Text of the prompt.
        prompt_ids: Tokens that the model saw.
        reference: Reference answer, or "".
        response_ids: N tokens, filled up to the response budget.
        decoding_order: Step that revealed each of them, with gaps; ``NEVER`` where none did.
        non_ltr_positions: Response positions that the row lists as decoded out of order; None if it lists none.
    """

    place: str
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
    """One row that cannot be used.

    Attributes:
        place: File and line, or file and row.
        reason: The same words for all rows with this fault.
        detail: What was found in this one.
    """

    place: str
    reason: str
    detail: str


@dataclass(frozen=True)
class Codec:
    """What a tokenizer does.

    Attributes:
        vocabulary_size: Token ids must lie below.
        mask_token_id: No usable row holds it.
        eos_token_id: Fills up short responses.
        encode_prompt: Turns a question and its query id into tokens; a ``TabomError`` from it rejects the row.
        encode_text: Likewise, a text as the model saw or wrote it, with its special tokens.
    """

    vocabulary_size: int
    mask_token_id: int
    eos_token_id: int
    encode_prompt: Callable[[str, str], list[int]]
    encode_text: Callable[[str, str], list[int]]


def usable_rows(
    found: Iterable[tuple[str, object]],
    parse: Callable[[Mapping[str, Any]], list[Decoding]],
    codec: Codec,
    *,
    response_length: int | None = None,
) -> Iterator[ImportedRow | Rejection]:
    """Judge row after row. None stops the reading.

    Args:
        found: Place and row, or in the place of what cannot be read a ``ValueError``.
        parse: Of the format: the decodings of a row; an ``UnusableError`` or ``TabomError`` from it rejects the row.
        codec: Of the model that decoded.
        response_length: N: shorter responses are filled with end-of-sequence tokens that no step revealed. None: all
            have to be as long as the first usable one.

    Yields:
        What each row holds: one of them for a row that is rejected, else one for each of its decodings. Usable ones are
        distinct, and of one length.
    """
    judge = _Judge(codec, response_length)
    for place, row in found:
        try:
            decoded = parse(_content(row))
        except UnusableError as error:
            yield Rejection(place, *error.args)
            continue
        for decoding in decoded:
            try:
                yield judge.usable(place, decoding)
            except UnusableError as error:
                yield Rejection(place, *error.args)


def _content(row: object) -> Mapping[str, Any]:
    if isinstance(row, ValueError):
        raise UnusableError("no JSON object", str(row))
    if not isinstance(row, dict):
        raise UnusableError("no JSON object", f"got {type(row).__name__}")
    return row


class _Judge:
    """Remembers what the rows before one have to say about it."""

    def __init__(self, codec: Codec, response_length: int | None) -> None:
        self._codec = codec
        self._fills = response_length is not None
        self._response_length = response_length
        self._query_ids: dict[str, str] = {}
        self._taken: set[str] = set()
        self._num_samples: Counter[str] = Counter()
        self._digests: set[bytes] = set()
        self._number = 0

    def usable(self, place: str, decoding: Decoding) -> ImportedRow:
        """The row with its tokens, of the right length.

        Raises:
            UnusableError: If there is no such thing.
        """
        self._number += 1
        prompt = decoding.prompt
        response_ids, order = self._response(decoding, place)
        digest = hashlib.sha256(json.dumps([prompt, response_ids, order]).encode()).digest()
        check(digest not in self._digests, "duplicate", "prompt, response and order of an earlier line")
        query_id = self._query_ids.get(prompt) or self._query_id(decoding)
        prompt_ids = self._prompt(decoding, query_id)
        self._response_length = len(response_ids)
        self._query_ids[prompt] = query_id
        self._taken.add(query_id)
        self._digests.add(digest)
        self._num_samples[prompt] += 1
        return ImportedRow(
            place=place,
            query_id=query_id,
            sample=self._num_samples[prompt] - 1,
            is_verified=decoding.is_verified,
            prompt=prompt,
            prompt_ids=prompt_ids,
            reference=decoding.reference,
            response_ids=response_ids,
            decoding_order=order,
            non_ltr_positions=decoding.non_ltr_positions,
        )

    def _response(self, decoding: Decoding, place: str) -> tuple[list[int], list[int]]:
        ids, order, expected = decoding.response, decoding.order, self._response_length
        if isinstance(ids, str):
            ids = _encoded(self._codec.encode_text, ids, place, "response cannot be encoded")
        check(
            len(ids) == len(order),
            "response is not as many tokens as it has steps",
            f"got {len(ids)} tokens and {len(order)} steps",
        )
        if expected is not None and self._fills and len(ids) < expected:
            num_missing = expected - len(ids)
            ids, order = ids + [self._codec.eos_token_id] * num_missing, order + [NEVER] * num_missing
        check(
            expected in (None, len(ids)),
            "response longer than --response_length" if self._fills else "response of another length than the first",
            f"expected {expected} tokens, got {len(ids)}",
        )
        self._check_ids(ids, "response")
        return ids, order

    def _prompt(self, decoding: Decoding, query_id: str) -> list[int]:
        ids, expected = decoding.prompt_ids, decoding.num_prompt_tokens
        if ids is None and decoding.model_prompt is None:
            ids = _encoded(self._codec.encode_prompt, decoding.prompt, query_id, "prompt cannot be encoded")
        elif ids is None:
            ids = _encoded(self._codec.encode_text, decoding.model_prompt or "", query_id, "prompt cannot be encoded")
        check(
            expected in (None, len(ids)),
            "prompt of another length than the row says",
            f"expected {expected} tokens, got {len(ids)}",
        )
        check(len(ids) > 0, "no prompt", "expected at least one token")
        self._check_ids(ids, "prompt")
        return ids

    def _check_ids(self, ids: list[int], what: str) -> None:
        size, mask = self._codec.vocabulary_size, self._codec.mask_token_id
        foreign = [i for i in ids if not 0 <= i < size]
        check(not foreign, "token outside the tokenizer", f"expected ids from 0 to {size - 1}, got {foreign[:1]}")
        if mask in ids:
            raise UnusableError(f"mask token in the {what}", f"got {mask} at position {ids.index(mask)}")

    def _query_id(self, decoding: Decoding) -> str:
        query_id = decoding.query_id or hashlib.sha256(decoding.prompt.encode()).hexdigest()[:16]
        while query_id in self._taken:
            query_id += f"/{self._number}"
        return query_id


def _encoded(encode: Callable[[str, str], list[int]], text: str, name: str, reason: str) -> list[int]:
    try:
        return encode(text, name)
    except TabomError as error:
        raise UnusableError(reason, str(error)) from error
