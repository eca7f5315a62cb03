"""Questions of a data set: the hub's layout in a local directory."""

import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.errors import TabomError
from tabom.seeding import share_of
from tabom.tasks import QuestionDataset, QuestionFile

CARD = """---
configs:
- config_name: main
  data_files:
  - {{split: train, path: data/train.{suffix}}}
  - {{split: test, path: data/test.{suffix}}}
- config_name: small
  data_files:
  - {{split: train, path: data/test.{suffix}}}
---
"""


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def publish(tmp_path):
    """A directory as a repository on the hub has it."""

    def publish(train, test, suffix="parquet"):
        data = tmp_path / "sums" / "data"
        data.mkdir(parents=True)
        (tmp_path / "sums" / "README.md").write_text(CARD.format(suffix=suffix))
        for split, rows in {"train": train, "test": test}.items():
            path = data / f"{split}.{suffix}"
            if suffix == "parquet":
                pq.write_table(pa.Table.from_pylist(rows), path)
            else:
                path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(tmp_path / "sums")

    return publish


def rows(numbers):
    return [{"question": f"{i} + {i}?", "answer": str(2 * i), "level": 1} for i in numbers]


def failure(task, split="train"):
    with pytest.raises(TabomError) as error:
        task.examples(split, 1)
    return str(error.value)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_splits_and_ids_are_those_of_a_file(publish, tmp_path, suffix):
    path = publish([*rows(range(40)), *rows(range(5))], rows(range(40, 43)), suffix)
    task = QuestionDataset(path, "main", held_out=0.25)
    file = tmp_path / "sums.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows(range(40))))
    other = tmp_path / "other.jsonl"
    other.write_text(json.dumps(rows([40])[0]))
    same = QuestionFile(str(file), str(other), held_out=0.25)
    num_held_out = sum(share_of(row["question"]) < 0.25 for row in rows(range(40)))
    for split, num_examples in {
        "train": 40 - num_held_out,
        "pretrain": 40 - num_held_out,
        "validation": num_held_out,
    }.items():
        assert task.examples(split, num_examples) == same.examples(split, num_examples)
    assert [(e.prompt, e.reference) for e in task.examples("test", 3)] == [
        ("40 + 40?", "80"),
        ("41 + 41?", "82"),
        ("42 + 42?", "84"),
    ]
    assert task.examples("train", 1)[0].query_id.startswith("sums/")


def test_configuration_and_splits_by_name(publish):
    path = publish(rows(range(4)), rows(range(4, 6)))
    task = QuestionDataset(path, "small", train_split="train[1:]", test_split="train[:1]", held_out=0.0)
    assert [example.reference for example in task.examples("train", 1)] == ["10"]
    assert [example.reference for example in task.examples("test", 1)] == ["8"]
    with pytest.raises(TabomError) as error:
        task.examples("train", 2)
    assert str(error.value) == f"{path} small: split train[1:]: expected at least 2 examples, found 1"


def test_the_verifier_is_the_file_s(publish):
    task = QuestionDataset(publish(rows([3]), rows([4])), "main", verifier="number", held_out=0.0)
    (example,) = task.examples("train", 1)
    assert task.is_correct(example, "That is 6.0.")
    assert not task.is_correct(example, "That is 7.")


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_nested_columns(publish, suffix):
    turns = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "4"}]
    row = [{"turns": turns, "answer": {"value": 4}, "level": 1}] * 2
    path = publish(row, row, suffix)
    for column in ("turns.1.content", "answer.value"):
        columns = {"prompt_column": "turns.0.content", "answer_column": column}
        (example,) = QuestionDataset(path, "main", test_split=None, held_out=0.0, **columns).examples("train", 1)
        assert (example.prompt, example.reference) == ("2?", "4")


def test_no_such_column(publish):
    path = publish(rows([1]), rows([2]))
    assert failure(QuestionDataset(path, "main", answer_column="say.value")) == (
        f"{path} main: split train: expected columns question, say.value, found question, answer, level"
    )


def test_a_value_that_is_missing(publish):
    path = publish([*rows([1, 2]), {"question": "3?", "answer": None, "level": 1}], rows([2]))
    assert failure(QuestionDataset(path, "main")) == (
        f"{path} main: split train: row 2: expected columns question, answer, found no answer"
    )


def test_no_such_split(publish):
    path = publish(rows([1]), rows([2]))
    assert failure(QuestionDataset(path, "main", train_split="tests")) == (
        f"{path} main: split tests: expected a data set of the hub or a directory in its layout "
        """(Unknown split "tests". Should be one of ['train', 'test'].)"""
    )


def test_no_such_configuration(publish):
    path = publish(rows([1]), rows([2]))
    assert failure(QuestionDataset(path, "big")) == (
        f"{path} big: split train: expected a data set of the hub or a directory in its layout "
        "(BuilderConfig 'big' not found. Available: ['main', 'small'])"
    )


def test_a_broken_file(publish, tmp_path):
    path = publish(rows([1]), rows([2]), "jsonl")
    (tmp_path / "sums/data/train.jsonl").write_text("{bad\n")
    assert failure(QuestionDataset(path, "main")).startswith(
        f"{path} main: split train: expected a data set of the hub or a directory in its layout ("
    )


def test_splits_of_different_columns(publish):
    path = publish(rows([1]), [{"question": "2?", "solution": "x" * 1000}], "jsonl")
    message = failure(QuestionDataset(path, "main"))
    assert "hub or a directory in its layout (Couldn't cast " in message
    assert "\n" not in message
    assert len(message) < len(path) + 550


def test_splits_that_share_a_question(publish):
    path = publish(rows(range(4)), rows(range(2, 9)))
    assert failure(QuestionDataset(path, "main")) == (
        f"{path} main: split train: row 2: expected a question that is not in the test split, got that of {path} main: "
        "split test: row 0"
    )


@pytest.mark.parametrize("path", ["none/such", "/none/such"])
def test_no_such_data_set(path):
    message = failure(QuestionDataset(path, train_split="all", revision="v1"))
    assert message.startswith(
        f"{path}: split all: expected a data set of the hub or a directory in its layout (Couldn't "
    )
    assert message.count("\n") == 0


def test_without_a_test_split(publish):
    path = publish(rows(range(40)), rows([2]))
    task = QuestionDataset(path, "main", test_split=None, held_out=0.25)
    parts = [task.examples(split, None) for split in ("train", "validation", "test")]
    assert all(parts)
    assert sorted(e.reference for part in parts for e in part) == sorted(str(2 * i) for i in range(40))
    assert failure(QuestionDataset(path, "main", test_split=None, held_out=0.0), "test") == (
        f"{path} main: split train: expected rows of their own for split test (test_file or test_split) or held_out "
        "above 0, got neither"
    )


def test_a_share_out_of_range():
    with pytest.raises(TabomError) as error:
        QuestionDataset("a/b", held_out=1.0)
    assert str(error.value) == "held_out: expected a share from 0 to below 1, got 1.0"


def test_revision_and_configuration_reach_the_library(monkeypatch):
    calls = []

    def load_dataset(*arguments, **options):
        calls.append((arguments, options))
        return datasets.Dataset.from_list(rows([1]))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = QuestionDataset("openai/gsm8k", "main", revision="e53f048", test_split=None, held_out=0.0)
    assert task.examples("train", 1) == task.examples("train", 1)
    assert task.examples("train", 1)[0].query_id == "gsm8k/c97c3a9c9b990740"
    assert calls == [(("openai/gsm8k", "main"), {"split": "train", "revision": "e53f048"})]
