import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.errors import TabomError
from tabom.tasks import Countdown
from tabom.types import Example

PUZZLE = Example("q", "countdown 30,100,93>23=", "")


@pytest.mark.parametrize(
    ("response", "is_correct"),
    [
        ("93-(100-30)", True),
        (" 93 - 100 + 30 ", True),
        ("30+93-100", True),
        ("23", False),
        ("93-100", False),
        ("93-100+30+0", False),
        ("93-100+30+30-30", False),
        ("30+93-100=23", False),
        ("(30+93-100", False),
        ("-100+93+30", False),
        ("30+93-100.0", False),
        ("__import__('os').getpid()", False),
        ("93-(100-30)" + " " * 64, False),
        ("30/(93-93)", False),
        ("", False),
    ],
)
def test_verdicts(response, is_correct):
    assert Countdown().is_correct(PUZZLE, response) is is_correct


@given(st.text(max_size=64) | st.text("0123456789+-*/() _.exob\0\n\\'\"[]{}:~\ud800", max_size=64))
def test_any_text_has_a_verdict(response):
    assert Countdown().is_correct(Example("q", "countdown 30,100,93>1000000=", ""), response) is False


@pytest.mark.parametrize(
    "response",
    [
        "9**9**9**9",
        "9" * 64,
        "1e999999999",
        "(" * 64,
        "-" * 63 + "1",
        "1or 2",
        "\0",
        "\ud800",
        "0x" + "f" * 62,
        "f'{1}'",
    ],
)
def test_hard_texts(response):
    assert Countdown().is_correct(PUZZLE, response) is False


def test_fractions_on_the_way_are_exact():
    assert Countdown().is_correct(Example("q", "countdown 1,3,3>1=", ""), "1/3*3")


def test_a_repeated_number_must_be_used_as_often_as_it_is_given():
    puzzle = Example("q", "countdown 5,5,2>12=", "")
    assert Countdown().is_correct(puzzle, "5+5+2")
    assert not Countdown().is_correct(puzzle, "5*2+2")


@pytest.mark.parametrize("num_numbers", [2, 3, 4])
def test_generated_puzzles_are_solved_by_their_reference(num_numbers):
    task = Countdown(num_numbers=num_numbers, max_number=20)
    for example in task.examples("train", 30):
        assert example.prompt.count(",") == num_numbers - 1
        assert task.is_correct(example, example.reference)


def test_splits_share_nothing():
    train, test = ({example.prompt for example in Countdown().examples(split, 50)} for split in ("train", "test"))
    assert len(train | test) == 100


def test_file(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"input": "30,100,93", "output": "23"}\n{"input": "2,3", "output": "6"}\n')
    task = Countdown(test_file=str(path))
    examples = task.examples("test", 2)
    assert [example.prompt for example in examples] == ["countdown 30,100,93>23=", "countdown 2,3>6="]
    assert all(task.is_correct(example, example.reference) for example in examples)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"input": "1,2"}', "{path}:2: expected columns input, output, found no output"),
        (
            "{",
            "{path}:2: expected a JSON object, got '{{' "
            "(Expecting property name enclosed in double quotes at column 2)",
        ),
        (
            '{"input": "1,x", "output": "3"}',
            "{path}:2: expected input to be integers split by commas and output an integer, got '1,x' and '3'",
        ),
        (
            '{"input": "1,1", "output": "50"}',
            "{path}:2: expected a puzzle with a solution, found none for [1, 1] and 50",
        ),
    ],
)
def test_bad_line_is_named(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"input": "2,3", "output": "6"}}\n{line}\n')
    with pytest.raises(TabomError) as error:
        Countdown(test_file=str(path)).examples("test", 2)
    assert str(error.value) == message.format(path=path)


def test_public_file(shared_data):
    task = Countdown(test_file=str(shared_data / "planning/d1/countdown_cd3_test.jsonl"))
    assert all(task.is_correct(example, example.reference) for example in task.examples("test", 256))


@pytest.mark.parametrize("settings", [{"num_numbers": 1}, {"max_number": 1}])
def test_bad_settings(settings):
    ((name, value),) = settings.items()
    with pytest.raises(TabomError) as error:
        Countdown(**settings)
    assert str(error.value) == f"{name}: expected at least 2, got {value}"
