"""Prompts for a teacher that is told the answer."""

import json
from types import SimpleNamespace

import pytest
import torch
from helpers import DREAM_TEMPLATE, dream_tokenizer_files

from tabom.data import TrajectoryDataModule, ValidationSizes
from tabom.data.encoding import Row, collate_rows, encode_prompts
from tabom.data.tokenizer import load_tokenizer
from tabom.data.trajectory_rows import tell_answers
from tabom.errors import TabomError
from tabom.tasks import Sudoku4x4
from tabom.types import NO_TOKEN

WORDING = "Reference Answer: {answer}"
QUESTIONS, ANSWERS = ["What is 2 + 2?", "Why {so}?"], ["four", "{answer}, %s"]
FIRST = {
    "llada": "<|startoftext|><|head|>system<|/head|>Reference Answer: four<|eot|>"
    "<|head|>user<|/head|>What is 2 + 2?<|eot|><|head|>assistant<|/head|>",
    "dream": "<|im_start|>system\nReference Answer: four<|im_end|>\n"
    "<|im_start|>user\nWhat is 2 + 2?<|im_end|>\n<|im_start|>assistant\n",
}


def told(tokenizer, prompts, *, chat, indices=(0, 1)):
    table = SimpleNamespace(query_ids=["q0", "q1"], prompt_ids=prompts, references=ANSWERS)
    return tell_answers(tokenizer, table, indices, WORDING, chat=chat)


def test_in_a_chat_the_system_says_it(chat):
    tokenizer, family = chat
    prompts = encode_prompts(tokenizer, QUESTIONS, ["q0", "q1"], chat=True)
    first, second = told(tokenizer, prompts, chat=True)
    assert tokenizer.decode(first) == FIRST[family]
    assert tokenizer.decode(second) == FIRST[family].replace("four", "{answer}, %s").replace(*QUESTIONS)
    assert first == tokenizer(FIRST[family], add_special_tokens=False)["input_ids"]
    assert told(tokenizer, prompts, chat=True, indices=[1]) == [second]


def test_a_prompt_that_was_cut_stays_cut(chat):
    tokenizer, _ = chat
    prompts = encode_prompts(tokenizer, QUESTIONS, ["q0", "q1"], chat=True)
    cut = [ids[:-8] + ids[-3:] for ids in prompts]
    told_cut = told(tokenizer, cut, chat=True)
    assert [len(a) - len(b) for a, b in zip(told(tokenizer, prompts, chat=True), told_cut, strict=True)] == [5, 5]
    assert all(ids[-6:] == short[-6:] for ids, short in zip(told_cut, cut, strict=True))


def test_a_system_s_turn_takes_the_place_of_the_template_s_own(tmp_path):
    """As in Dream's own template."""
    dream_tokenizer_files(tmp_path)
    tokenizer = load_tokenizer(str(tmp_path))
    own = "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are helpful.<|im_end|>\n{% endif %}"
    tokenizer.chat_template = own + DREAM_TEMPLATE
    prompts = encode_prompts(tokenizer, QUESTIONS, ["q0", "q1"], chat=True)
    assert "helpful" in tokenizer.decode(prompts[0])
    assert tokenizer.decode(told(tokenizer, prompts, chat=True)[0]) == FIRST["dream"]


def test_the_real_templates(shared_data, chat):
    tokenizer, _ = chat
    for family in ("llada", "dream"):
        settings = json.loads((shared_data / f"tokenizers/{family}/tokenizer_config.json").read_text())
        tokenizer.chat_template = settings["chat_template"]
        prompts = encode_prompts(tokenizer, QUESTIONS, ["q0", "q1"], chat=True)
        expected = tokenizer.apply_chat_template(
            [{"role": "system", "content": "Reference Answer: four"}, {"role": "user", "content": QUESTIONS[0]}],
            tokenize=False,
            add_generation_prompt=True,
        )
        assert tokenizer.decode(told(tokenizer, prompts, chat=True)[0]) == expected


def test_without_a_template_it_is_a_line(tokenizer):
    prompts = encode_prompts(tokenizer, ["sudoku 12=", "x="], ["q0", "q1"], chat=False)
    assert tokenizer.decode(told(tokenizer, prompts, chat=False)[0]) == "Reference Answer: four\nsudoku 12="


def test_prompts_and_templates_that_do_not_fit(chat):
    tokenizer, _ = chat
    prompts = encode_prompts(tokenizer, QUESTIONS, ["q0", "q1"], chat=True)
    own = "{% if messages[0].role != 'system' %}<|im_start|>Hello.{% endif %}"
    tokenizer.chat_template = own + DREAM_TEMPLATE
    with pytest.raises(TabomError) as error:
        told(tokenizer, prompts, chat=True)
    assert str(error.value) == "q0: expected a prompt that begins as the chat template does, got one that does not"
    tokenizer.chat_template = "{% for m in messages if m.role != 'system' %}{{ m.content }}{% endfor %}"
    with pytest.raises(TabomError) as error:
        told(tokenizer, prompts, chat=True)
    assert str(error.value) == "chat_template: expected one with a system's turn, got one that leaves it out"


def test_a_batch_pads_them_on_the_left():
    rows = [Row("a", [5], [7, 8], teacher_prompt_ids=[1, 2, 3]), Row("b", [5, 6], [7, 8], teacher_prompt_ids=[4])]
    batch = collate_rows(rows, pad_token_id=0, eos_token_id=9)
    assert batch.teacher_prompt_ids.tolist() == [[1, 2, 3], [NO_TOKEN, NO_TOKEN, 4]]
    assert collate_rows([Row("a", [5], [7])], pad_token_id=0, eos_token_id=9).teacher_prompt_ids is None
    assert [row.num_tokens for row in rows] == [5, 4]


@pytest.fixture
def data(make_trajectories):
    path = str(make_trajectories())

    def make(teacher_prompt=WORDING, **changes):
        settings = {"task": Sudoku4x4(), "response_length": 19, "tokenizer": "characters", "batch_size": 4}
        settings |= {"held_out": 0.0, "validation": ValidationSizes(num_validation_prompts=0, num_test_prompts=0)}
        module = TrajectoryDataModule(path=path, **{**settings, **changes})
        module.teacher_prompt = teacher_prompt
        return module

    return make


def test_rows_of_a_training_tell_the_reference_answer(data, tokenizer):
    module = data()
    references = dict(zip(module.table.query_ids, module.table.references, strict=True))
    rows, plain = module.train_dataloader().dataset, data(None).train_dataloader().dataset
    assert [row.query_id for row in rows] == [row.query_id for row in plain]
    for row, other in zip(rows, plain, strict=True):
        assert tokenizer.decode(row.teacher_prompt_ids) == (
            f"Reference Answer: {references[row.query_id]}\n{tokenizer.decode(row.prompt_ids)}"
        )
        assert len(other.teacher_prompt_ids) == 0
    (batch, *_) = module.train_dataloader()
    assert batch.teacher_prompt_ids.shape[0] == 4
    assert torch.equal(
        batch.teacher_prompt_ids[:, -1], batch.clean_ids[:, batch.is_response.any(0).nonzero()[0] - 1][:, 0]
    )
    (batch, *_) = data(None).train_dataloader()
    assert batch.teacher_prompt_ids is None


def test_rows_without_a_reference_are_left_out(data):
    module = data()
    module.table.references[:6] = [""] * 6
    rows = module.train_dataloader().dataset
    assert len(rows) == 12
    assert not {row.query_id for row in rows} & set(module.table.query_ids[:6])
    module.table.references[:] = [""] * 24
    with pytest.raises(TabomError, match=r"reference answers for model\.objective\.teacher_prompt, found none in 16"):
        module.train_dataloader()


def test_a_teacher_s_prompt_is_never_cut(data):
    module = data()
    longest = max(row.num_tokens for row in module.train_dataloader().dataset)
    module.max_length = longest - 1
    with pytest.raises(
        TabomError,
        match=rf"^sudoku4x4/\d+, told the answer: expected at most {longest - 1} tokens of prompt and response",
    ):
        module.train_dataloader()
    module.max_length = longest
    module.train_dataloader()
    module.teacher_prompt, module.max_length = None, longest - 1
    module.train_dataloader()
