"""Text files as editors, spreadsheets and pandas save them: which rows, on which lines."""

import csv
import gzip
import io
import json
from decimal import Decimal

import pytest

from tabom.errors import TabomError
from tabom.storage.rows import is_text, json_rows, read_text_rows, text_of

BOM = "\ufeff"
A, B = '{"q": "a", "n": 1}', '{"q": "b\\n", "n": [2]}'
ROWS = [{"q": "a", "n": 1}, {"q": "b\n", "n": [2]}]


def read(path, content):
    """(line, row) of each."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    rows = list(read_text_rows(path))
    assert all(where.startswith(f"{path}:") for where, _ in rows)
    return [(int(where.removeprefix(f"{path}:")), row) for where, row in rows]


def failure(path, content):
    with pytest.raises(TabomError) as error:
        read(path, content)
    return str(error.value).removeprefix(str(path))


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"{A}\n{B}\n", [1, 2]),
        (f"{A}\n{B}", [1, 2]),
        (f"{BOM}{A}\n{B}\n", [1, 2]),
        (f"{A}\n{BOM}{B}\n", [1, 2]),
        (f"{BOM}\n{A}\n{B}", [2, 3]),
        (f"\n\n{A}\n \t\n\n{B}\n\n", [3, 6]),
        (f"{A}\r\n\r\n{B}\r\n", [1, 3]),
        (f"{A}\r{B}\r", [1, 2]),
        (f"  {A}  \n\t{B}", [1, 2]),
        (f"[{A},{B}]", [1, 1]),
        (f"[{A}\n,{B}\n]\n", [1, 2]),
        (f"{BOM}[\n\n{A},\n{B}\n]\n", [3, 4]),
        (f"\r\n[\r\n  {A},\r\n\r\n  {B}\r\n]\r\n\r\n", [3, 5]),
        (json.dumps(ROWS, indent=4), [2, 6]),
        (f"[\r{A},\r{B}]", [2, 3]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["a.jsonl", "A.JSON", "a.txt", "a.JSONL.GZ"])
def test_json(tmp_path, name, text, lines):
    content = gzip.compress(text.encode()) if name.endswith("GZ") else text
    assert read(tmp_path / name, content) == list(zip(lines, ROWS, strict=True))


@pytest.mark.parametrize("text", ["", "\n \r\n", BOM, "[]", " [\n ]\n"], ids=repr)
def test_json_without_rows(tmp_path, text):
    assert read(tmp_path / "a.jsonl", text) == []


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        (f"\n{A}\n\n{{", 4, "got '{' (Expecting property name enclosed in double quotes at column 2)"),
        (f"{A}\n{A}{A}\n", 2, """got '{"q": "a", "n": 1}{"q": "a", "n": 1}' (Extra data at column 19)"""),
        (f"{A}\n[{A}]\n", 2, "got list"),
        (f"{A}\n\nnull", 3, "got NoneType"),
        ("[1]", 1, "got list"),
        (f"[{A},\n3]", 2, "got int"),
        (f"[\n{A},\n{A[:9]}", 3, "got a JSON array with a fault (Expecting ',' delimiter at column 10)"),
        (f"\n[\n{A}\n{B}]", 4, "got a JSON array with a fault (Expecting ',' delimiter at column 1)"),
        (f"[{A}]\n{B}", 2, "got a JSON array with a fault (Extra data at column 1)"),
        (f"[\n{A},\n", 2, "got a JSON array with a fault ("),
        ("[" * 100_000, 1, "got '[[["),
        ("9" * 5000, 1, "got '999"),
        (A.encode() + b'\n{"q": "\xff"}', 2, """got '{"q": "\ufffd"}' ('utf-8' codec can't decode byte 0xff"""),
        (b'[\n{"q": "\xff"}]', 2, "got a JSON array with a fault ('utf-8' codec can't decode byte 0xff"),
        (A.encode("utf-16"), 1, "got "),
        (gzip.compress(A.encode()), 1, "got "),
    ],
    ids=range(16),
)
def test_json_that_is_none(tmp_path, content, line, message):
    assert failure(tmp_path / "a.jsonl", content).startswith(f":{line}: expected a JSON object, {message}")


@pytest.mark.parametrize(
    "content",
    [b"", A.encode(), gzip.compress(A.encode())[:-4], gzip.compress(A.encode())[:10] + b"\xff" * 30],
    ids=range(4),
)
def test_a_damaged_archive(tmp_path, content):
    if content:
        assert failure(tmp_path / "a.gz", content).startswith(": expected a file that can be read (")
    else:
        assert read(tmp_path / "a.gz", content) == []


CELLS = [{"q": "a", "n": "1"}, {"q": 'b,\n"c"\r\n', "n": " 2"}]
QUOTED = '"b,\n""c""\r\n", 2'


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        (f"q,n\na,1\n{QUOTED}\n", [2, 3]),
        (f"{BOM}q,n\na,1\n{QUOTED}", [2, 3]),
        (f'{BOM}"q","n"\r\n"a",1\r\n{QUOTED}\r\n', [2, 3]),
        (f"\n\nq,n\n\na,1\n \n{QUOTED}\n\n", [5, 7]),
        (f"q,n\ra,1\r{QUOTED}\r", [2, 3]),
        (f"q,n,\na,1,\n{QUOTED},,\n", [2, 3]),
    ],
    ids=repr,
)
@pytest.mark.parametrize("name", ["a.csv", "A.CSV", "a.Csv.gz"])
def test_csv(tmp_path, name, text, lines):
    content = gzip.compress(text.encode()) if name.endswith("gz") else text
    rows = [(line, {key: row[key] for key in "qn"}) for line, row in read(tmp_path / name, content)]
    assert rows == list(zip(lines, CELLS, strict=True))


def test_lines_after_a_quoted_line_break(tmp_path):
    assert read(tmp_path / "a.csv", 'q,n\n"1\n\n2",x\n\n"3\n",y\nz,"a\r\nb"\nu,v') == [
        (2, {"q": "1\n\n2", "n": "x"}),
        (6, {"q": "3\n", "n": "y"}),
        (8, {"q": "z", "n": "a\r\nb"}),
        (10, {"q": "u", "n": "v"}),
    ]


def test_large_cells(tmp_path):
    csv.field_size_limit(100)
    assert read(tmp_path / "a.csv", f"q,n\n{'x' * 200_000},1") == [(2, {"q": "x" * 200_000, "n": "1"})]


@pytest.mark.parametrize("text", ["", "\n", BOM, "q,n", "q,n\n\n"], ids=repr)
def test_csv_without_rows(tmp_path, text):
    assert read(tmp_path / "a.csv", text) == []


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ('q,n\na,1\n"b,2\nc,3\n', 3, "got something else (unexpected end of data)"),
        ('q,n\n"a"b,1\n', 2, "got something else (',' expected after '\"')"),
        ("q,n\na,1,234\n", 2, "got 3 cells below a header of 2"),
        (b"q,n\na,1\n\xff,1\n", 3, "got something else ('utf-8' codec can't decode byte 0xff"),
        (b'q,n\n"a\n\xe4",1\n', 3, "got something else ('utf-8' codec can't decode byte 0xe4"),
        ("q,n\na,1\n".encode("utf-16"), 1, "got something else ("),
    ],
    ids=range(6),
)
def test_csv_that_is_none(tmp_path, content, line, message):
    assert failure(tmp_path / "a.csv", content).startswith(f":{line}: expected CSV in UTF-8, {message}")


def test_rows_after_one_that_is_none_are_read():
    lines = io.BytesIO(f"{A}\n{{\n{A}".encode())
    kinds = [(line, type(row)) for line, row in json_rows(lines)]
    assert kinds == [(1, dict), (2, ValueError), (3, dict)]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        (" a\n", " a\n"),
        ("NaN", "NaN"),
        (3, "3"),
        (0, "0"),
        (2.5, "2.5"),
        (10**400, f"1{'0' * 400}"),
        (Decimal("1.50"), "1.50"),
        (None, None),
        ("", None),
        ("\u00a0\n", None),
        (float("nan"), None),
        (Decimal("nan"), None),
    ],
    ids=repr,
)
def test_text_and_nothing(value, text):
    assert text_of(value) == text
    assert is_text(value) is (isinstance(value, str) and text is not None)


@pytest.mark.parametrize("value", [True, float("-inf"), Decimal("inf"), [], {}, b"a", "a\udfff", 1j], ids=repr)
def test_neither_text_nor_nothing(value):
    assert not is_text(value)
    with pytest.raises(ValueError, match=r"^expected text"):
        text_of(value)
