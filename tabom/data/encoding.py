"""From examples to token rows, from rows to padded batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from tabom.errors import TabomError, require
from tabom.types import NEVER, Example, PromptBatch, SpecialIds, TrajectoryBatch


@dataclass(frozen=True)
class Row:
    """One sequence in tokens.

    Attributes:
        query_id: Named in error messages.
        prompt_ids: Visible tokens.
        response_ids: x0 of the response, filled with end-of-sequence tokens up to the budget where there is one.
        unmask_step: Of each response token, or empty where the data have no order.
        unmask_entropy: Likewise, in nats.
    """

    query_id: str
    prompt_ids: Sequence[int]
    response_ids: Sequence[int]
    unmask_step: Sequence[int] = ()
    unmask_entropy: Sequence[float] = ()


def encode_text(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], query_ids: Sequence[str]) -> list[list[int]]:
    """Token ids of each text, without special tokens.

    Raises:
        TabomError: If a text holds a character that the tokenizer does not know.
    """
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


def encode_examples(
    tokenizer: PreTrainedTokenizerBase, examples: Sequence[Example], response_length: int | None
) -> list[Row]:
    """Tokenise prompts and references.

    Args:
        tokenizer: Gives ids and the end-of-sequence token.
        examples: Texts.
        response_length: Budget that references are filled up to, or None to keep them as long as they are (running
            text has no end).

    Raises:
        TabomError: If a reference does not fit the budget, or is empty.
    """
    query_ids = [example.query_id for example in examples]
    prompts = encode_text(tokenizer, [example.prompt for example in examples], query_ids)
    responses = encode_text(tokenizer, [example.reference for example in examples], query_ids)
    rows = []
    for query_id, prompt_ids, response_ids in zip(query_ids, prompts, responses, strict=True):
        if response_length is not None:
            response_ids = fill_response(tokenizer, response_ids, response_length, query_id)
        require(len(response_ids) > 0, f"{query_id}: expected a reference answer of at least one token, got none")
        rows.append(Row(query_id, prompt_ids, response_ids))
    return rows


def fill_response(
    tokenizer: PreTrainedTokenizerBase, response_ids: list[int], response_length: int, query_id: str
) -> list[int]:
    """Append end-of-sequence tokens up to ``response_length``."""
    require(
        len(response_ids) <= response_length,
        f"{query_id}: expected a reference answer of at most response_length = {response_length} tokens, "
        f"got {len(response_ids)}",
    )
    return response_ids + [SpecialIds.of(tokenizer).eos] * (response_length - len(response_ids))


def until_eos(ids: Tensor, eos_token_id: int) -> Tensor:
    """Positions up to and with the first end-of-sequence token of each row (..., N)."""
    is_eos = ids == eos_token_id
    return is_eos.cumsum(-1) - is_eos.long() == 0


def collate_rows(rows: Sequence[Row], *, pad_token_id: int, eos_token_id: int) -> TrajectoryBatch:
    """Pad prompts on the left and responses on the right, so that all responses start in one column."""
    prompts = _pad_left([row.prompt_ids for row in rows], pad_token_id)
    width = max(len(row.response_ids) for row in rows)
    responses = _pad_right([row.response_ids for row in rows], width, pad_token_id)
    lengths = torch.tensor([len(row.response_ids) for row in rows])
    is_response = torch.arange(width) < lengths[:, None]
    prompt_lengths = torch.tensor([len(row.prompt_ids) for row in rows])
    is_prompt = torch.arange(prompts.shape[1]) >= prompts.shape[1] - prompt_lengths[:, None]
    nothing = torch.zeros_like(is_prompt)
    is_filler = is_response & ~until_eos(responses, eos_token_id)
    steps = _pad_right([row.unmask_step for row in rows], width, NEVER)
    entropies = _pad_right([row.unmask_entropy for row in rows], width, torch.nan)
    return TrajectoryBatch(
        clean_ids=torch.cat([prompts, responses], 1),
        attention_mask=torch.cat([is_prompt, is_response], 1),
        is_response=torch.cat([nothing, is_response], 1),
        is_filler=torch.cat([nothing, is_filler], 1),
        unmask_step=torch.cat([torch.full_like(prompts, NEVER), steps], 1),
        unmask_entropy=torch.cat([torch.full(prompts.shape, torch.nan), entropies], 1),
        query_ids=tuple(row.query_id for row in rows),
    )


def collate_prompts(
    items: Sequence[tuple[Example, list[int]]], *, pad_token_id: int, mask_token_id: int, response_length: int
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
    )


def _pad_left(sequences: Sequence[Sequence[int]], value: int) -> Tensor:
    """Stack sequences of token ids, filled on the left."""
    width = max(map(len, sequences))
    return torch.tensor([[value] * (width - len(ids)) + list(ids) for ids in sequences])


def _pad_right(sequences: Sequence[Sequence[float]], width: int, value: float) -> Tensor:
    return torch.tensor([[*items, *[value] * (width - len(items))] for items in sequences])
