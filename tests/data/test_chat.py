"""Prompts and answers as turns of a chat."""

import json

import pytest
import torch
from helpers import dream_config, dream_tokenizer_files, llada_config, llada_tokenizer_files

from tabom.data import PromptDataModule
from tabom.data.encoding import cut_prompts, decode_responses, encode_answers, encode_prompts, encode_text
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import TabomError
from tabom.tasks import QuestionFile
from tabom.types import Example

OPENINGS = {"llada": "<|head|>assistant<|/head|>", "dream": "<|im_start|>assistant\n"}
PROMPTS = {
    "llada": "<|startoftext|><|head|>user<|/head|>What is 2 + 2?<|eot|><|head|>assistant<|/head|>",
    "dream": "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n",
}
TURNS = {"llada": "four<|eot|>", "dream": "four<|im_end|>\n"}


def prompt_text(tokenizer, **settings):
    (ids,) = encode_prompts(tokenizer, ["What is 2 + 2?"], ["q"], **settings)
    return tokenizer.decode(ids)


def test_the_generation_prompt_stands_at_the_end_once(chat):
    tokenizer, family = chat
    text = prompt_text(tokenizer, chat=True)
    assert text == PROMPTS[family]
    assert text.count(OPENINGS[family]) == 1
    assert prompt_text(tokenizer, chat=False) == "What is 2 + 2?"


def test_special_tokens_of_the_template_are_single_tokens(chat):
    tokenizer, family = chat
    (ids,) = encode_prompts(tokenizer, ["x"], ["q"], chat=True)
    special = {"llada": ["<|startoftext|>", "<|head|>", "<|eot|>"], "dream": ["<|im_start|>", "<|im_end|>"]}[family]
    assert set(tokenizer.convert_tokens_to_ids(special)) <= set(ids)


def test_an_answer_ends_as_the_template_ends_a_turn(chat):
    tokenizer, family = chat
    (ids,) = encode_answers(tokenizer, ["four"], ["q"], chat=True)
    assert tokenizer.decode(ids) == TURNS[family]
    (ids,) = encode_answers(tokenizer, ["four"], ["q"], chat=False)
    assert tokenizer.decode(ids) == "four"


def test_the_real_templates(shared_data, chat):
    tokenizer, _ = chat
    openings = {"llada": "<|start_header_id|>assistant<|end_header_id|>\n\n", "dream": OPENINGS["dream"]}
    for family, opening in openings.items():
        settings = json.loads((shared_data / f"tokenizers/{family}/tokenizer_config.json").read_text())
        tokenizer.chat_template = settings["chat_template"]
        text = prompt_text(tokenizer, chat=True)
        assert text.endswith(opening)
        assert text.count(opening) == 1
        (ids,) = encode_answers(tokenizer, ["four"], ["q"], chat=True)
        assert tokenizer.decode(ids) == {"llada": "four<|eot_id|>", "dream": "four<|im_end|>\n"}[family]


def test_templates_that_cannot_be_used(chat):
    tokenizer, _ = chat
    tokenizer.chat_template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{{ '>' }}"
    with pytest.raises(TabomError) as error:
        encode_answers(tokenizer, ["four"], ["q"], chat=True)
    assert str(error.value) == (
        "chat_template: expected one whose assistant's turn begins with the generation prompt, "
        "got '[user]-[assistant]four>' after '[user]->'"
    )
    tokenizer.chat_template = None
    with pytest.raises(TabomError) as error:
        prompt_text(tokenizer, chat=True)
    assert str(error.value) == "chat_template: expected a tokenizer that has one, got one without"


def test_a_long_prompt_is_cut_within_the_user_s_turn(chat):
    tokenizer, _ = chat
    questions = ["What is 2 + 2?", "Why?"]
    prompts = encode_prompts(tokenizer, questions, ["q1", "q2"], chat=True)
    limit = len(prompts[0]) - 5
    long, short = cut_prompts(tokenizer, prompts, ["q1", "q2"], limit, chat=True)
    assert [long] == encode_prompts(tokenizer, ["What is 2"], ["q"], chat=True)
    assert len(long) == limit
    assert short == prompts[1]
    plain = encode_prompts(tokenizer, questions, ["q1", "q2"], chat=False)
    assert cut_prompts(tokenizer, plain, ["q1", "q2"], 7, chat=False) == [plain[0][:7], plain[1]]


def test_prompts_that_cannot_be_cut(chat):
    tokenizer, _ = chat
    (least,) = encode_prompts(tokenizer, ["?"], ["q"], chat=True)
    with pytest.raises(TabomError) as error:
        cut_prompts(tokenizer, [least], ["q"], len(least) - 1, chat=True)
    assert str(error.value) == (
        f"max_prompt_length: expected at least {len(least)}, a chat of one token, got {len(least) - 1}"
    )
    (plain,) = encode_prompts(tokenizer, ["What is 2 + 2? " * 9], ["q"], chat=False)
    with pytest.raises(TabomError) as error:
        cut_prompts(tokenizer, [plain], ["q"], len(least), chat=True)
    assert str(error.value) == "q: expected a prompt that ends as the chat template does, got one that does not"


def test_prompts_that_cannot_be_decoded(chat):
    tokenizer, _ = chat
    mask = tokenizer.mask_token
    with pytest.raises(TabomError) as error:
        encode_prompts(tokenizer, ["fine", f"fill {mask} in"], ["q1", "q2"], chat=True)
    assert str(error.value) == f"q2: expected a prompt without the mask token {mask}, got one"
    with pytest.raises(TabomError) as error:
        encode_prompts(tokenizer, ["fine", ""], ["q1", "q2"], chat=False)
    assert str(error.value) == "q2: expected a prompt of at least one token, got none"


def test_a_decoded_turn_is_judged_without_its_special_tokens(chat, tmp_path):
    tokenizer, _ = chat
    (tmp_path / "q.jsonl").write_text('{"question": "2 + 2?", "answer": "four"}')
    data = PromptDataModule(
        task=QuestionFile("q.jsonl"), tokenizer=str(tmp_path), response_length=20, chat_template=True
    )
    (ids,) = encode_answers(tokenizer, ["four"], ["q"], chat=True)
    filled = ids + [tokenizer.eos_token_id] * (20 - len(ids))
    (verdict,) = data.judge([Example("q", "2 + 2?", "four")], torch.tensor([filled]))
    assert verdict.is_correct
    assert verdict.text.strip() == "four"


@pytest.mark.parametrize(("family", "end"), [("dream", "<|im_end|>"), ("llada", "<|eot|>")])
def test_a_turn_ends_where_the_family_or_a_file_says(tmp_path, family, end):
    """Dream's end of a turn is known by family; that of this LLaDA stands in generation_config.json."""
    files, config = {
        "dream": (dream_tokenizer_files, dream_config),
        "llada": (llada_tokenizer_files, llada_config),
    }[family]
    ids = files(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config(**ids)))
    if family == "llada":
        ends = [ids["eos_token_id"], 260]
        (tmp_path / "generation_config.json").write_text(json.dumps({"eos_token_id": ends}))
    tokenizer = load_tokenizer(str(tmp_path))
    (response,) = encode_text(tokenizer, [f"four{end}\nfive{tokenizer.eos_token}six"], ["q"])
    for chat, text in ((True, "four"), (False, f"four{end}\nfive")):
        assert decode_responses(tokenizer, torch.tensor([response]), chat=chat) == [text]
