"""Question files: splits, query ids and the four verifiers."""

import csv
import json
from datetime import date, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.errors import TabomError
from tabom.sandbox import sandbox
from tabom.tasks import QuestionFile
from tabom.tasks.answers import last_number
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
        elif path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
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


def test_texts_are_made_of_several_columns(write):
    made = [{"text": f"Add {i}.", "tests": [f"assert f() == {i}", "assert g()"]} for i in range(2)]
    path, prompt = write("a.jsonl", made), "{text}\nIt has to pass: {tests.0}"
    task = QuestionFile(path, prompt_column=prompt, answer_column="{tests.0}\n{tests.1}", held_out=0)
    assert [(example.prompt, example.reference) for example in task.examples("train", None)] == [
        (f"Add {i}.\nIt has to pass: assert f() == {i}", f"assert f() == {i}\nassert g()") for i in range(2)
    ]
    message = failure(lambda: QuestionFile(path, prompt_column="{txt}", answer_column="text").examples("train", None))
    assert message == f"{path}:1: expected columns txt, text, found no txt"
    shared = QuestionFile(path, test_file=path, prompt_column=prompt, answer_column="text")
    assert f"got that of {path}:" in failure(lambda: shared.examples("train", None))


class TestSplits:
    def test_the_rows_of_the_training_file_are_shared_out(self, write):
        """Without a test file the test split is a share of them too."""
        task = QuestionFile(write("a.jsonl", rows(400)), held_out=0.25)
        train, validation, test = (task.examples(split, None) for split in ("train", "validation", "test"))
        assert 70 < len(validation) < 130
        assert 70 < len(test) < 130
        assert task.examples("pretrain", None) == train
        assert len(train) + len(validation) + len(test) == 400
        everything = {example.prompt: example.reference for example in train + validation + test}
        assert everything == {row["question"]: row["answer"] for row in rows(400)}
        assert train == sorted(train, key=lambda example: int(example.reference))

    def test_a_test_file_leaves_more_to_train_on(self, write):
        train, test = write("a.jsonl", rows(400)), write("b.jsonl", rows(401)[400:])
        alone, beside = (QuestionFile(train, other, held_out=0.25) for other in (None, test))
        assert beside.examples("validation", None) == alone.examples("validation", None)
        left, both = ({e.prompt for e in task.examples("train", None)} for task in (alone, beside))
        assert both - left == {e.prompt for e in alone.examples("test", None)}
        assert left < both

    def test_a_row_keeps_its_split_whatever_else_the_file_holds(self, write):
        few, many = (QuestionFile(write(f"{n}.jsonl", rows(n)), held_out=0.25) for n in (30, 300))
        assert [e.prompt for e in few.examples("train", 8)] == [e.prompt for e in many.examples("train", 8)]

    def test_nothing_held_out(self, write):
        task = QuestionFile(write("a.jsonl", rows(9)), held_out=0.0)
        assert len(task.examples("train", 9)) == 9
        path = task.train_file
        assert failure(lambda: task.examples("validation", 1)) == f"{path}: expected at least 1 examples, found 0"
        assert failure(lambda: task.examples("validation", None)) == f"{path}: expected at least 1 examples, found 0"

    def test_the_test_file_is_the_test_split(self, write):
        task = QuestionFile(write("a.jsonl", rows(5)), write("b.jsonl", rows(3)))
        examples = task.examples("test", 3)
        assert [example.reference for example in examples] == ["0", "2", "4"]
        assert task.examples("test", None) == examples
        assert failure(lambda: task.examples("test", 4)) == f"{task.test_file}: expected at least 4 examples, found 3"

    @pytest.mark.parametrize("split", ["pretrain", "train", "validation"])
    def test_a_question_that_is_trained_on_is_not_in_the_test_file(self, write, split):
        """The first such row of the training file is named, and where it is in the test file."""
        train, test = write("a.jsonl", rows(9)[4:]), write("b.csv", [{**row, "note": "x"} for row in rows(7)[::-1]])
        assert failure(lambda: QuestionFile(train, test, held_out=0.5).examples(split, 1)) == (
            f"{train}:1: expected a question that is not in the test split, got that of {test}:4"
        )
        other = write("c.csv", rows(4))
        assert QuestionFile(train, other, held_out=0.0).examples("train", 5)[0].prompt == "4 + 4?"

    def test_neither_a_test_file_nor_a_share(self, write):
        task = QuestionFile(write("a.jsonl", rows(5)), held_out=0.0)
        assert failure(lambda: task.examples("test", 1)) == (
            f"{task.train_file}: expected rows of their own for split test (test_file or test_split) or held_out above "
            "0, got neither"
        )

    def test_a_file_is_read_once(self, write, tmp_path):
        task = QuestionFile(write("a.jsonl", rows(5)), held_out=0.0)
        first = task.examples("train", 5)
        (tmp_path / "a.jsonl").unlink()
        assert task.examples("train", 5) == first


class TestRows:
    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
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
            f"{tmp_path}/none.jsonl: expected a CSV, JSON Lines or Parquet file, found no such file"
        )

    @pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
    def test_nested_columns(self, write, name):
        turns = [{"role": "user", "content": "2?"}, {"role": "assistant", "content": "4"}]
        path = write(name, [{"turns": turns, "turns.0": "another", "answer": {"value": 4}}])
        for columns, expected in {
            ("turns.0.content", "turns.1.content"): ("2?", "4"),
            ("turns.0", "answer.value"): ("another", "4"),
        }.items():
            task = QuestionFile(path, prompt_column=columns[0], answer_column=columns[1], held_out=0.0)
            (example,) = task.examples("train", 1)
            assert (example.prompt, example.reference) == expected

    @pytest.mark.parametrize(
        ("column", "message"),
        [
            ("turns.2.content", "expected columns question, turns.2.content, found no turns.2.content"),
            ("turns.x", "expected columns question, turns.x, found no turns.x"),
            ("question.x", "expected columns question, question.x, found no question.x"),
            ("turns", "column turns: expected text or a number, got list"),
            ("turns.1", "column turns.1: expected text or a number, got dict"),
        ],
    )
    @pytest.mark.parametrize(("name", "place"), [("a.jsonl", ":1"), ("a.parquet", ": row 0")])
    def test_a_value_that_is_no_text(self, write, name, place, column, message):
        path = write(name, [{"question": "1?", "turns": [{"content": "1"}, {"content": "2"}]}])
        task = QuestionFile(path, answer_column=column)
        assert failure(lambda: task.examples("train", 1)) == f"{path}{place}: {message}"

    def test_a_large_cell(self, write):
        task = QuestionFile(write("a.csv", [{"question": "1" * 140_000, "answer": "1"}]), held_out=0.0)
        assert len(task.examples("train", 1)[0].prompt) == 140_000

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (None, None),
            (float("nan"), None),
            ("", None),
            (" \n", None),
            (float("inf"), "expected text or a number, got inf"),
            (-float("inf"), "expected text or a number, got -inf"),
            (True, "expected text or a number, got bool"),
            ([], "expected text or a number, got list"),
            (["a"], "expected text or a number, got list"),
            ({"a": 1}, "expected text or a number, got dict"),
        ],
        ids=repr,
    )
    @pytest.mark.parametrize("column", ["question", "answer"])
    @pytest.mark.parametrize(("name", "place"), [("a.jsonl", ":1"), ("a.parquet", ": row 0")])
    def test_one_rule_for_every_column(self, write, name, place, column, value, found):
        row = {"question": "a", "answer": "1", column: value}
        path = write(name, [row])
        expected = f"column {column}: {found}" if found else f"expected columns question, answer, found no {column}"
        assert failure(lambda: QuestionFile(path).examples("train", 1)) == f"{path}{place}: {expected}"

    @pytest.mark.parametrize(
        ("value", "text"), [(3, "3"), (-0.5, "-0.5"), ("nan", "nan"), ("true", "true"), (10**30, str(10**30))]
    )
    def test_numbers_are_text(self, write, value, text):
        task = QuestionFile(write("a.jsonl", [{"question": value, "answer": value}]), held_out=0.0)
        (example,) = task.examples("train", 1)
        assert (example.prompt, example.reference) == (text, text)

    @pytest.mark.parametrize(
        ("value", "place"), [("\udc00", 1), ("smile \ud83d", 7), ("\ude00\ud83d", 1), ("\ud83d\ud83d\ude00", 1)]
    )
    def test_half_a_surrogate_pair(self, write, value, place):
        path = write("a.jsonl", [*rows(2), {"question": value, "answer": "1"}])
        assert failure(lambda: QuestionFile(path).examples("train", 1)) == (
            f"{path}:3: column question: expected text, got half a surrogate pair, {value[place - 1]!r}, "
            f"as character {place}"
        )

    @pytest.mark.parametrize("cells", ["a,", ",1", ",", 'a," "', "a"])
    def test_an_empty_cell_of_csv(self, tmp_path, cells):
        path = tmp_path / "a.csv"
        path.write_text(f"question,answer\n{cells}\n")
        message = failure(lambda: QuestionFile(str(path)).examples("train", 1))
        assert message.startswith(f"{path}:2: expected columns question, answer, found no ")


class TestParquet:
    def test_a_value_that_is_missing(self, write):
        path = write("a.parquet", [*rows(1500), {"question": "none?", "answer": None}])
        task = QuestionFile(path)
        assert failure(lambda: task.examples("train", 1)) == (
            f"{path}: row 1500: expected columns question, answer, found no answer"
        )

    def test_a_column_that_is_missing(self, write):
        path = write("a.parquet", rows(2))
        for column in ("say", "say.value"):
            task = QuestionFile(path, answer_column=column)
            assert failure(lambda task=task: task.examples("train", 1)) == (
                f"{path}: expected columns question, {task.answer_column}, found question, answer"
            )

    def test_the_rows_are_those_of_the_other_formats(self, write):
        tasks = [QuestionFile(write(f"a.{suffix}", rows(2100)), held_out=0.1) for suffix in ("jsonl", "csv", "parquet")]
        examples = [task.examples("train", 1650) for task in tasks]
        assert examples[0] == examples[1] == examples[2]

    @pytest.mark.parametrize("num_bytes", [0, 20, 300])
    def test_a_file_that_is_cut_off(self, write, num_bytes):
        path = Path(write("a.parquet", rows(50)))
        path.write_bytes(path.read_bytes()[:num_bytes])
        message = failure(lambda: QuestionFile(str(path)).examples("train", 1))
        assert message.startswith(f"{path}: expected a Parquet file (")

    def test_text_that_is_none(self, tmp_path):
        path = tmp_path / "a.parquet"
        broken = pa.StringArray.from_buffers(1, pa.py_buffer(b"\0\0\0\0\1\0\0\0"), pa.py_buffer(b"\xff"))
        pq.write_table(pa.table({"question": broken, "answer": ["1"]}), path)
        message = failure(lambda: QuestionFile(str(path)).examples("train", 1))
        assert message.startswith(f"{path}: expected a Parquet file ('utf-8' codec can't decode byte 0xff")

    @pytest.mark.parametrize("value", [date(2026, 1, 1), datetime(2026, 1, 1), timedelta(1), b"1", [1]], ids=repr)
    def test_values_that_are_neither_text_nor_number(self, tmp_path, value):
        path = tmp_path / "a.parquet"
        pq.write_table(pa.table({"question": ["a"], "answer": [value]}), path)
        message = failure(lambda: QuestionFile(str(path)).examples("train", 1))
        assert message.startswith(f"{path}: row 0: column answer: expected text or a number, got ")

    def test_damaged_pages(self, write):
        path = Path(write("a.parquet", rows(50)))
        content = bytearray(path.read_bytes())
        content[4:200] = bytes(196)
        path.write_bytes(content)
        message = failure(lambda: QuestionFile(str(path)).examples("train", 1))
        assert message.startswith(f"{path}: expected a Parquet file (")


@pytest.mark.parametrize(("test_file", "limit"), [("b.jsonl", 1), (None, 0.5)])
def test_a_share_out_of_range(test_file, limit):
    """Without a test file two shares are held out."""
    for held_out in (-0.1, limit):
        assert failure(lambda share=held_out: QuestionFile("a.jsonl", test_file, held_out=share)) == (
            f"held_out: expected a share from 0 to below {limit}, got {held_out}"
        )


def verdict(verifier, reference, response):
    return QuestionFile("none.jsonl", verifier=verifier).is_correct(Example("q", "p", reference), response)


@pytest.mark.parametrize(
    ("response", "is_correct"), [("a b", True), (" a b\n", True), ("a  b", False), ("A b", False), ("", False)]
)
def test_exact(response, is_correct):
    assert verdict("exact", "a b ", response) is is_correct


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


class TestCode:
    TESTS = "assert double(2) == 4\nassert double('a') == 'aa'"

    @pytest.mark.parametrize(
        ("response", "is_correct"),
        [
            ("def double(x): return 2 * x", True),
            ("So:\n```python\ndef double(x):\n    return x + x\n```\nThat is it.", True),
            ("def double(x): return x ** 2", False),
            ("So:\n\ndef double(x): return 2 * x", False),
            ("```python\nraise SystemExit(0)\n```", False),
            ("", False),
        ],
        ids=range(6),
    )
    def test_the_tests_decide(self, response, is_correct):
        task = QuestionFile("none.jsonl", verifier="code", allow_code_execution=True)
        assert task.is_correct(Example("q", "p", self.TESTS), response) is is_correct

    def test_many_are_judged_in_order(self):
        task = QuestionFile("none.jsonl", verifier="code", allow_code_execution=True)
        tests = [f"assert f() == {number}" for number in range(6)]
        responses = [f"def f(): return {number if number % 3 else -1}" for number in range(6)]
        examples = [Example(str(number), "p", text) for number, text in enumerate(tests)]
        assert task.are_correct(examples, responses) == [False, True, True] * 2

    def test_it_has_to_be_allowed(self):
        assert failure(lambda: QuestionFile("none.jsonl", verifier="code")) == (
            "verifier: code runs programs that a model wrote, confined as docs/sandbox.md says; "
            "expected allow_code_execution: true, got false"
        )

    def test_a_machine_that_cannot_confine_says_so_at_once(self, monkeypatch):
        monkeypatch.setattr(sandbox, "landlock_version", lambda: -1)
        message = failure(lambda: QuestionFile("none.jsonl", verifier="code", allow_code_execution=True))
        assert message.startswith("sandbox: expected a kernel with Landlock")


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
