import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.errors import TabomError
from tabom.tasks import Sudoku4x4
from tabom.tasks.sudoku import _all_grids
from tabom.types import Example

SOLUTION = "1234341221434321"


def example(puzzle):
    return Example("q", f"sudoku {puzzle}=", SOLUTION)


def test_there_are_288_grids():
    assert len(set(_all_grids())) == 288
    for grid in _all_grids():
        rows = [grid[i : i + 4] for i in range(0, 16, 4)]
        columns = ["".join(row[i] for row in rows) for i in range(4)]
        boxes = [rows[r][c : c + 2] + rows[r + 1][c : c + 2] for r in (0, 2) for c in (0, 2)]
        assert all(set(group) == set("1234") for group in rows + columns + boxes)


@pytest.mark.parametrize(
    ("response", "is_correct"),
    [
        (SOLUTION, True),
        ("1234 3412 2143 4321", True),
        ("1234\n3412\n2143\n4321\n", True),
        (SOLUTION[:-1], False),
        (SOLUTION + "1", False),
        ("1234341221434312", False),
        ("2143431212343421", False),
        ("", False),
        ("1234341221434321<mask>", False),
    ],
)
def test_verdicts(response, is_correct):
    assert Sudoku4x4().is_correct(example("1204341221434321"), response) is is_correct


@given(st.text())
def test_any_text_has_a_verdict(response):
    assert Sudoku4x4().is_correct(example("1204341221434321"), response) is ("".join(response.split()) == SOLUTION)


def test_any_valid_completion_counts():
    puzzle = "0000" * 4
    assert all(Sudoku4x4().is_correct(example(puzzle), grid) for grid in _all_grids())


def test_generated_puzzles_have_one_solution_and_the_right_number_of_blanks():
    for generated in Sudoku4x4(num_blanks=(5, 10)).examples("train", 50):
        puzzle = generated.prompt.removeprefix("sudoku ").removesuffix("=")
        assert puzzle.count("0") in (5, 10)
        fitting = [grid for grid in _all_grids() if all(a in ("0", b) for a, b in zip(puzzle, grid, strict=True))]
        assert fitting == [generated.reference]
        assert Sudoku4x4().is_correct(generated, generated.reference)


def test_splits_share_nothing_and_are_stable():
    splits = {split: Sudoku4x4().examples(split, 60) for split in ("pretrain", "train", "validation", "test")}
    prompts = [example.prompt for examples in splits.values() for example in examples]
    assert len(set(prompts)) == 4 * 60
    assert Sudoku4x4().examples("test", 60) == splits["test"]
    assert Sudoku4x4().examples("test", 30) == splits["test"][:30]
    assert Sudoku4x4(seed=1).examples("test", 60) != splits["test"]


def test_layout_of_the_reference():
    flat, rows = (Sudoku4x4(answer_layout=layout).examples("train", 1)[0] for layout in ("flat", "rows"))
    assert rows.prompt == flat.prompt
    assert rows.reference == " ".join(flat.reference[i : i + 4] for i in range(0, 16, 4))


def test_too_many_examples():
    with pytest.raises(TabomError) as error:
        Sudoku4x4(num_blanks=(1,)).examples("validation", 2000)
    assert str(error.value).startswith("expected 2000 examples of split validation, found ")


def test_bad_number_of_blanks():
    with pytest.raises(TabomError) as error:
        Sudoku4x4(num_blanks=(8, 16))
    assert str(error.value) == "num_blanks: expected numbers from 1 to 15, got [8, 16]"


class TestFile:
    def write(self, path, *rows):
        path.write_text("Puzzle,Solution\n" + "".join(f"{row}\n" for row in rows))
        return Sudoku4x4(test_file=str(path))

    def test_rows_become_the_test_split(self, tmp_path):
        task = self.write(tmp_path / "a.csv", f"1204341221434321,{SOLUTION}", f"0234341221434321,{SOLUTION}")
        assert [example.prompt for example in task.examples("test", 2)] == [
            "sudoku 1204341221434321=",
            "sudoku 0234341221434321=",
        ]
        assert task.examples("validation", 2) == Sudoku4x4().examples("validation", 2)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ("12,1234", "{path}:3: column Puzzle: expected 16 digits from 0 to 4, got '12'"),
            (f"1204341221434325,{SOLUTION}", "{path}:3: column Puzzle: expected 16 digits from 0 to 4, got "),
            ("1204341221434321,1111", "{path}:3: column Solution: expected a valid completion of 1204341221434321, "),
            ("1204341221434321", "{path}:3: expected columns Puzzle, Solution, found no Solution"),
        ],
    )
    def test_bad_row_is_named(self, tmp_path, row, message):
        path = tmp_path / "a.csv"
        task = self.write(path, f"1204341221434321,{SOLUTION}", row)
        with pytest.raises(TabomError) as error:
            task.examples("test", 2)
        assert str(error.value).startswith(message.format(path=path))

    def test_a_file_of_dream(self, tmp_path):
        """As its evaluation has them: a line break after each row."""
        path = tmp_path / "sudoku_4x4_10.jsonl"
        row = {"input": "1204\n3412\n2143\n4321", "output": "1234\n3412\n2143\n4321\n"}
        path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"output": "1"}) + "\n")
        with pytest.raises(TabomError) as error:
            Sudoku4x4(test_file=str(path)).examples("test", 1)
        assert str(error.value) == (
            f"{path}:2: column output: expected a valid completion of 1204341221434321, got '1'"
        )
        path.write_text(json.dumps(row))
        (example,) = Sudoku4x4(test_file=str(path)).examples("test", 1)
        assert (example.prompt, example.reference) == ("sudoku 1204341221434321=", SOLUTION)

    @pytest.mark.parametrize("name", ["a.parquet", "A.PARQUET"])
    def test_rows_of_parquet(self, tmp_path, name):
        pq.write_table(pa.table({"Solution": [SOLUTION], "Puzzle": ["1204341221434321"]}), tmp_path / name)
        (example,) = Sudoku4x4(test_file=str(tmp_path / name)).examples("test", 1)
        assert example.reference == SOLUTION

    def test_too_few_rows(self, tmp_path):
        path = tmp_path / "a.csv"
        task = self.write(path, f"1204341221434321,{SOLUTION}")
        with pytest.raises(TabomError) as error:
            task.examples("test", 2)
        assert str(error.value) == f"{path}: expected at least 2 examples, found 1"

    def test_no_file(self, tmp_path):
        with pytest.raises(TabomError) as error:
            Sudoku4x4(test_file=str(tmp_path / "none.csv")).examples("test", 1)
        assert str(error.value) == (
            f"{tmp_path}/none.csv: expected a CSV, JSON Lines or Parquet file, found no such file"
        )


def test_public_file(shared_data):
    task = Sudoku4x4(test_file=str(shared_data / "planning/d1/4x4_test_sudoku.csv"))
    examples = task.examples("test", 500)
    assert all(task.is_correct(example, example.reference) for example in examples)
    seen = {e.prompt for e in task.examples("train", 1000)} | {e.prompt for e in task.examples("pretrain", 200)}
    assert not seen & {example.prompt for example in examples}
