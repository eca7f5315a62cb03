"""What becomes of each line of a released file."""

import io
import json

import pytest

from tabom.errors import TabomError
from tabom.storage.rows import json_rows
from tabom.trajectories.formats import Codec, ImportedRow, ImportRequest, Rejection, usable_rows

GOOD = {"prompt": "ask", "response_token_ids": [5, 6, 7], "decoding_order": [1, 4, -1]}


def encode(prompt, query_id):
    if "unknown" in prompt:
        raise TabomError(f"{query_id}: expected text that the tokenizer knows")
    return [ord(character) % 9 for character in prompt]


CODEC = Codec(
    vocabulary_size=10,
    mask_token_id=9,
    eos_token_id=0,
    encode_prompt=encode,
    encode_text=lambda text, _: encode(text, _),
)


def read_released(lines, methods=()):
    found = ((f"file:{line}", row) for line, row in json_rows(lines))
    return usable_rows(found, ImportRequest([], "", methods=methods).parser(9), CODEC)


def read(*rows, methods=()):
    """Rows are objects, or lines as they stand."""
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() + b"\n" for row in rows]
    return list(read_released(lines, methods))


def one(**changes):
    (row,) = read({**GOOD, **changes})
    return row


def test_a_row_as_it_was_released():
    assert one(id="q7", response="told", is_correct=False, non_ltr_positions=[2, 1], method="entropy") == ImportedRow(
        place="file:1",
        query_id="q7",
        sample=0,
        is_verified=False,
        prompt="ask",
        prompt_ids=[7, 7, 8],
        reference="told",
        response_ids=[5, 6, 7],
        decoding_order=[1, 4, -1],
        non_ltr_positions=[2, 1],
    )


TEXTS = {
    "prompt": "p",
    "instruction": "i",
    "messages": [{"role": "user", "content": "u1"}, {"role": "assistant", "content": "a1"}],
    "question": "q",
    "response": "response",
    "output": "output",
    "gen_text": "gen_text",
    "answer": "answer",
}


@pytest.mark.parametrize(
    ("without", "prompt", "reference"),
    [
        ("", "p", "response"),
        ("response", "p", "output"),
        ("response output", "p", ""),
        ("prompt", "i", "output"),
        ("prompt output", "i", "response"),
        ("prompt instruction", "u1", "a1"),
        ("prompt instruction messages", "q", "answer"),
        ("prompt instruction messages answer", "q", "output"),
        ("prompt instruction messages answer output", "q", "response"),
        ("prompt instruction messages answer output response", "q", ""),
    ],
)
@pytest.mark.parametrize("empty", ["absent", None, "", " \n", float("nan")])
def test_where_prompt_and_reference_stand(without, prompt, reference, empty):
    texts = {key: value for key, value in TEXTS.items() if key not in without.split()}
    if empty != "absent":
        texts |= dict.fromkeys(without.split(), empty)
    (row,) = read({**texts, "response_token_ids": [1], "decoding_order": [0]})
    assert (row.prompt, row.reference) == (prompt, reference)


def turns(roles):
    return [{"role": role, "content": f"{role}{place}"} for place, role in enumerate(roles.split())]


@pytest.mark.parametrize("messages", [turns("user"), [*turns("user"), {"role": "assistant", "content": None}]])
def test_messages_without_an_answer(messages):
    row = one(prompt=None, messages=messages)
    assert (row.prompt, row.reference) == ("user0", "")


@pytest.mark.parametrize(
    ("messages", "got"),
    [
        (turns("system user assistant user assistant"), ["system", "user", "assistant", "user", "assistant"]),
        (turns("system user assistant"), ["system", "user", "assistant"]),
        (turns("user assistant user assistant"), ["user", "assistant", "user", "assistant"]),
        (turns("user assistant user"), ["user", "assistant", "user"]),
        (turns("user user"), ["user", "user"]),
        (turns("user tool assistant"), ["user", "tool", "assistant"]),
        (turns("assistant"), ["assistant"]),
        (["x", *turns("user")], [None, "user"]),
        ([{"from": "human", "value": "u"}], [None]),
        ([{"role": "\ud83d", "content": "u"}], ["\ud83d"]),
    ],
    ids=ascii,
)
def test_a_conversation_is_kept_whole_or_left_out(messages, got):
    """A response answers all that stands before it, so nothing of it may be dropped."""
    for others in ({"prompt": None}, {"prompt": None, "question": "q", "answer": "a"}):
        assert one(**others, messages=messages) == Rejection(
            "file:1", "messages are more than a question and an answer", f"got {got!r:.80}"
        )


def test_an_instruction_with_an_input_is_left_out():
    assert one(prompt="", instruction="Translate.", input=" ").prompt == "Translate."
    assert one(prompt="", instruction="Translate.", input="Hallo").reason == "instruction with an input"
    assert one(prompt="Translate: Hallo", instruction="Translate.", input="Hallo").prompt == "Translate: Hallo"


@pytest.mark.parametrize(
    ("value", "got"),
    [
        (float("inf"), "got inf"),
        (False, "got bool"),
        (["u"], "got list"),
        ({"u": 1}, "got dict"),
        ("\ud83d", "got half a surrogate pair, '\\ud83d', as character 1"),
    ],
    ids=repr,
)
@pytest.mark.parametrize("key", ["prompt", "response", "content"])
def test_what_is_neither_text_nor_number(key, value, got):
    changes = {key: value}
    if key == "content":
        changes = {"prompt": None, "messages": [{"role": "user", "content": value}]}
    rejection = one(**changes)
    assert rejection.reason == f"{key} is no text"
    assert rejection.detail.endswith(got)


def test_numbers_are_text():
    row = one(prompt=7, response=None, output=14.5)
    assert (row.prompt, row.reference) == ("7", "14.5")


@pytest.mark.parametrize(
    ("verdicts", "is_verified"),
    [
        ({}, True),
        ({"is_correct": True, "correct": False}, True),
        ({"correct": False, "verified": True}, False),
        ({"verified": False}, False),
        ({"is_correct": float("nan"), "verified": False}, False),
        ({"is_correct": None}, True),
        ({"is_correct": 0}, False),
        ({"is_correct": 1.0}, True),
    ],
)
def test_verdicts(verdicts, is_verified):
    assert one(**verdicts).is_verified is is_verified


@pytest.mark.parametrize("verdict", ["no", "False", 2, 0.5, [], [False]], ids=repr)
def test_a_verdict_that_is_none_is_not_taken_for_true(verdict):
    assert one(verified=verdict) == Rejection("file:1", "verified is neither true nor false", f"got {verdict!r}")


@pytest.mark.parametrize("positions", [None, "1", [1.0], [True], {"1": 2}])
def test_positions_that_are_none(positions):
    assert one(non_ltr_positions=positions).non_ltr_positions is None


@pytest.mark.parametrize(
    ("changes", "reason", "detail"),
    [
        ({"prompt": ""}, "no prompt", "expected text in one of prompt, instruction, messages, question"),
        ({"prompt": None, "messages": {"role": "user"}}, "no prompt", None),
        ({"response_token_ids": None}, "response_token_ids is no list of integers", "got nothing"),
        ({"response_token_ids": "5 6 7"}, "response_token_ids is no list of integers", "got str"),
        ({"response_token_ids": [5, 6, 7.0]}, "response_token_ids is no list of integers", "got list"),
        ({"decoding_order": [0, 1, True]}, "decoding_order is no list of integers", "got list"),
        ({"decoding_order": [0, 1, None]}, "decoding_order is no list of integers", "got list"),
        ({"decoding_order": [0, 1]}, "response_token_ids and decoding_order differ in length", "got 3 and 2"),
        ({"response_token_ids": [5, 6, 10]}, "token outside the tokenizer", "expected ids from 0 to 9, got [10]"),
        ({"response_token_ids": [5, -1, 9]}, "token outside the tokenizer", "expected ids from 0 to 9, got [-1]"),
        ({"decoding_order": [0, -2, 1]}, "decoding_order holds no step", "expected -1 or a step from 0, got [-2]"),
        ({"decoding_order": [0, 2**31, 1]}, "decoding_order holds no step", None),
        ({"decoding_order": [-1, -1, -1]}, "no position decoded", "every step is -1"),
        ({"response_token_ids": [], "decoding_order": []}, "no position decoded", "every step is -1"),
        (
            {"prompt": "unknown", "id": 4},
            "prompt cannot be encoded",
            "4: expected text that the tokenizer knows",
        ),
    ],
    ids=str,
)
def test_a_row_that_is_left_out(changes, reason, detail):
    rejection = one(**changes)
    assert isinstance(rejection, Rejection)
    assert (rejection.place, rejection.reason) == ("file:1", reason)
    assert detail in (None, rejection.detail)


@pytest.mark.parametrize(
    "line", [b"{", b"[1]\n", b"null\n", b'"\xff"\n', b"[" * 100_000, b'{"a": ' + b"9" * 5000 + b"}"], ids=range(6)
)
def test_a_line_that_is_no_object_stops_nothing(line):
    rejection, row = read(line, GOOD)
    assert (rejection.place, rejection.reason) == ("file:1", "no JSON object")
    assert (row.place, row.prompt) == ("file:2", "ask")


def test_blank_lines_are_no_rows():
    rows = read(b"\n", GOOD, b"  \r\n", {**GOOD, "prompt": "other"}, b"\n")
    assert [row.place for row in rows] == ["file:2", "file:4"]


@pytest.mark.parametrize(
    "text",
    [
        '[{0}, {1}]',
        '\ufeff[\n{0},\n{1}\n]\n',
        '\ufeff{0}\r\n\r\n{1}\r\n',
        '{0}\r{1}\r',
        '\n \t\n{0}\n\ufeff{1}',
    ],
)  # fmt: skip
def test_lines_as_they_are_saved(text):
    content = text.format(json.dumps(GOOD), json.dumps({**GOOD, "prompt": "other"})).encode()
    rows = list(read_released(io.BytesIO(content)))
    assert [row.prompt for row in rows] == ["ask", "other"]
    universal = content.replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    places = [next(n for n, line in enumerate(universal, 1) if word in line) for word in (b'"ask"', b'"other"')]
    assert [row.place for row in rows] == [f"file:{line}" for line in places]


def test_an_array_with_a_fault_is_left_out_whole():
    (rejection,) = read(b"[\n", GOOD, b",\n", b"{]\n")
    assert (rejection.place, rejection.reason) == ("file:4", "no JSON object")
    assert rejection.detail.startswith("got a JSON array with a fault (Expecting property name")


def test_methods():
    rows = [{**GOOD, "prompt": name, "method": name} for name in ("entropy", "default", "credit")]
    rows.append({**GOOD, "prompt": "none"})
    assert [row.prompt for row in read(*rows)] == ["entropy", "default", "credit", "none"]
    found = read(*rows, methods=("credit", "entropy"))
    assert [type(row) for row in found] == [ImportedRow, Rejection, ImportedRow, Rejection]
    assert found[1] == Rejection("file:2", "method not asked for", "got 'default'")
    assert found[3] == Rejection("file:4", "method not asked for", "got None")


def test_the_first_usable_row_sets_the_length():
    shorter = {**GOOD, "response_token_ids": [5], "decoding_order": [0]}
    found = read({**shorter, "prompt": "unknown"}, GOOD, shorter, {**GOOD, "prompt": "other"})
    assert found[0].reason == "prompt cannot be encoded"
    assert found[2] == Rejection("file:3", "response of another length than the first", "expected 3 tokens, got 1")
    assert isinstance(found[3], ImportedRow)


def test_duplicates():
    others = [
        {**GOOD, "prompt": "other"},
        {**GOOD, "response_token_ids": [5, 6, 8]},
        {**GOOD, "decoding_order": [1, 4, 5]},
    ]
    found = read(GOOD, *others, {**GOOD, "response": "another reference", "method": "credit"})
    assert [type(row) for row in found] == [*[ImportedRow] * 4, Rejection]
    assert found[4] == Rejection("file:5", "duplicate", "prompt, response and order of an earlier line")


def test_query_ids_are_stable_and_unique():
    def row(token, **changes):
        return {**GOOD, "response_token_ids": [token, 0, 0], **changes}

    found = read(
        row(0, prompt="0", id="a"),
        row(1, prompt="1", query_id=3),
        row(2, prompt="2", id="", query_id="b"),
        row(3),
        row(4),
        row(5, prompt="5", id="a/7"),
        row(6, prompt="6", id="a"),
        row(7, id=True),
        row(8, prompt="0", id="c"),
    )
    hashed = "2f2fc7f2e9ce13b0"  # SHA-256 of "ask"
    assert [row.query_id for row in found] == [
        "a", "3", "b", hashed, hashed, "a/7", "a/7/7", hashed, "a"
    ]  # fmt: skip
    assert [row.sample for row in found] == [0, 0, 0, 0, 1, 0, 0, 2, 1]
