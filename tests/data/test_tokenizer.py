import pytest
from transformers import PreTrainedTokenizerFast

from tabom.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from tabom.errors import TabomError

TEXT = "def f(x):\n    return  x  # <eos> isn't one\n"


def test_every_character_is_a_token(tokenizer):
    ids = tokenizer("a\n ~", add_special_tokens=False)["input_ids"]
    assert len(set(ids)) == 4
    assert len(tokenizer) == 95 + 1 + 3


@pytest.mark.parametrize("text", ["", "a", " a  b ", "\n\n", "x=1;y={'k':[2]}\n\tz".replace("\t", "    ")])
def test_text_survives(tokenizer, text):
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text


def test_saved_tokenizer_is_the_same(tokenizer, checkpoint):
    again = load_tokenizer(str(checkpoint))
    text = TEXT.replace("<eos>", "")
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert again.decode(again(text)["input_ids"]) == text
    assert tokenizer_fingerprint(again) == tokenizer_fingerprint(tokenizer)


def test_fingerprint_follows_vocabulary_and_special_tokens(tokenizer):
    other = load_tokenizer("characters")
    other.add_tokens(["<new>"])
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)
    other = load_tokenizer("characters")
    other.mask_token = "<eos>"
    assert tokenizer_fingerprint(other) != tokenizer_fingerprint(tokenizer)


def test_no_tokenizer_there(tmp_path):
    with pytest.raises(TabomError, match=rf"^{tmp_path}/none: expected a directory or hub id with a tokenizer \("):
        load_tokenizer(str(tmp_path / "none"))


def test_tokenizer_without_a_mask(tokenizer, tmp_path):
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(tmp_path)
    with pytest.raises(TabomError) as error:
        load_tokenizer(str(tmp_path))
    assert str(error.value) == f"{tmp_path}: expected a tokenizer with a mask_token_id, found none"
