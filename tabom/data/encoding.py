"""From examples to token rows, from rows to padded batches."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tabom.data.tokenizer import ends_of_turn
from tabom.errors import TabomError, require
from tabom.functional.end_of_sequence import until_eos
from tabom.types import NEVER, NO_TOKEN, Example, PromptBatch, SpecialIds, TrajectoryBatch

Tokens = Sequence[int] | npt.NDArray[np.integer]
"""Token ids, or steps, of one sequence."""
Conversation = Sequence[Mapping[str, str]]
"""Turns of a chat, each with ``role`` (``system``, ``user`` or ``assistant``) and ``content``."""


@dataclass(frozen=True)
class Row:
    """One sequence in tokens.

    Attributes:
        query_id: Named in error messages.
        prompt_ids: Visible tokens.
        response_ids: x0 of the response, filled with end-of-sequence tokens up to the budget where there is one.
        unmask_step: Of each response token, or empty where the data have no order.
        unmask_entropy: Likewise, in nats.
        number: Of the row in the training data, which its random draws belong to.
        block_length: Response tokens that were decoded before any to their right; None for all of them.
        num_in_block: Prompt tokens in the first block, in front of the response.
        row_weight: How much its loss counts; None where all rows of the data count alike.
        advantage: Verdict minus the mean verdict on its query; None where the data compare no rows.
        teacher_prompt_ids: Prompt for a teacher that is told the answer; empty where there is none.
    """

    query_id: str
    prompt_ids: Tokens
    response_ids: Tokens
    unmask_step: Tokens = ()
    unmask_entropy: Sequence[float] | npt.NDArray[np.float32] = ()
    number: int = 0
    block_length: int | None = None
    num_in_block: int = 0
    row_weight: float | None = None
    advantage: float | None = None
    teacher_prompt_ids: Tokens = ()

    @property
    def num_tokens(self) -> int:
        """Of the longest canvas that the row is on."""
        return max(len(self.prompt_ids), len(self.teacher_prompt_ids)) + len(self.response_ids)


class NumberedRows(Sequence[Row]):
    """Rows that know their number, from 0 as they stand.

    Args:
        rows: Of any numbers.
    """

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def __getitem__(self, number: int) -> Row:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Row with its number."""
        return dataclasses.replace(self._rows[number], number=number)


def encode_text(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], query_ids: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens.

    Raises:
        TabomError: If a text holds a character that the tokenizer does not know.
    """
    if not texts:  # of which transformers makes an IndexError
        return []
    try:
        return tokenizer(list(texts), add_special_tokens=False)["input_ids"]
    except Exception:  # tokenizers raises bare Exceptions; find the text to name it
        for text, query_id in zip(texts, query_ids, strict=True):
            try:
                tokenizer(text, add_special_tokens=False)
            except Exception as error:
                raise TabomError(
                    f"{query_id}: expected text that the tokenizer knows, got {text!r} ({error})"
                ) from error
        raise


def encode_prompts(
    tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str | Conversation], query_ids: Sequence[str], *, chat: bool
) -> list[list[int]]:
    """Token ids of each prompt.

    Args:
        tokenizer: Gives ids and the chat template.
        prompts: Texts, or conversations whose next turn is the assistant's.
        query_ids: Named in error messages.
        chat: Whether each text is a user's turn. Turns are followed by the template's generation prompt.

    Raises:
        TabomError: If a prompt has no token, or holds the mask token, which decoding would fill in; if it is a
            conversation, and ``chat`` is false.
    """
    texts: list[str] = []
    for query_id, prompt in zip(query_ids, prompts, strict=True):
        is_text = isinstance(prompt, str)
        require(is_text or chat, f"{query_id}: expected a text, since this is no chat, got a conversation")
        turns = _turns(prompt) if is_text else prompt
        texts.append(_render(tokenizer, turns, opened=True) if chat else str(prompt))
    encoded = encode_text(tokenizer, texts, query_ids)
    mask = SpecialIds.of(tokenizer).mask
    for query_id, ids in zip(query_ids, encoded, strict=True):
        require(len(ids) > 0, f"{query_id}: expected a prompt of at least one token, got none")
        require(
            mask not in ids, f"{query_id}: expected a prompt without the mask token {tokenizer.mask_token}, got one"
        )
    return encoded


def decode_responses(tokenizer: PreTrainedTokenizerBase, response_ids: Int[Tensor, "B N"], *, chat: bool) -> list[str]:
    """Text of each response, up to its end and without it.

    Args:
        tokenizer: Gives texts and the tokens that end them.
        response_ids: Decoded tokens.
        chat: Whether responses are an assistant's turns: they end at the first end of a turn or of the sequence, and
            special tokens are no text. Other text ends at the end of sequence alone.
    """
    ids = response_ids.cpu()
    ends = ends_of_turn(tokenizer) if chat else (SpecialIds.of(tokenizer).eos,)
    is_text = torch.isin(ids, torch.tensor(ends)).cumsum(1) == 0
    return [
        str(tokenizer.decode(row[kept].tolist(), skip_special_tokens=chat))
        for row, kept in zip(ids, is_text, strict=True)
    ]


def cut_prompts(
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[list[int]],
    query_ids: Sequence[str],
    max_length: int,
    *,
    chat: bool,
) -> list[list[int]]:
    """Leave out the last tokens of what a user says, so that no prompt has more than ``max_length`` tokens.

    Args:
        tokenizer: Gives the chat template.
        prompts: Token ids of each.
        query_ids: Named in error messages.
        max_length: Of a prompt with its template.
        chat: Whether each prompt is a user's turn, followed by the template's generation prompt, which is kept.

    Raises:
        TabomError: If the template alone is longer, or a prompt that is too long does not end with it.
    """
    first, second = encode_prompts(tokenizer, ["a", "b"], ["a", "b"], chat=chat)
    pairs = zip(reversed(first), reversed(second), strict=False)
    ending = first[len(first) - sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)) :]
    least = len(first)
    require(max_length >= least, f"max_prompt_length: expected at least {least}, a chat of one token, got {max_length}")
    num_kept = max_length - len(ending)
    for query_id, ids in zip(query_ids, prompts, strict=True):
        is_known = len(ids) <= max_length or ids[len(ids) - len(ending) :] == ending
        require(is_known, f"{query_id}: expected a prompt that ends as the chat template does, got one that does not")
    return [ids if len(ids) <= max_length else ids[:num_kept] + ending for ids in prompts]


def encode_answers(
    tokenizer: PreTrainedTokenizerBase, answers: Sequence[str], query_ids: Sequence[str], *, chat: bool
) -> list[list[int]]:
    """Token ids of each answer; in a chat they end as the template ends an assistant's turn.

    Raises:
        TabomError: If an answer is empty.
    """
    for query_id, answer in zip(query_ids, answers, strict=True):
        require(len(answer) > 0, f"{query_id}: expected a reference answer of at least one token, got none")
    texts = [_assistant_turn(tokenizer, answer) for answer in answers] if chat else answers
    return encode_text(tokenizer, texts, query_ids)


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], response_length: int | None, *, chat: bool
) -> list[Row]:
    """Tokenise prompts and references.

    Args:
        tokenizer: Gives ids and the end-of-sequence token.
        examples: Texts.
        response_length: Budget that references are filled up to, or None to keep them as long as they are (running
            text has no end).
        chat: Whether prompt and reference are turns of a chat.

    Raises:
        TabomError: If a reference does not fit the budget, or is empty.
    """
    query_ids = [example.query_id for example in examples]
    prompts = encode_prompts(tokenizer, [example.prompt for example in examples], query_ids, chat=chat)
    responses = encode_answers(tokenizer, [example.reference for example in examples], query_ids, chat=chat)
    if response_length is not None:
        responses = [
            fill_response(tokenizer, response_ids, response_length, query_id)
            for query_id, response_ids in zip(query_ids, responses, strict=True)
        ]
    return [Row(*row) for row in zip(query_ids, prompts, responses, strict=True)]


def fill_response(
    tokenizer: PreTrainedTokenizerBase,
    response_ids: list[int],
    response_length: int,
    query_id: str,
    *,
    truncate: bool = False,
) -> list[int]:
    """Append end-of-sequence tokens up to ``response_length``; ``truncate`` cuts what is longer."""
    require(
        truncate or len(response_ids) <= response_length,
        f"{query_id}: expected a reference answer of at most response_length = {response_length} tokens, "
        f"got {len(response_ids)}",
    )
    num_missing = response_length - len(response_ids)
    return response_ids[:response_length] + [SpecialIds.of(tokenizer).eos] * num_missing


def check_length(query_id: str, num_tokens: int, max_length: int | None) -> None:
    """Raise ``TabomError`` if prompt and response together are longer than the model; None is no limit."""
    require(
        max_length is None or num_tokens <= max_length,
        f"{query_id}: expected at most {max_length} tokens of prompt and response together, which the model has "
        f"positions for (max_position_embeddings), got {num_tokens}",
    )


def _turns(user: str, assistant: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": user}]
    return turns if assistant is None else [*turns, {"role": "assistant", "content": assistant}]


def _render(tokenizer: PreTrainedTokenizerBase, turns: Conversation, *, opened: bool) -> str:
    """Text of a conversation; ``opened`` asks for the generation prompt at its end."""
    require(tokenizer.chat_template is not None, "chat_template: expected a tokenizer that has one, got one without")
    batch: Any = [turns]  # of one, since an empty conversation is refused otherwise
    return str(tokenizer.apply_chat_template(batch, tokenize=False, add_generation_prompt=opened)[0])


def _assistant_turn(tokenizer: PreTrainedTokenizerBase, answer: str) -> str:
    """What follows the generation prompt when ``answer`` is the assistant's turn."""
    opened, whole = (
        _render(tokenizer, _turns("-"), opened=True),
        _render(tokenizer, _turns("-", answer), opened=False),
    )
    require(
        whole.startswith(opened),
        "chat_template: expected one whose assistant's turn begins with the generation prompt, got "
        f"{whole!r} after {opened!r}",
    )
    turn = whole[len(opened) :]
    if opened == _render(tokenizer, _turns("-"), opened=False):  # LLaDA's template opens a turn unasked, here as well
        turn = turn.removesuffix(_render(tokenizer, [], opened=False))
    return turn


def collate_rows(rows: Sequence[Row], *, pad_token_id: int, eos_token_id: int) -> TrajectoryBatch:
    """Pad prompts on the left and responses on the right, so that all responses start in one column."""
    first = max(len(row.prompt_ids) for row in rows)
    shape = (len(rows), first + max(len(row.response_ids) for row in rows))
    clean_ids = np.full(shape, pad_token_id)
    attention_mask = np.zeros(shape, np.bool_)
    unmask_step = np.full(shape, NEVER)
    unmask_entropy = np.full(shape, np.nan, np.float32)
    block = np.zeros(shape, np.int64)
    for number, row in enumerate(rows):
        start, end = first - len(row.prompt_ids), first + len(row.response_ids)
        clean_ids[number, start:first] = row.prompt_ids
        clean_ids[number, first:end] = row.response_ids
        attention_mask[number, start:end] = True
        unmask_step[number, first : first + len(row.unmask_step)] = row.unmask_step
        unmask_entropy[number, first : first + len(row.unmask_entropy)] = row.unmask_entropy
        block[number, first:end] = (row.num_in_block + np.arange(end - first)) // (row.block_length or end - first)
    ids, is_seen = torch.from_numpy(clean_ids), torch.from_numpy(attention_mask)
    is_response = is_seen & (torch.arange(shape[1]) >= first)
    is_filler = is_response.clone()
    is_filler[:, first:] &= ~until_eos(ids[:, first:], eos_token_id)
    return TrajectoryBatch(
        clean_ids=ids,
        attention_mask=is_seen,
        is_response=is_response,
        is_filler=is_filler,
        unmask_step=torch.from_numpy(unmask_step),
        unmask_entropy=torch.from_numpy(unmask_entropy),
        query_ids=tuple(row.query_id for row in rows),
        row_numbers=torch.tensor([row.number for row in rows]),
        block=torch.from_numpy(block),
        row_weight=_column([row.row_weight for row in rows]),
        advantage=_column([row.advantage for row in rows]),
        teacher_prompt_ids=_pad_left([row.teacher_prompt_ids for row in rows], NO_TOKEN)
        if len(rows[0].teacher_prompt_ids)
        else None,
    )


def _column(values: Sequence[float | None]) -> Tensor | None:
    """One number per row; None where the data have none."""
    return None if None in values else torch.tensor(values, dtype=torch.float32)


def collate_prompts(
    items: Sequence[tuple[Example, Tokens]],
    *,
    pad_token_id: int,
    mask_token_id: int,
    response_length: int,
    domain: str = "",
    samples: tuple[int, ...] | None = None,
) -> PromptBatch:
    """Pad prompts on the left and append a masked response to each."""
    prompts = _pad_left([prompt_ids for _, prompt_ids in items], pad_token_id)
    lengths = torch.tensor([len(prompt_ids) for _, prompt_ids in items])
    is_prompt = torch.arange(prompts.shape[1]) >= prompts.shape[1] - lengths[:, None]
    response = torch.full((len(items), response_length), mask_token_id)
    is_response = torch.ones_like(response, dtype=torch.bool)
    return PromptBatch(
        noisy_ids=torch.cat([prompts, response], 1),
        attention_mask=torch.cat([is_prompt, is_response], 1),
        is_response=torch.cat([torch.zeros_like(is_prompt), is_response], 1),
        examples=tuple(example for example, _ in items),
        domain=domain,
        samples=samples,
    )


def _pad_left(sequences: Sequence[Tokens], value: int) -> Tensor:
    """Stack sequences of token ids, filled on the left."""
    width = max(map(len, sequences))
    stacked = np.full((len(sequences), width), value)
    for row, ids in zip(stacked, sequences, strict=True):
        row[width - len(ids) :] = ids
    return torch.from_numpy(stacked)
