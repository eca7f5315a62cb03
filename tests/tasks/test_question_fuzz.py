"""Question files with faults: read right, or refused by a sentence that names the file and the line."""

import codecs
import csv
import io
import json
import math
import random
import re
from collections import Counter

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.errors import TabomError
from tabom.storage.rows import json_rows
from tabom.tasks import Countdown, QuestionFile, Sudoku4x4, read_rows
from tabom.trajectories.formats import Codec, ImportedRow, ImportRequest, Rejection, usable_rows

COLUMNS = ("question", "answer")
TEXTS = ["What is 1 + 1?", 'say "a, b"', "two\nlines", "smile \U0001f600", "\u00fcber", "x" * 300, "#### 4", " padded "]
VALUES = [None, math.nan, math.inf, True, [], ["a"], {"a": 1}, "", " ", 3, 2.5, "\ud83d", "nan", 10**400]
BYTES = [
    b"\xff",
    b"\0",
    b'"',
    b"\n",
    b"\r",
    b"{",
    b"[",
    b"]",
    b",",
    b"\\",
    b"\\ud83d",
    codecs.BOM_UTF8,
    b"NaN",
    b"\n\n",
]


def as_lines(rows, rng):
    end = rng.choice(["\n", "\r\n", "\n\n"])
    return "".join(json.dumps(row, ensure_ascii=rng.random() < 0.5) + end for row in rows)


def as_array(rows, rng):
    return json.dumps(rows, indent=rng.choice([None, 2]))


def as_csv(rows, rng):
    file = io.StringIO(newline="")
    writer = csv.writer(file, lineterminator=rng.choice(["\n", "\r\n"]))
    writer.writerows([rows[0], *(row.values() for row in rows)])
    return file.getvalue()


def as_parquet(rows, rng):
    file = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), file, compression=rng.choice(["none", "snappy"]))
    return file.getvalue()


WRITERS = {"a.jsonl": as_lines, "a.JSON": as_array, "a.CSV": as_csv, "a.parquet": as_parquet}


def mutated(name, rng, example=None):
    """Bytes of a file with a fault or two; its rows are that of a task, or any texts."""
    rows = [example or {column: rng.choice(TEXTS) for column in COLUMNS} for _ in range(rng.randint(1, 6))]
    if rng.random() < 0.3 and name != "a.parquet":
        place = rng.randrange(len(rows))
        rows[place] = rows[place] | {rng.choice(list(rows[0])): rng.choice(VALUES)}
    content = WRITERS[name](rows, rng)
    if isinstance(content, str):
        encoding = rng.choice(["utf-8"] * 6 + ["utf-8-sig", "utf-16", "latin-1"])
        content = content.encode(encoding, "replace" if encoding == "latin-1" else "surrogatepass")
    content = bytearray(content)
    for _ in range(rng.choice([0, 1, 1, 1, 2])):
        place, other = rng.randrange(len(content) + 1), rng.randrange(len(content) + 1)
        first, last = sorted((place, other))
        match rng.choice(["cut", "drop", "insert", "swap", "byte", "again"]):
            case "cut":
                del content[place:]
            case "drop":
                del content[place : place + rng.randint(1, 3)]
            case "insert":
                content[place:place] = rng.choice(BYTES)
            case "swap" if last < len(content):
                content[first], content[last] = content[last], content[first]
            case "byte" if place < len(content):
                content[place] = rng.randrange(256)
            case "again":
                content[place:place] = content[first:last]
    return bytes(content)


def plainly(name, content):
    """The rows as a straightforward reader without messages has them."""
    text = content.decode("utf-8-sig")
    if name == "a.CSV":
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if len(row) > 1 or "".join(row).strip()]
        return [dict(zip(rows[0], row, strict=False)) for row in rows[1:]]
    if name == "a.JSON":
        return json.loads(text)
    return [
        json.loads(line.removeprefix("\ufeff")) for line in re.split(r"\r\n|\r|\n", text) if line.strip("\ufeff \t")
    ]


def check(path):
    """Whether a file is read; one that is read wrongly, or refused without a place, is an error."""
    content = path.read_bytes()
    task = QuestionFile(str(path), held_out=0.0)
    try:
        rows = [row for _, row in read_rows(path, COLUMNS)]
    except TabomError as error:
        message = str(error)
    else:
        if path.suffix != ".parquet":
            expected = [{column: str(row[column]) for column in COLUMNS} for row in plainly(path.name, content)]
            assert rows == expected
        assert all(text.strip() and text.encode() for row in rows for text in row.values())
        assert len({row["question"] for row in rows}) == len(task._train_examples)
        return True
    place = re.match(rf"{re.escape(str(path))}(?::(\d+)|: row \d+)?: (?:column \w+: )?expected ", message)
    assert place is not None, message
    assert path.suffix == ".parquet" or 1 <= int(place[1]) <= len(content.splitlines()), message
    assert message.isprintable(), message
    assert not re.search(r"\bline \d", message), message
    with pytest.raises(TabomError):
        task.examples("train", 1)
    return False


@pytest.mark.slow
@pytest.mark.parametrize("name", WRITERS)
def test_a_file_with_faults_is_read_right_or_refused(tmp_path, name):
    rng = random.Random(name)
    num_read = 0
    for number in range(50):
        path = tmp_path / str(number) / name
        path.parent.mkdir()
        path.write_bytes(mutated(name, rng))
        num_read += check(path)
    assert 5 <= num_read <= 45


PLACE = re.compile(r".*/a\.\w+(:\d+|: row \d+)?: (column \w+: )?expected ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "example"),
    [
        (Countdown, {"input": "2,3", "output": "6"}),
        (Countdown, {"input": "86,28,13,31,96", "output": "86+28=114,31-13=18,114-18=96"}),
        (Sudoku4x4, {"Puzzle": "1204341221434321", "Solution": "1234341221434321"}),
        (Sudoku4x4, {"input": "1204\n3412\n2143\n4321", "output": "1234\n3412\n2143\n4321"}),
    ],
    ids=["d1's Countdown", "Dream's Countdown", "d1's Sudoku", "Dream's Sudoku"],
)
def test_puzzles_with_faults(tmp_path, task, example):
    rng = random.Random(str(example))
    num_read = 0
    for number in range(40):
        name = list(WRITERS)[number % 4]
        (tmp_path / name).write_bytes(mutated(name, rng, example))
        puzzles = task(test_file=str(tmp_path / name))
        try:
            examples = puzzles._read(puzzles.test_file)
        except TabomError as error:
            message = str(error)
        else:
            message = None
            assert all(puzzles.is_correct(one, one.reference) for one in examples)
        num_read += message is None
        assert message is None or PLACE.match(message), message
    assert 2 <= num_read <= 38


@pytest.mark.slow
def test_trajectories_with_faults():
    """Each row is kept, or left out with a reason; so is an array with a fault, as a whole."""
    rng = random.Random(0)
    given = {"prompt": "ask \U0001f600", "response": "b", "id": 3, "correct": True}
    given |= {"response_token_ids": [5, 6], "decoding_order": [1, 0]}
    codec = Codec(256, 255, 0, lambda prompt, _: list(prompt.encode()), lambda text, _: list(text.encode()))
    parse = ImportRequest([], "").parser(255)

    def places(content):
        return ((str(line), row) for line, row in json_rows(content.splitlines(keepends=True)))

    kinds = Counter()
    for number in range(100):
        content = mutated(list(WRITERS)[number % 2], rng, given)
        for row in usable_rows(places(content), parse, codec):
            assert 1 <= int(row.place) <= len(content.splitlines())
            kinds[type(row)] += 1
    assert all(kinds[kind] >= 20 for kind in (ImportedRow, Rejection))
