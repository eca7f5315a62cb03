"""Word problems: each is solved again from its text."""

import json
import re

import pytest

from tabom.errors import TabomError
from tabom.tasks import WordProblems
from tabom.tasks.arithmetic import evaluate
from tabom.types import Example


def solved(prompt):
    """Read as a person does: packs, then what is added and taken away."""
    first, *others, question = re.split(r"(?<=[.?])\s+", prompt.strip())
    assert question.startswith("How many ")
    numbers = [int(number) for number in re.findall(r"\d+", first)]
    value = numbers[0] * numbers[1] if len(numbers) == 2 else numbers[0]
    for sentence in others:
        (number,) = map(int, re.findall(r"\d+", sentence))
        is_less = re.search(r"gives away|loses|sells", sentence)
        assert is_less or re.search(r"buys|finds|brings", sentence)
        value += -number if is_less else number
    return value


@pytest.mark.parametrize("split", ["pretrain", "train", "validation", "test"])
def test_answers_are_right_and_worked_out(split):
    task = WordProblems(num_steps=(1, 2, 3))
    examples = task.examples(split, 200)
    for example in examples:
        *equations, last = example.reference.split("\n")
        value = solved(example.prompt)
        assert last == f"#### {value}"
        assert value > 0
        for equation in equations:
            expression, _, result = equation.partition(" = ")
            assert evaluate(expression)[1] == int(result)
        assert equations[-1].endswith(f" = {value}")
        assert task.is_correct(example, example.reference)
        assert task.is_correct(example, f"So it is {value}.")
        assert not task.is_correct(example, f"{value}, or {value + 1}")
        assert not task.is_correct(example, "I do not know.")
    steps = {example.reference.count("=") for example in examples}
    assert steps == {1, 2, 3}


def test_splits_share_nothing_and_every_call_gives_the_same():
    task = WordProblems()
    prompts = {split: [e.prompt for e in task.examples(split, 150)] for split in ("train", "validation", "test")}
    assert len({prompt for each in prompts.values() for prompt in each}) == 450
    assert [e.prompt for e in WordProblems().examples("train", 150)] == prompts["train"]
    assert [e.prompt for e in WordProblems(seed=1).examples("train", 150)] != prompts["train"]


def test_numbers_stay_in_their_range():
    for example in WordProblems(num_steps=(1,), largest=5).examples("train", 60):
        first = re.findall(r"\d+", example.prompt)
        assert all(int(number) <= (9 if "*" in example.reference else 5) for number in first)


def test_the_test_split_may_be_gsm8ks(tmp_path):
    rows = [
        {"question": "Two and two?", "answer": "2+2 = <<2+2=4>>4\n#### 4"},
        {"question": "Why?", "answer": "#### 7"},
    ]
    file = tmp_path / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = WordProblems(test_file=str(file))
    first, _ = task.examples("test", None)
    assert first == Example("word_problems/Two and two?", "Two and two?\n", rows[0]["answer"])
    file.write_text('{"question": "Why?", "answer": "Because."}\n')
    with pytest.raises(TabomError) as error:
        task.examples("test", None)
    assert str(error.value) == (f"{file}:1: column answer: expected an answer that ends with a number, got 'Because.'")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"num_steps": ()}, "num_steps: expected at least one number, got none"),
        ({"num_steps": (0,)}, "num_steps: expected at least 1, got 0"),
        ({"largest": 1}, "largest: expected at least 2, got 1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(TabomError) as error:
        WordProblems(**settings)
    assert str(error.value) == message
