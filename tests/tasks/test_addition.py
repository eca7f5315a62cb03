import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.errors import TabomError
from tabom.tasks import Addition
from tabom.types import Example

SUMS = Example("q", "add 00999 00012+00001 03456=", "")


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
    assert Addition().is_correct(Example("q", "add 0999999999+0000000001=", ""), response) in (
        False,
        response.replace(",", " ").strip().lstrip("0") == "1000000000",
    )


@pytest.mark.parametrize("layout", ["flat", "commas"])
def test_generated_sums_have_one_length_and_their_reference_is_right(layout):
    task = Addition(num_sums=3, num_digits=2, answer_layout=layout)
    examples = task.examples("train", 50)
    for example in examples:
        assert task.is_correct(example, example.reference)
        assert re.fullmatch(r"add 0\d\d 0\d\d 0\d\d\+0\d\d 0\d\d 0\d\d=", example.prompt)
        assert re.fullmatch(r"\d{3} \d{3} \d{3}" if layout == "flat" else r"\d+,\d+,\d+", example.reference)
    assert len({example.query_id for example in examples}) == 50
    assert not {e.prompt for e in examples} & {e.prompt for e in task.examples("test", 50)}


def test_a_digit_of_a_result_is_equally_far_from_those_that_it_depends_on():
    """Prompt and answer have the same places; other layouts leave the zeros in front out of the answer."""
    (example,) = Addition(num_digits=3, num_sums=2).examples("train", 1)
    whole = example.prompt.removeprefix("add ") + example.reference
    first, second, result = (whole[at : at + 9] for at in (0, 10, 20))
    assert [whole[9], whole[19]] == ["+", "="]
    for at in (0, 5):
        assert int(first[at : at + 4]) + int(second[at : at + 4]) == int(result[at : at + 4])
    assert Addition(num_digits=3)._example([(7, 15), (999, 1)]).reference == "0022 1000"
    assert Addition(num_digits=3, answer_layout="commas")._example([(7, 15), (999, 1)]).reference == "22,1000"


def test_sums_of_a_file(tmp_path):
    path = tmp_path / "sums.csv"
    path.write_text("input,output\n12+34 5+6,46 11\n")
    (example,) = Addition(test_file=str(path)).examples("test", None)
    assert example == Example("addition/00012 00005+00034 00006", "add 00012 00005+00034 00006=", "00046 00011")


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("12+34,47", "sums.csv:2: column output: expected 00046, got '47'"),
        (
            "12-34,46",
            "sums.csv:2: column input: expected sums such as 12+34 split by blanks, of numbers with",
        ),
        ("12345+1,12346", "digits (num_digits), got '12345+1'"),
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
