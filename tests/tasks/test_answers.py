"""Numbers and code in texts, and maths answers that would take for ever."""

import io
import operator
import signal
import sys
import threading
import time
from fractions import Fraction
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tabom.errors import TabomError
from tabom.tasks import answers
from tabom.tasks.answers import MathComparison, code_of, last_number
from tabom.tasks.math_worker import answer_questions


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("#### 1,234", 1234),
        ("The answer is $1234.00.", 1234),
        ("1,234,567.25 in all", Fraction(4938269, 4)),
        ("first 3, then 1,2", 2),
        ("1,2345", 2345),
        ("12345,678", 678),
        ("18\n#### -5", -5),
        ("a loss of -$5.50!", Fraction(-11, 2)),
        ("\u22127", -7),
        ("10-5", 5),
        ("(3)-2", 2),
        ("10 - 5", 5),
        ("x=-3/4", Fraction(-3, 4)),
        ("0.1", Fraction(1, 10)),
        (".5", Fraction(1, 2)),
        ("50% of it", 50),
        ("3/0", None),
        ("none", None),
        ("", None),
        ("\u0663", None),
        ("9" * 6000, 10**6000 - 1),
        ("9" * 6000 + "/" + "9" * 6000, 1),
        ("1e999999999", 999999999),
        ("0." + "0" * 5000 + "1", Fraction(1, 10**5001)),
        ("1" * 100_001, None),
        ("1" * 1_000_000, None),
    ],
    ids=lambda value: str(value)[:20] if isinstance(value, str) else "",
)
def test_last_number(text, value):
    assert last_number(text) == value


@given(st.text() | st.text("0123456789.,/-$ \u2212", max_size=40))
def test_any_text_has_a_last_number_or_none(text):
    value = last_number(text)
    assert value is None or (isinstance(value, Fraction) and any(character in "0123456789" for character in text))


def growth(read, text_of):
    """Processor time for a text of eight times the length, over that for the text: 8 if linear, 64 if quadratic."""

    def seconds(number):
        text, times = text_of(number), []
        for _ in range(5):
            start = time.process_time()
            read(text)
            times.append(time.process_time() - start)
        return min(times)

    return seconds(20_000) / seconds(2_500)


@pytest.mark.parametrize(
    "text_of",
    [
        lambda n: "1," * n,
        lambda n: "111," * (n // 2) + "1111",
        lambda n: "-" * n,
        lambda n: "1/" * n,
        lambda n: "." * n,
    ],
    ids=range(5),
)
def test_the_last_number_of_a_long_text_takes_linear_time(text_of):
    assert growth(last_number, text_of) < 24


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("x = 1", "x = 1"),
        ("Here:\n```python\nx = 1\n```\nand\n```python\nx = 2\n```", "x = 1\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```Python \r\nx = 1\r\n```\r\n", "x = 1\r\n"),
        ("```bash\npip install x\n```\n```py\nx = 1\n```", "x = 1\n"),
        ("```bash\nls\n```\nx", "```bash\nls\n```\nx"),
        ("```python\nx = 1", "x = 1"),
        ("1. Do\n   ```python\n   if x:\n       x = 1\n   ```", "if x:\n    x = 1\n"),
        ('```python\nx = "```"\n```', 'x = "```"\n'),
        ("`x = 1`", "`x = 1`"),
        ("```python\n```", ""),
        ("```", "```"),
        ("", ""),
    ],
    ids=range(13),
)
def test_code_of(response, code):
    assert code_of(response) == code


@pytest.mark.parametrize(
    "text_of",
    [
        lambda n: "```\n" * n,
        lambda n: "```sh\n" * (n + 1),
        lambda n: "`" * n,
        lambda n: "\n" * n,
        lambda n: " " * n + "```",
    ],
    ids=range(5),
)
def test_the_code_of_a_long_text_takes_linear_time(text_of):
    assert growth(code_of, text_of) < 24


@pytest.fixture(scope="module")
def comparison():
    comparison = MathComparison()
    yield comparison
    comparison.close()


class TestMathComparison:
    @pytest.mark.parametrize(
        "response",
        [
            r"\boxed{" + "9" * 5000 + "}",
            r"\boxed{1e999999999}",
            r"\boxed{0." + "1" * 4400 + "}",
            r"\boxed{" + "1" * 4400 + r"\%}",
            r"\boxed{\frac{1}{0}}",
            r"\boxed{\log_{0}{0}}",
            r"\boxed{\begin{pmatrix}1&2\\3\end{pmatrix}}",
            r"\boxed{" * 500,
            "$" * 5000,
            "\\" * 5000,
            "\0\\boxed{\0}",
            "\ud800\\boxed{\ud800}",
            "two\nlines\r\n\u2028",
        ],
        ids=range(13),
    )
    def test_hard_texts_are_wrong(self, comparison, response):
        assert comparison.is_equal(r"\boxed{\frac{1}{2}}", response) is False
        assert comparison.is_equal("$1$", r"$\frac{2}{2}$") is True

    def test_what_takes_long_is_ended_in_any_thread(self):
        comparison = MathComparison(max_seconds=0.4)
        process = started(comparison)
        questions = [r"\boxed{\frac{3^{1500000}}{7^{1000000}}}", r"$\frac{2}{2}$"]
        verdicts = []
        thread = threading.Thread(target=lambda: verdicts.extend(comparison.is_equal("$1$", q) for q in questions))
        thread.start()
        thread.join()
        is_ended = process.returncode == -signal.SIGKILL
        comparison.close()
        assert verdicts == [False, True]
        assert is_ended

    def test_a_process_that_died_is_started_again(self, comparison):
        process = started(comparison)
        process.kill()
        process.wait()
        assert comparison.is_equal("$1$", "$1$") is True
        assert comparison._process is not process

    def test_a_process_that_dies_over_a_question(self, comparison):
        process = started(comparison)
        threading.Timer(0.5, process.kill).start()
        assert comparison.is_equal("$1$", "10**(10**9)") is False
        assert comparison.is_equal("$1$", "$1$") is True

    def test_several_threads(self, comparison):
        verdicts = {}

        def ask(number):
            verdicts[number] = [comparison.is_equal(f"${number}$", f"${k}$") for k in range(20)]

        threads = [threading.Thread(target=ask, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert verdicts == {number: [k == number for k in range(20)] for number in range(4)}

    def test_without_its_library(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "math_verify", None)
        assert failure(MathComparison()) == "verifier: math needs math-verify; pip install 'tabom[math]'"

    def test_a_process_that_does_not_start(self, monkeypatch, tmp_path):
        monkeypatch.setattr(answers, "__file__", str(tmp_path / "answers.py"))
        (tmp_path / "math_worker.py").write_text("raise SystemExit(3)")
        assert failure(MathComparison()) == ("verifier: expected math-verify to start, its process ended with code 3")


def test_what_math_verify_prints_is_no_answer(monkeypatch, capsys):
    def parse(text):
        print("noise")
        return text

    monkeypatch.setitem(sys.modules, "math_verify", SimpleNamespace(parse=parse, verify=operator.eq))
    monkeypatch.setattr(sys, "stdin", io.StringIO('["1", "1"]\n["1", "2"]\n'))
    answer_questions()
    assert capsys.readouterr() == ("ready\ntrue\nfalse\n", "noise\n" * 4)


def started(comparison):
    assert comparison.is_equal("$1$", "$1$") is True
    return comparison._process


def failure(comparison):
    with pytest.raises(TabomError) as error:
        comparison.is_equal("$1$", "$1$")
    return str(error.value)
