import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.errors import TabomError
from tabom.tasks import Addition
from tabom.types import Example

SUMS = Example("q", "add 999+1 12+3456=", "")


@pytest.mark.parametrize(
    ("response", "is_correct"),
    [
        ("01000 03468", True),
        ("1000,3468", True),
        (" 1000\n3468 ", True),
        ("1000, 3468", True),
        ("3468 1000", False),
        ("1000", False),
        ("1000 3468 0", False),
        ("10003468", False),
        ("1000 +3468", False),
        ("1_000 3468", False),
        ("\uff11000 3468", False),
        ("", False),
    ],
)
def test_verdicts(response, is_correct):
    assert Addition().is_correct(SUMS, response) is is_correct


@given(st.text(max_size=40) | st.text("0123456789+-, _.\n\ud800", max_size=40))
def test_any_text_has_a_verdict(response):
    assert Addition().is_correct(Example("q", "add 999999999+1=", ""), response) in (
        False,
        response.replace(",", " ").strip().lstrip("0") == "1000000000",
    )


@pytest.mark.parametrize("layout", ["flat", "commas"])
def test_generated_sums_have_one_length_and_their_reference_is_right(layout):
    task = Addition(num_sums=3, num_digits=2, answer_layout=layout)
    examples = task.examples("train", 50)
    for example in examples:
        assert task.is_correct(example, example.reference)
        assert re.fullmatch(r"add \d\d\+\d\d \d\d\+\d\d \d\d\+\d\d=", example.prompt)
        assert re.fullmatch(r"\d{3} \d{3} \d{3}" if layout == "flat" else r"\d+,\d+,\d+", example.reference)
    assert len({example.query_id for example in examples}) == 50
    assert not {e.prompt for e in examples} & {e.prompt for e in task.examples("test", 50)}


def test_numbers_have_their_places():
    """Zeros in front give every digit its place in the prompt; other layouts leave them out of the answer."""
    assert Addition(num_digits=3)._example("7+15 999+1").prompt == "add 007+015 999+001="
    assert Addition(num_digits=3)._example("7+15 999+1").reference == "0022 1000"
    assert Addition(num_digits=3, answer_layout="commas")._example("7+15 999+1").reference == "22,1000"


def test_sums_of_a_file(tmp_path):
    path = tmp_path / "sums.csv"
    path.write_text("input,output\n12+34 5+6,46 11\n")
    (example,) = Addition(test_file=str(path)).examples("test", None)
    assert example == Example("addition/0012+0034 0005+0006", "add 0012+0034 0005+0006=", "00046 00011")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("12+34,47", "sums.csv:2: column output: expected 00046, got '47'"),
        ("12-34,46", "sums.csv:2: column input: expected sums such as 12+34 split by blanks, got '12-34'"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, row, message):
    path = tmp_path / "sums.csv"
    path.write_text(f"input,output\n{row}\n")
    with pytest.raises(TabomError, match="column") as error:
        Addition(test_file=str(path)).examples("test", None)
    assert message in str(error.value)


@pytest.mark.parametrize("wrong", [{"num_sums": 0}, {"num_digits": 0}, {"num_digits": 10}])
def test_numbers_out_of_range(wrong):
    with pytest.raises(TabomError, match=next(iter(wrong))):
        Addition(**wrong)
