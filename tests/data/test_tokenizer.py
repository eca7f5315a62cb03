import json

import pytest
from helpers import (
    a2d_config,
    a2d_tokenizer_files,
    dream_tokenizer_files,
    illada_config,
    illada_tokenizer_files,
    llada_config,
    llada_tokenizer_files,
)
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
    assert str(error.value) == (
        f"{tmp_path}: expected a tokenizer with a mask_token_id, found none; the backbone's mask_token may name one"
    )


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
    with pytest.raises(TabomError, match=r"expected a tokenizer with a mask_token_id, found none; "):
        load_tokenizer(str(tmp_path))
    (tmp_path / "config.json").write_text(json.dumps(llada_config(**ids)))
    tokenizer = load_tokenizer(str(tmp_path))
    assert (tokenizer.mask_token, tokenizer.mask_token_id) == ("<|mdm_mask|>", ids["mask_token_id"])
    assert tokenizer.eos_token_id == tokenizer.pad_token_id == 257


def test_a_family_knows_a_mask_token_that_no_file_names(tmp_path):
    """A2D's is added behind the last token, as dLLM does; iLLaDA's is the sixth."""
    ids = a2d_tokenizer_files(tmp_path / "a2d")
    (tmp_path / "a2d/config.json").write_text(json.dumps(a2d_config(**ids)))
    tokenizer = load_tokenizer(str(tmp_path / "a2d"))
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == ("<|mask|>", 259, 260)
    ids = illada_tokenizer_files(tmp_path / "illada")
    (tmp_path / "illada/config.json").write_text(json.dumps(illada_config(**ids)))
    tokenizer = load_tokenizer(str(tmp_path / "illada"))
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == ("<[MASK]>", 5, 262)


def test_a_mask_token_that_the_tokenizer_names_stays(tmp_path):
    ids = a2d_tokenizer_files(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(a2d_config(**ids)))
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**settings, "mask_token": "<|MASK|>"}))
    assert load_tokenizer(str(tmp_path)).mask_token == "<|MASK|>"


def test_a_mask_token_that_is_given_wins(tmp_path):
    a2d_tokenizer_files(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path), "<|im_start|>")
    assert (tokenizer.mask_token, tokenizer.mask_token_id, len(tokenizer)) == ("<|im_start|>", 257, 259)
    assert load_tokenizer(str(tmp_path), "<|new|>").mask_token_id == 259


def test_prompts_of_an_a2d_qwen3_end_with_an_empty_thought(tmp_path):
    ids = a2d_tokenizer_files(tmp_path)
    ends = {}
    for parent in ("qwen3", "qwen2"):
        (tmp_path / "config.json").write_text(json.dumps(a2d_config(parent, **ids)))
        turns = [{"role": "user", "content": "x"}]
        prompt = load_tokenizer(str(tmp_path)).apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        ends[parent] = prompt.rpartition("assistant\n")[2]
    assert ends == {"qwen3": "<think>\n\n</think>\n\n", "qwen2": ""}


@pytest.mark.parametrize(("changes", "expected"), [({}, 258), ({"pad_token_id": 257}, 257)])
def test_padding_that_no_tokenizer_names(tmp_path, changes, expected):
    """Llama's tokenizers have none: the config's, or the end of sequence."""
    ids = a2d_tokenizer_files(tmp_path)
    settings = json.loads((tmp_path / "tokenizer_config.json").read_text())
    del settings["pad_token"]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "config.json").write_text(json.dumps(a2d_config("llama", **ids, **changes)))
    assert load_tokenizer(str(tmp_path)).pad_token_id == expected


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
