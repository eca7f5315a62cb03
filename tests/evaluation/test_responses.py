"""Answers on the disk: what is kept, what is dropped, what is refused."""

import json

import pytest

from tabom.errors import TabomError
from tabom.evaluation.responses import Likelihood, Response, ResponseStore, request_key

ORIGIN = {"model_fingerprint": "ab", "settings": {"sampler": {"score": "entropy", "top_p": None}, "limit": (1, 2)}}
RESPONSE = Response("a\n\u2028b", [4, 5], [1, 0], 2, 2)
LIKELIHOOD = Likelihood(-3.25, None, is_greedy=True)


@pytest.fixture
def filled(tmp_path):
    store = ResponseStore(tmp_path / "run", ORIGIN)
    store.add("one", RESPONSE)
    store.add("two", LIKELIHOOD)
    return tmp_path / "run" / "responses-0.jsonl"


def test_without_an_answer_there_is_no_file(tmp_path):
    """An evaluation that failed before its first answer does not stand in the way of a corrected one."""
    ResponseStore(tmp_path / "run", ORIGIN)
    assert list(tmp_path.iterdir()) == []
    other = ResponseStore(tmp_path / "run", {**ORIGIN, "model_fingerprint": "cd"})
    other.add("one", RESPONSE)
    assert ResponseStore(tmp_path / "run", {**ORIGIN, "model_fingerprint": "cd"}).get("one") == RESPONSE


def test_answers_come_back(filled):
    again = ResponseStore(filled.parent, ORIGIN)
    assert (again.get("one"), again.get("two"), again.get("three")) == (RESPONSE, LIKELIHOOD, None)


def test_an_answer_is_on_the_disk_at_once(filled):
    lines = [json.loads(line) for line in filled.read_text().split("\n")[:-1]]
    assert [line["kind"] for line in lines] == ["origin", "response", "likelihood"]


@pytest.mark.parametrize("num_bytes", [1, 30])
def test_a_line_that_is_not_whole_is_dropped(filled, num_bytes):
    whole = filled.read_bytes()
    filled.write_bytes(whole[:-num_bytes])
    store = ResponseStore(filled.parent, ORIGIN)
    assert (store.get("one"), store.get("two")) == (RESPONSE, None)
    store.add("two", LIKELIHOOD)
    assert filled.read_bytes() == whole


def test_a_file_without_a_whole_line_is_begun_anew(filled):
    filled.write_bytes(filled.read_bytes()[:20])
    ResponseStore(filled.parent, ORIGIN).add("one", RESPONSE)
    assert ResponseStore(filled.parent, ORIGIN).get("one") == RESPONSE


def test_answers_of_other_processes_count(filled):
    other = ResponseStore(filled.parent, ORIGIN, rank=1)
    assert other.get("one") == RESPONSE
    first = ResponseStore(filled.parent, ORIGIN)
    other.add("three", LIKELIHOOD)
    assert first.get("three") is None
    first.read_all()
    assert first.get("three") == LIKELIHOOD
    assert sorted(path.name for path in filled.parent.iterdir()) == ["responses-0.jsonl", "responses-1.jsonl"]


def test_answers_of_another_origin_are_refused_and_left(filled):
    before = filled.read_bytes()
    sampler = {"score": "confidence", "top_p": None}
    other = {**ORIGIN, "settings": {**ORIGIN["settings"], "sampler": sampler}}
    message = (
        r'responses-0\.jsonl: expected settings\.sampler\.score "entropy", .* got "confidence"; give another run_dir'
    )
    with pytest.raises(TabomError, match=message):
        ResponseStore(filled.parent, other)
    assert filled.read_bytes() == before


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"kind": "answer", "key": "a"}', '{"kind": "response", "key": "a"}', '{"kind": "likelihood"}']
)
def test_a_damaged_line_is_named(filled, line):
    lines = filled.read_text().splitlines()
    filled.write_text("\n".join([lines[0], line, *lines[2:]]) + "\n")
    with pytest.raises(TabomError, match=r"responses-0\.jsonl, line 2: expected an answer of this evaluation"):
        ResponseStore(filled.parent, ORIGIN)


def test_a_file_of_something_else(filled):
    filled.write_text('{"kind": "start"}\n')
    with pytest.raises(TabomError, match=r"line 1: expected kind origin, got start$"):
        ResponseStore(filled.parent, ORIGIN)


def test_keys_tell_requests_apart():
    keys = {request_key("response", *parts) for parts in (("a", "b", 0), ("a", "b", 1), ("ab", "", 0), ("a", "c", 0))}
    assert len(keys) == 4
    assert request_key("response", "a", "b", 0) in keys
