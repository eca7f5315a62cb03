"""Question files: splits, query ids and the three verifiers."""

import csv
import json
import sys
import threading
from fractions import Fraction

import pytest

from tabom.errors import TabomError
from tabom.tasks import QuestionFile
from tabom.tasks.question_file import last_number
from tabom.types import Example


@pytest.fixture
def write(tmp_path):
    def write(name, rows):
        path = tmp_path / name
        if path.suffix == ".csv":
            with path.open("w", newline="") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(path)

    return write


def rows(num_rows):
    return [{"question": f"{i} + {i}?", "answer": str(2 * i)} for i in range(num_rows)]


def failure(call):
    with pytest.raises(TabomError) as error:
        call()
    return str(error.value)


class TestSplits:
    def test_the_rows_of_the_training_file_are_shared_out(self, write):
        task = QuestionFile(write("a.jsonl", rows(200)), held_out=0.25)
        num_validation = sum(1 for n in range(1, 201) if self.has(task, "validation", n))
        train, validation = task.examples("train", 200 - num_validation), task.examples("validation", num_validation)
        assert 30 < num_validation < 70
        assert task.examples("pretrain", len(train)) == train
        everything = {example.prompt: example.reference for example in train + validation}
        assert everything == {row["question"]: row["answer"] for row in rows(200)}
        assert train == sorted(train, key=lambda example: int(example.reference))

    @staticmethod
    def has(task, split, num_examples):
        try:
            return len(task.examples(split, num_examples)) == num_examples
        except TabomError:
            return False

    def test_a_row_keeps_its_split_whatever_else_the_file_holds(self, write):
        few, many = (QuestionFile(write(f"{n}.jsonl", rows(n)), held_out=0.5) for n in (30, 300))
        assert [e.prompt for e in few.examples("train", 8)] == [e.prompt for e in many.examples("train", 8)]

    def test_nothing_held_out(self, write):
        task = QuestionFile(write("a.jsonl", rows(9)), held_out=0.0)
        assert len(task.examples("train", 9)) == 9
        path = task.train_file
        assert failure(lambda: task.examples("validation", 1)) == f"{path}: expected at least 1 examples, found 0"

    def test_the_test_file_is_the_test_split(self, write):
        task = QuestionFile(write("a.jsonl", rows(5)), write("b.jsonl", rows(3)))
        examples = task.examples("test", 3)
        assert [example.reference for example in examples] == ["0", "2", "4"]
        assert failure(lambda: task.examples("test", 4)) == f"{task.test_file}: expected at least 4 examples, found 3"

    def test_without_a_test_file(self, write):
        task = QuestionFile(write("a.jsonl", rows(5)))
        assert failure(lambda: task.examples("test", 1)) == (
            "test_file: expected a file with the rows of split test, got none"
        )

    def test_a_file_is_read_once(self, write, tmp_path):
        task = QuestionFile(write("a.jsonl", rows(5)), held_out=0.0)
        first = task.examples("train", 5)
        (tmp_path / "a.jsonl").unlink()
        assert task.examples("train", 5) == first


class TestRows:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv"])
    def test_columns(self, write, name):
        content = [{"ask": 'one,\n"quoted"', "say": "1"}, {"ask": "two", "say": "2"}]
        task = QuestionFile(write(name, content), prompt_column="ask", answer_column="say", held_out=0.0)
        assert [(e.prompt, e.reference) for e in task.examples("train", 2)] == [('one,\n"quoted"', "1"), ("two", "2")]

    def test_query_ids_name_file_and_prompt(self, write):
        task = QuestionFile(write("gsm.jsonl", rows(2)), held_out=0.0)
        assert [example.query_id for example in task.examples("train", 2)] == [
            "gsm/eacc60b01337d98b",
            "gsm/c97c3a9c9b990740",
        ]

    def test_a_prompt_that_occurs_again_is_dropped(self, write):
        task = QuestionFile(write("a.jsonl", [*rows(3), {"question": "1 + 1?", "answer": "other"}]), held_out=0.0)
        assert [example.reference for example in task.examples("train", 3)] == ["0", "2", "4"]
        assert failure(lambda: task.examples("train", 4)).endswith(": expected at least 4 examples, found 3")

    def test_a_missing_column_is_named(self, write):
        path = write("a.jsonl", [*rows(2), {"question": "3?"}])
        assert failure(lambda: QuestionFile(path).examples("train", 1)) == (
            f"{path}:3: expected columns question, answer, found no answer"
        )

    def test_no_file(self, tmp_path):
        task = QuestionFile(str(tmp_path / "none.jsonl"))
        assert failure(lambda: task.examples("train", 1)) == (
            f"{tmp_path}/none.jsonl: expected a CSV or JSON Lines file, found no such file"
        )


@pytest.mark.parametrize("held_out", [-0.1, 1.0])
def test_a_share_out_of_range(held_out):
    assert failure(lambda: QuestionFile("a.jsonl", held_out=held_out)) == (
        f"held_out: expected a share from 0 to below 1, got {held_out}"
    )


def verdict(verifier, reference, response):
    return QuestionFile("none.jsonl", verifier=verifier).is_correct(Example("q", "p", reference), response)


@pytest.mark.parametrize(
    ("response", "is_correct"), [("a b", True), (" a b\n", True), ("a  b", False), ("A b", False), ("", False)]
)
def test_exact(response, is_correct):
    assert verdict("exact", "a b ", response) is is_correct


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 1,234", 1234),
        ("The answer is $1234.00.", 1234),
        ("1,234,567.25 in all", Fraction(4938269, 4)),
        ("first 3, then 1,2", 2),
        ("1,2345", 2345),
        ("12345,678", 678),
        ("18\n#### -5", -5),
        ("a loss of -$5.50!", Fraction(-11, 2)),
        ("\u22127", -7),
        ("10-5", 5),
        ("(3)-2", 2),
        ("10 - 5", 5),
        ("x=-3/4", Fraction(-3, 4)),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("50% of it", 50),
        ("3/0", None),
        ("none", None),
        ("", None),
        ("\u0663", None),
        ("9" * 6000, 10**6000 - 1),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_last_number(text, value):
    assert last_number(text) == value


def test_number():
    assert verdict("number", "so\n#### 1,234", "The answer is $1234.00.")
    assert verdict("number", "#### 0.1", "That is 1/10")
    assert not verdict("number", "#### 1,234", "1234, or 1235")
    assert not verdict("number", "#### 9007199254740993", "9007199254740992")
    assert not verdict("number", "#### 18", "")
    assert not verdict("number", "no number", "none either")


@pytest.mark.parametrize(
    ("reference", "response", "is_correct"),
    [
        (r"so $\boxed{\frac{1}{2}}$", "The answer is $0.5$.", True),
        (r"\boxed{(1, 2)}", r"\boxed{\left(1, 2\right)}", True),
        (r"$x^2 + 2x + 1$", r"$(x+1)^2$", True),
        (r"$x^2 + 2x + 1$", r"$(x-1)^2$", False),
        (r"\boxed{12}", "The answer is 13.", False),
        (r"\boxed{12}", "", False),
        ("", "", False),
    ],
)
def test_math(reference, response, is_correct):
    assert verdict("math", reference, response) is is_correct


def test_math_outside_the_main_thread():
    verdicts = []
    thread = threading.Thread(target=lambda: verdicts.extend(verdict("math", r"\boxed{2}", r) for r in ("$2$", "$3$")))
    thread.start()
    thread.join()
    assert verdicts == [True, False]


def test_math_without_its_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "math_verify", None)
    assert failure(lambda: verdict("math", "1", "1")) == ("verifier: math needs math-verify; pip install 'tabom[math]'")


class TestGsm8k:
    @pytest.fixture
    def files(self, shared_data):
        return [str(shared_data / "gsm8k" / f"{split}.jsonl") for split in ("train", "test")]

    def test_every_reference_has_its_number(self, files):
        task = QuestionFile(*files, verifier="number")
        examples = task.examples("test", 1319)
        for example in examples:
            answer = example.reference.rpartition("#### ")[2]
            value = last_number(answer)
            assert task.is_correct(example, example.reference)
            assert task.is_correct(example, f"The answer is ${answer}.00.")
            assert not task.is_correct(example, f"{answer} is wrong, it is {value + 1}")
        assert len(task.examples("train", 7000)) == 7000
        assert len(task.examples("validation", 350)) == 350

    def test_math_agrees_on_a_sample(self, files):
        task = QuestionFile(*files, verifier="math")
        for example in task.examples("test", 1300)[::26]:
            value = last_number(example.reference)
            assert task.is_correct(example, example.reference)
            assert task.is_correct(example, rf"So it is $\boxed{{{value}}}$")
            assert not task.is_correct(example, rf"So it is $\boxed{{{value + 1}}}$")
