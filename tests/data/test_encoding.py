import dataclasses

import numpy as np
import pytest
import torch

from tabom.data.encoding import NumberedRows, Row, collate_prompts, collate_rows, encode_examples
from tabom.errors import TabomError
from tabom.types import NEVER, Example

PAD, MASK, EOS = 0, 1, 2


def test_references_are_filled_with_eos(tokenizer):
    (row,) = encode_examples(tokenizer, [Example("q", "ab", "xyz")], 5, chat=False)
    assert row.response_ids == [*tokenizer("xyz")["input_ids"], EOS, EOS]
    (row,) = encode_examples(tokenizer, [Example("q", "ab", "xyz")], None, chat=False)
    assert row.response_ids == tokenizer("xyz")["input_ids"]


@pytest.mark.parametrize(
    ("example", "length", "message"),
    [
        (
            Example("q7", "ab", "wxyz"),
            3,
            "q7: expected a reference answer of at most response_length = 3 tokens, got 4",
        ),
        (Example("q7", "ab", ""), None, "q7: expected a reference answer of at least one token, got none"),
    ],
)
def test_references_that_do_not_fit(tokenizer, example, length, message):
    with pytest.raises(TabomError) as error:
        encode_examples(tokenizer, [Example("q1", "a", "b"), example], length, chat=False)
    assert str(error.value) == message


def test_unknown_character_is_named(tokenizer):
    with pytest.raises(TabomError, match=r"^q2: expected text that the tokenizer knows, got 'né' \("):
        encode_examples(tokenizer, [Example("q1", "a", "b"), Example("q2", "né", "b")], None, chat=False)


def test_rows_are_padded_around_the_column_where_responses_start():
    rows = [Row("a", [7], [8, EOS, EOS], [0, 1, 2], [0.1, 0.2, 0.3]), Row("b", [5, 6], [9, 9])]
    batch = collate_rows(rows, pad_token_id=PAD, eos_token_id=EOS)
    assert batch.clean_ids.tolist() == [[PAD, 7, 8, EOS, EOS], [5, 6, 9, 9, PAD]]
    assert batch.attention_mask.int().tolist() == [[0, 1, 1, 1, 1], [1, 1, 1, 1, 0]]
    assert batch.is_response.int().tolist() == [[0, 0, 1, 1, 1], [0, 0, 1, 1, 0]]
    assert batch.is_filler.int().tolist() == [[0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]
    assert batch.unmask_step.tolist() == [[NEVER, NEVER, 0, 1, 2], [NEVER] * 5]
    assert batch.unmask_entropy[0, 2:].tolist() == pytest.approx([0.1, 0.2, 0.3])
    assert batch.unmask_entropy[0, :2].isnan().all()
    assert batch.unmask_entropy[1].isnan().all()
    assert batch.query_ids == ("a", "b")


def test_rows_may_be_arrays_and_carry_their_number():
    """As a table of trajectories has them."""
    lists = [Row("a", [7], [8, EOS, EOS], [0, 1, 2], [0.5, 0.25, 0.125], 4), Row("b", [5, 6], [9, 9, 9], number=1)]
    arrays = [
        Row(
            row.query_id,
            np.array(row.prompt_ids, np.int32),
            np.array(row.response_ids, np.int32),
            np.array(row.unmask_step, np.int16),
            np.array(row.unmask_entropy, np.float32),
            row.number,
        )
        for row in lists
    ]
    expected, batch = (collate_rows(rows, pad_token_id=PAD, eos_token_id=EOS) for rows in (lists, arrays))
    for field in dataclasses.fields(batch):
        found, wanted = getattr(batch, field.name), getattr(expected, field.name)
        if isinstance(found, torch.Tensor):
            torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    assert batch.row_numbers.tolist() == [4, 1]
    assert (batch.clean_ids.dtype, batch.unmask_step.dtype) == (torch.int64, torch.int64)
    assert batch.unmask_entropy.dtype == torch.float32


def test_numbered_rows():
    rows = NumberedRows([Row("a", [7], [8], number=5), Row("b", [7], [9], number=5)])
    assert list(rows) == [Row("a", [7], [8], number=0), Row("b", [7], [9], number=1)]
    assert len(rows) == 2


def test_prompts_get_a_masked_response():
    items = [(Example("a", "x", ""), [7]), (Example("b", "yz", ""), [5, 6])]
    batch = collate_prompts(items, pad_token_id=PAD, mask_token_id=MASK, response_length=2)
    assert batch.noisy_ids.tolist() == [[PAD, 7, MASK, MASK], [5, 6, MASK, MASK]]
    assert batch.attention_mask.int().tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert batch.is_response.int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert [example.query_id for example in batch.examples] == ["a", "b"]


def test_every_tensor_of_a_batch_is_pinned(monkeypatch):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor.clone())
    batch = collate_rows([Row("a", [1], [2])], pad_token_id=0, eos_token_id=3)
    again = dataclasses.replace(batch, replay=batch).pin_memory()
    assert len(pinned) == 2 * 8
    assert again.query_ids == batch.query_ids
    assert torch.equal(again.clean_ids, batch.clean_ids)


def test_batches_move():
    batch = collate_rows([Row("a", [7], [8])], pad_token_id=PAD, eos_token_id=EOS)
    moved = batch.to("meta")
    assert {moved.clean_ids.device.type, moved.unmask_entropy.device.type, moved.row_numbers.device.type} == {"meta"}
    assert moved.query_ids == batch.query_ids
