import pytest
import torch

from tabom.data.encoding import Row, collate_prompts, collate_rows, encode_examples, until_eos
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


def test_until_eos():
    ids = torch.tensor([[5, EOS, 6, EOS], [5, 6, 7, 8], [EOS, EOS, EOS, EOS]])
    assert until_eos(ids, EOS).tolist() == [[True, True, False, False], [True] * 4, [True, False, False, False]]


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


def test_prompts_get_a_masked_response():
    items = [(Example("a", "x", ""), [7]), (Example("b", "yz", ""), [5, 6])]
    batch = collate_prompts(items, pad_token_id=PAD, mask_token_id=MASK, response_length=2)
    assert batch.noisy_ids.tolist() == [[PAD, 7, MASK, MASK], [5, 6, MASK, MASK]]
    assert batch.attention_mask.int().tolist() == [[0, 1, 1, 1], [1, 1, 1, 1]]
    assert batch.is_response.int().tolist() == [[0, 0, 1, 1], [0, 0, 1, 1]]
    assert [example.query_id for example in batch.examples] == ["a", "b"]


def test_batches_move():
    batch = collate_rows([Row("a", [7], [8])], pad_token_id=PAD, eos_token_id=EOS)
    moved = batch.to("meta")
    assert moved.clean_ids.device.type == moved.unmask_entropy.device.type == "meta"
    assert moved.query_ids == batch.query_ids
