"""What a killed process leaves of a log is read, and gone on with."""

import pytest

from tabom.errors import TabomError
from tabom.storage.log import append_line, read_lines

LINES = [{"a": "1\n\u2028"}, {"b": None}]


@pytest.fixture
def log(tmp_path):
    path = tmp_path / "log.jsonl"
    for line in LINES:
        append_line(path, line)
    return path


def test_lines_come_back(log):
    assert read_lines(log, "a line") == LINES


@pytest.mark.parametrize(("num_bytes", "num_left"), [(1, 1), (5, 1), (13, 0)])
def test_an_unfinished_line_is_left_out_and_written_over(log, num_bytes, num_left):
    log.write_bytes(log.read_bytes()[:-num_bytes])
    assert read_lines(log, "a line") == LINES[:num_left]
    append_line(log, LINES[1])
    assert read_lines(log, "a line") == [*LINES[:num_left], LINES[1]]


def test_a_log_without_a_whole_line_is_begun_anew(log):
    log.write_bytes(b'{"a"')
    assert read_lines(log, "a line") == []
    append_line(log, LINES[1])
    assert read_lines(log, "a line") == [LINES[1]]


def test_a_log_as_an_editor_saves_it(log):
    log.write_bytes(b"\xef\xbb\xbf" + log.read_bytes().replace(b"\n", b"\r\n"))
    assert read_lines(log, "a line") == LINES


@pytest.mark.parametrize("line", [b"{", b"[1]", b"\xff", b""])
def test_a_damaged_line_is_named(log, line):
    log.write_bytes(log.read_bytes() + line + b"\n")
    with pytest.raises(TabomError, match=r"log\.jsonl, line 3: expected a line of it, got '"):
        read_lines(log, "a line of it")
