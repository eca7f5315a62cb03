import itertools
import json
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.errors import TabomError
from tabom.tasks import Countdown, arithmetic
from tabom.tasks.arithmetic import evaluate, solve
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
        "93-(100-0x1e)",
        "93-(100-3_0)",
        "93-(100-0b11110)",
        "93-(100-0o36)",
        "93-(100-30) # so",
        "93-(100-\u0663\u0660)",
        "\uff19\uff13-100+30",
        "93-(100\n-30)",
        "93-(100\\\n-30)",
        "93-(100\f-30)",
        "93-(100-30) and 23",
        "93-(100-30.)",
        "93-(100-30)if 1else 0",
        "(93-(100-30),)[0]",
        "93-(100- -30)",
        "93--100//-30",
        "93-(100-030)",
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
            "{path}:2: column input: expected whole numbers split by commas, got '1,x'",
        ),
        (
            '{"input": "-1,4", "output": "3"}',
            "{path}:2: column input: expected whole numbers split by commas, got '-1,4'",
        ),
        (
            '{"input": "1,2_0", "output": "20"}',
            "{path}:2: column input: expected whole numbers split by commas, got '1,2_0'",
        ),
        (
            '{"input": "1,2", "output": "\u0663"}',
            "{path}:2: column output: expected a whole number, or equations split by commas, got '\u0663'",
        ),
        (
            '{"input": "1,2", "output": 3.0}',
            "{path}:2: column output: expected a whole number, or equations split by commas, got '3.0'",
        ),
        (
            '{"input": "1,2,3,4,5,6,7", "output": "3"}',
            "{path}:2: column input: expected at most 6 numbers, got 7",
        ),
        (
            '{"input": "1,2,3,6", "output": "2+2=4,4+2=6"}',
            "{path}:2: column output: expected equations from [1, 2, 3] to 6, got '2+2=4,4+2=6'",
        ),
        (
            '{"input": "1,2,3,6", "output": "1+2=4,4+3=6"}',
            "{path}:2: column output: expected a whole number, or equations split by commas, got '1+2=4,4+3=6'",
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


@pytest.mark.parametrize(("response", "is_correct"), [("7+0*9", True), ("7+00*9", False), ("07+0*9", False)])
def test_a_number_is_written_as_it_is_given(response, is_correct):
    assert Countdown().is_correct(Example("q", "countdown 7,0,9>7=", ""), response) is is_correct


def test_many_numbers_have_long_answers():
    task = Countdown(num_numbers=30, max_number=10)
    (example,) = task.examples("train", 1)
    assert len(example.reference) > 100
    assert task.is_correct(example, example.reference)


DREAM = [  # as in the files of Dream's evaluation, cd3 to cd5: the target is the last of the input
    ("86,28,13,31,96", "86+28=114,31-13=18,114-18=96", "countdown 86,28,13,31>96=", "(86+28)-(31-13)"),
    ("3,5,5,6,21", "3+5=8,8+5=13,13+6=19", None, None),
    ("2,3,5,10", "2+3=5,5+5=10", "countdown 2,3,5>10=", "(2+3)+5"),
    ("5,2,3,25", "2+3=5, 5*5=25", "countdown 5,2,3>25=", "(2+3)*5"),
]


@pytest.mark.parametrize(("given", "output", "prompt", "reference"), DREAM)
def test_a_file_of_dream(tmp_path, given, output, prompt, reference):
    path = tmp_path / "cd4_test.jsonl"
    path.write_text(json.dumps({"input": given, "output": output}) + "\n")
    task = Countdown(test_file=str(path))
    if prompt is None:
        with pytest.raises(TabomError, match="expected equations from"):
            task.examples("test", 1)
        return
    (example,) = task.examples("test", 1)
    assert (example.prompt, example.reference) == (prompt, reference)
    assert task.is_correct(example, example.reference)


def every_value(numbers):
    """All that can be made of numbers, by trying everything."""
    if len(numbers) == 1:
        return {numbers[0]}
    values = set()
    for a, b, *rest in itertools.permutations(numbers):
        for joined in (a + b, a - b, a * b, *([a / b] if b else [])):
            values |= every_value((joined, *rest))
    return values


@pytest.mark.parametrize("numbers", [(7,), (0, 5), (3, 3), (0, 0, 4), (3, 3, 8, 8), (1, 2, 5, 5), (0, 2, 2, 7)])
def test_what_can_be_made_is_found(numbers):
    within_reach = every_value(tuple(map(Fraction, numbers)))
    for target in range(-30, 60):
        expression = solve(numbers, target)
        assert (expression is not None) == (target in within_reach)
        if expression is not None:
            used, value = evaluate(expression)
            assert (sorted(used), value) == (sorted(numbers), target)


@pytest.mark.parametrize(("numbers", "target"), [((2, 3, 5, 7, 11), 99_999), ((97, 89, 83, 79, 73), 12_345)])
def test_a_search_among_five_numbers_is_short(monkeypatch, numbers, target):
    """Each row of a file takes as many operations at most; trying everything takes two million."""
    values = []
    for name in ("_joined", "_needed"):
        function = getattr(arithmetic, name)
        monkeypatch.setattr(arithmetic, name, lambda a, b, f=function: values.extend(found := list(f(a, b))) or found)
    assert solve(numbers, target) is None
    assert len(values) == 5490


def test_public_file(shared_data):
    task = Countdown(test_file=str(shared_data / "planning/d1/countdown_cd3_test.jsonl"))
    assert all(task.is_correct(example, example.reference) for example in task.examples("test", 256))


@pytest.mark.parametrize("settings", [{"num_numbers": 1}, {"max_number": 1}])
def test_bad_settings(settings):
    ((name, value),) = settings.items()
    with pytest.raises(TabomError) as error:
        Countdown(**settings)
    assert str(error.value) == f"{name}: expected at least 2, got {value}"
