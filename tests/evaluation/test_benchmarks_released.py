"""The paper's released prompts and scoring, on answers whose verdicts are known by hand."""

import json

import pytest
from scripted import ask, prompts_of
from test_benchmarks_paper import FILES, PROMPTS, ROWS, failure, json_lines, paper_benchmark

from tabom.evaluation.benchmarks.released import sanitized, sanitized_function
from tabom.reporting.paper import DIFFERENCES
from tabom.sandbox import Sandbox


@pytest.fixture
def write(tmp_path):
    """A folder with the given rows of a benchmark."""

    def call(name, *rows):
        path = tmp_path / FILES[name]
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return call


def released(name, data_dir, **options):
    return paper_benchmark(name, data_dir, variant="released", **options)


RELEASED_PROMPTS = PROMPTS | {
    "humaneval": (
        "<user>Write a solution to the following problem and make sure that it passes the tests:\n"
        '```def two():\n    """Give 2."""\n'
        '<assistant>Here is the completed function:\n```python\ndef two():\n    """Give 2."""\n\n',
        PROMPTS["humaneval"][1],
    ),
    "mbpp": (
        "<user>You are an expert Python programmer, and here is your task: Give 2. Your code should pass these tests:"
        "\n\nassert two() == 2\nassert two() == 2\nassert two() == 2"
        "<assistant>Here is the completed function:\n```python\n",
        {"do_sample": False, "until": ["```"]},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_prompts(write, name):
    benchmark = released(name, write(name, ROWS[name]))
    prompts, decoding = prompts_of(benchmark)
    assert (prompts[0], decoding) == RELEASED_PROMPTS[name]
    assert benchmark.keeps_special_tokens


@pytest.mark.parametrize("name", FILES)
def test_it_is_another_setting_than_lm_evals(write, name):
    data_dir = write(name, ROWS[name])
    ours, theirs = paper_benchmark(name, data_dir), released(name, data_dir)
    assert theirs.settings() == ours.settings() | {"variant": "released"}
    assert "variant" not in ours.settings()
    assert not ours.keeps_special_tokens


def test_the_report_says_of_each_in_what_it_differs():
    assert [*DIFFERENCES] == ["lm_eval", "released"]
    assert all(texts.keys() == FILES.keys() for texts in DIFFERENCES.values())


def test_it_has_no_examples():
    message = "num_fewshot: expected 0 to 0 for gsm8k, got 1"
    assert failure(lambda: released("gsm8k", "x", num_fewshot=1)) == message


MATH = [  # reference, answer in a box, whether lm-eval and the release count it as right
    ("12", "12", 1, 1),
    ("\\frac{1}{2}", "\\frac12", 1, 1),
    ("2\\sqrt{3}", "2\\sqrt{3}", 1, 0),
    ("2\\sqrt{3}", "2", 0, 1),
    ("\\sqrt{3}", "\\sqrt{3}", 1, 0),
    ("(1,2)", "(1,2)", 1, 0),
    ("3", "4", 0, 0),
]


@pytest.mark.parametrize("variant", ["lm_eval", "released"])
def test_math500(write, variant):
    rows = [{"problem": f"{i}?", "solution": f"It is $\\boxed{{{answer}}}$."} for i, (answer, *_) in enumerate(MATH)]
    responses = {f"{i}?": f"So $\\boxed{{{text}}}$." for i, (_, text, *_) in enumerate(MATH)}
    benchmark = paper_benchmark("math500", write("math500", *rows), variant=variant)
    results, samples, _ = ask(benchmark, lambda request: responses[request.doc["problem"]])
    expected = [verdicts[variant == "released"] for _, _, *verdicts in MATH]
    assert [sample["math_verify"] for sample in samples] == expected
    assert results[benchmark.metric] == sum(expected) / len(MATH)


def test_humaneval(shared_data):
    """A whole function instead of a body counts here, a function without a return statement does not."""
    rows = json_lines(shared_data / "humaneval" / "HumanEval.jsonl.gz")[:8]
    kinds = ("{body}", "```python\n{prompt}{body}```\nIt works.", "{body}\nThat is all: it(", "    raise ValueError\n")
    answers = {
        row["task_id"]: kinds[i % 4].format(prompt=row["prompt"], body=row["canonical_solution"])
        for i, row in enumerate(rows)
    }
    benchmark = released("humaneval", shared_data)
    results, samples, _ = ask(benchmark, lambda request: answers[request.doc["task_id"]], limit=8)
    assert [sample["pass@1"] for sample in samples] == [1.0, 1.0, 1.0, 0.0] * 2
    assert results[benchmark.metric] == 6 / 8


def test_mbpp(write):
    """All that comes before the first fence is run, whether or not there is one; lm-eval wants it closed."""
    answers = ["def two():\n  return 2\n```", "def two():\n  return 2", "Sure:\ndef two():\n  return 2\n```"]
    rows = [ROWS["mbpp"] | {"task_id": 11 + i, "text": f"Task {i}."} for i in range(3)]
    data_dir = write("mbpp", *rows)
    verdicts = {}
    for variant in ("lm_eval", "released"):
        benchmark = paper_benchmark("mbpp", data_dir, variant=variant)
        cut = "```" if variant == "released" else None
        results, samples, _ = ask(benchmark, lambda r, cut=cut: answers[r.doc["task_id"] - 11].split(cut or "§")[0])
        verdicts[variant] = [sample["pass_at_1"] for sample in samples]
        assert results[benchmark.metric] == sum(verdicts[variant]) / 3
    assert verdicts["released"] == [1.0, 1.0, 0.0]
    assert verdicts["lm_eval"][1] == 0.0


def test_ifeval_reports_the_loose_number(write):
    row = ROWS["ifeval"] | {"instruction_id_list": ["startend:end_checker"], "kwargs": [{"end_phrase": "the end"}]}
    data_dir = write("ifeval", row)
    text = "This is the end\nBye."  # its last line is left out by the loose check
    scores = {}
    for variant in ("lm_eval", "released"):
        benchmark = paper_benchmark("ifeval", data_dir, variant=variant)
        results, _, _ = ask(benchmark, lambda _: text)
        scores[variant] = results[benchmark.metric]
    assert scores == {"lm_eval": 0, "released": 1}


class TestSanitized:
    def test_what_the_function_needs_is_kept_in_order(self):
        text = """
            import os
            LIMIT, other = 3, 4
            LIMIT = 5
            x: int = 1
            class Box:
            \tsize = 1
            class Unused: pass
            def helper(n): return n + LIMIT
            print("shown")
            def f(n):
            \treturn Box(helper(n))
            def unused(): return 1
            def f(n):
            \treturn [Box, helper(n)]
            from math import pi
        """
        lines = [line[12:] for line in text.splitlines()]
        assert sanitized("\r\n".join(lines), "f").split("\n") == [
            *("import os", "from math import pi"),
            *("LIMIT = 5", "class Box:", "    size = 1"),
            *("def helper(n):", "    return n + LIMIT", "def f(n):", "    return [Box, helper(n)]"),
        ]

    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("", ""),
            ("no code at all", ""),
            ("def f():\n    pass\n", ""),  # without a return statement
            ("def f():\n    yield 1\n", ""),
            ("async def f():\n    return 1\n", ""),
            ("f = 1", "f = 1"),
            ("Sure, here:\nf = 1\nf = 2\nDone, it is", "f = 2"),
            ("f = 1\n?\nf = 2", "f = 1"),  # the first of equal stretches
            ("f = 1\n?\n\n\n\nf = 2\n\n?\nf = 3\ng = 4", "f = 3"),  # blank lines do not count
            ("f = g.h\nh = 1\ng = 2", "f = g.h\nh = 1"),  # what an attribute is of is not looked into
            ("def f(): return '\\d'", "def f():\n    return '\\\\d'"),  # Python warns of such a string
            ("f = 1\0", ""),
            ("(" * 3000 + "\nf = 1", "f = 1"),
        ],
    )
    def test_by_hand(self, text, expected):
        assert sanitized(text, "f") == expected

    def test_the_first_hundred_lines_are_looked_at(self):
        filler = [f"x{i} = {i}" for i in range(99)]
        assert sanitized("\n".join([*filler, "f = 1"]), "f") == "f = 1"
        assert sanitized("\n".join([*filler, "y = 1", "f = 1"]), "f") == ""

    def test_the_first_code_block_of_a_response(self):
        doc = ROWS["humaneval"] | {"prompt": "def two():\n    ''' 2 '''\n"}
        body = 'def two():\n    """ 2 """\n    return 2'
        for response in ("    return 2\n", "```python\n    return 2\n```\n    return 3", "    return 2\n```python"):
            assert sanitized_function(response, doc) == body
        assert sanitized_function("Sure:\n```python\ndef two():\n    return 1\n```", doc) == "def two():\n    return 1"


def test_programs_run_in_the_sandbox(write, monkeypatch):
    calls = []
    keep = Sandbox.run_all
    monkeypatch.setattr(Sandbox, "run_all", lambda self, programs: calls.append(programs) or keep(self, programs))
    ask(released("mbpp", write("mbpp", ROWS["mbpp"])), lambda _: "def two():\n  return 2")
    assert calls == [["def two():\n  return 2\n" + "\n".join(ROWS["mbpp"]["test_list"])]]
