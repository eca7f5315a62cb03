import json

import pytest
from helpers import dream_tokenizer_files, llada_config, llada_tokenizer_files
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
    with pytest.raises(TabomError, match=rf"^{tmp_path}/none: expected the directory of a checkpoint or a hub id \("):
        load_tokenizer(str(tmp_path / "none"))
    with pytest.raises(TabomError, match=rf"^{tmp_path}: expected the files of a tokenizer \("):
        load_tokenizer(str(tmp_path))


def test_tokenizer_without_a_mask(tokenizer, tmp_path):
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, pad_token="<pad>", eos_token="<eos>"
    ).save_pretrained(tmp_path)
    with pytest.raises(TabomError) as error:
        load_tokenizer(str(tmp_path))
    assert str(error.value) == f"{tmp_path}: expected a tokenizer with a mask_token_id, found none"


def test_dreams_real_files_without_its_code(shared_data):
    """Qwen2's byte-level vocabulary under a class name that transformers does not know."""
    tokenizer = load_tokenizer(str(shared_data / "tokenizers/dream"))
    assert (tokenizer.mask_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id) == (151666, 151643, 151643)
    assert len(tokenizer) == 151667
    ids = tokenizer("<|im_start|>user\nWhat is 2 + 2?<|im_end|>", add_special_tokens=False)["input_ids"]
    assert (ids[0], ids[-1]) == (151644, 151645)
    assert tokenizer.decode(ids) == "<|im_start|>user\nWhat is 2 + 2?<|im_end|>"


def test_lladas_mask_token_is_named_by_the_models_config(tmp_path):
    ids = llada_tokenizer_files(tmp_path)
    with pytest.raises(TabomError, match=r"expected a tokenizer with a mask_token_id, found none$"):
        load_tokenizer(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(llada_config(**ids)))
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("<|mdm_mask|>", ids["mask_token_id"])
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 257


def test_dreams_layout_in_small(tmp_path):
    ids = dream_tokenizer_files(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    assert tokenizer.mask_token_id == ids["mask_token_id"]
    assert tokenizer.decode(tokenizer("Größe 3")["input_ids"]) == "Größe 3"


def test_hub_id(tmp_path, monkeypatch):
    """From a cache in the hub's layout; weights are not asked for."""
    repository = tmp_path / "hub/models--some--dlm"
    (repository / "snapshots").mkdir(parents=True)
    ids = dream_tokenizer_files(repository / "snapshots/0123abcd")
    (repository / "refs").mkdir()
    (repository / "refs/main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    assert load_tokenizer("some/dlm").mask_token_id == ids["mask_token_id"]
