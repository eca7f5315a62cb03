"""The own task of docs/tasks.md, as it stands there, from a file to a training's data."""

import re

import pytest

from tabom import tasks
from tabom.errors import TabomError


@pytest.fixture(scope="module")
def page(repository):
    return (repository / "docs/tasks.md").read_text()


@pytest.fixture
def make(page, tmp_path):
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names = {}
    exec(code, names)
    (tmp_path / "sums.csv").write_bytes(b"\xef\xbb\xbfa,b\r\n1,2\r\n\r\n30,4\r\n")
    return names["Sums"](str(tmp_path / "sums.csv"))


def test_its_splits(make):
    train, validation = make.examples("train", 40), make.examples("validation", 40)
    assert not {example.prompt for example in train} & {example.prompt for example in validation}
    assert make.examples("train", 40) == train
    assert all(make.is_correct(example, example.reference) for example in train)
    assert [(example.prompt, example.reference) for example in make.examples("test", 2)] == [
        ("1+2=", "3"),
        ("30+4=", "34"),
    ]


def test_what_it_says_of_files(make):
    with pytest.raises(TabomError, match=r"sums\.csv: expected at least 3 examples, found 2$"):
        make.examples("test", 3)
    make.test_file.write_text("a,b\n1,\n")
    with pytest.raises(TabomError, match=r"sums\.csv:2: expected columns a, b, found no b$"):
        make.examples("test", 1)


def test_too_few_problems(make):
    make.max_number = 1
    with pytest.raises(TabomError, match=r"^expected 9 examples of split train, found "):
        make.examples("train", 9)


def test_the_sentences_of_the_page(page, tmp_path):
    """Each is what a file with that fault gives."""
    lines = [
        '{"question": "x", "answer": "1"',
        '{"question": "x", "answer": NaN}',
        "",
        '{"question": "smile \\ud83d", "answer": "1"}',
    ]
    found = []
    for number, line in enumerate(lines, 57):
        path = tmp_path / "train.jsonl"
        path.write_text("\n" * (number - 1) + line)
        if line:
            with pytest.raises(TabomError) as error:
                list(tasks.read_rows(path, ("question", "answer")))
            found.append(str(error.value).replace(str(path), "data/train.jsonl"))
    (said,) = re.findall(r"```\n(data/.*?)```", page, re.DOTALL)
    assert [line for line in said.splitlines() if "jsonl" in line] == found


def test_everything_named_is_exported(page):
    assert {"read_rows", "take", "generate_distinct", "Task", "Split"} <= set(tasks.__all__)
