"""The paper's benchmarks on their released files: prompts, and scores that are known by hand."""

import ast
import gzip
import json
import re
from pathlib import Path

import datasets
import lm_eval.tasks
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scripted import ask, prompts_of

from tabom.errors import TabomError
from tabom.evaluation.benchmarks import PaperBenchmark, code, paper
from tabom.sandbox import Outcome, Sandbox

STOCK = Path(lm_eval.tasks.__file__).parent


def paper_benchmark(name, data_dir, **options):
    return PaperBenchmark(name, str(data_dir), allow_code_execution=True, **options)


def json_lines(path):
    with gzip.open(path, "rt") if path.suffix == ".gz" else path.open() as file:
        return [json.loads(line) for line in file]


def failure(call):
    with pytest.raises(TabomError) as error:
        call()
    return str(error.value)


@pytest.fixture
def write(tmp_path):
    """Write a file of the layout, and give the folder."""

    def write(name, rows):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(row if isinstance(row, str) else json.dumps(row) + "\n" for row in rows))
        return tmp_path

    return write


FILES = {
    "gsm8k": "gsm8k/test.jsonl",
    "math500": "math500/test.jsonl",
    "humaneval": "humaneval/HumanEval.jsonl",
    "mbpp": "mbpp/mbpp.jsonl",
    "ifeval": "ifeval/input_data.jsonl",
}
ROWS = {
    "gsm8k": {"question": "1 + 1?", "answer": "One more.\n#### 2"},
    "math500": {"problem": "What is $1 + 1$?", "solution": "It is $\\boxed{2}$.", "answer": "2"},
    "humaneval": {
        "task_id": "HumanEval/0",
        "prompt": 'def two():\n    """Give 2."""\n',
        "entry_point": "two",
        "test": "def check(candidate):\n    assert candidate() == 2\n",
    },
    "mbpp": {
        "task_id": 11,
        "text": "Give 2.",
        "code": "def two():\r\n  return 2",
        "test_list": ["assert two() == 2"] * 3,
    },
    "ifeval": {
        "key": 1,
        "prompt": "Use no comma, and at least 3 words.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"relation": "at least", "num_words": 3}],
    },
}
PROMPTS = {
    "gsm8k": ("<user>Q: 1 + 1?\nA:<assistant>", {"do_sample": False, "until": ["Q:", "</s>", "<|im_end|>"]}),
    "math500": (
        "<user>Problem:\nWhat is $1 + 1$?\n\nSolution:<assistant>",
        {"do_sample": False, "temperature": 0.0, "until": ["Problem:"]},
    ),
    "humaneval": (
        "<user>Write a solution to the following problem and make sure that it passes the tests:\n"
        '```python\ndef two():\n    """Give 2."""\n\n```\n'
        '<assistant>Here is the completed function:\n```python\ndef two():\n    """Give 2."""\n\n',
        {"do_sample": False, "until": ["\nclass", "\ndef", "\n#", "\nif", "\nprint"], "max_gen_toks": 1024},
    ),
    "mbpp": (
        "<user>You are an expert Python programmer, and here is your task:\nGive 2.\nYour code should pass these "
        "tests:\nassert two() == 2\nassert two() == 2\nassert two() == 2<assistant>\n```python\n",
        {"do_sample": False, "until": [], "max_gen_toks": 256},
    ),
    "ifeval": (
        "<user>Use no comma, and at least 3 words.<assistant>",
        {"do_sample": False, "temperature": 0.0, "until": [], "max_gen_toks": 1280},
    ),
}


@pytest.mark.parametrize("name", FILES)
def test_prompts(write, name):
    """Word for word: a release of lm-eval that changes them is noticed."""
    benchmark = paper_benchmark(name, write(FILES[name], [ROWS[name]]))
    prompts, decoding = prompts_of(benchmark)
    assert (prompts[0], decoding) == PROMPTS[name]
    assert benchmark.settings()["task"] == benchmark.load().task_name


def test_gsm8k(shared_data):
    """Each answer in the formats that tell the two filters apart; which of them finds it is known."""
    formats = [  # of a right answer: strict, flexible
        ("So 1 + 1 = 7. The answer is {}.", True, True),
        ("The answer is {}.\n", True, True),
        ("The answer is {:,}.", True, True),
        ("The answer is ${}.", False, True),
        ("The answer is {}", False, True),  # the strict pattern wants one more character
        ("It is {:,}.", False, True),
        ("The answer is {}, not 99999999.", True, False),
        ("The answer is unknown.", False, False),
        ("", False, False),
    ]
    rows = json_lines(shared_data / "gsm8k" / "test.jsonl")
    numbers = [int(row["answer"].rpartition("#### ")[2].replace(",", "")) for row in rows]
    answers, strict, flexible = {}, [], []
    for i, (row, number) in enumerate(zip(rows, numbers, strict=True)):
        text, is_strict, is_flexible = formats[i % len(formats)]
        is_right = i % 3 != 1
        answers[row["question"]] = text.format(number if is_right else number + 1)
        strict.append(is_right and is_strict)
        flexible.append(is_right and is_flexible)
    benchmark = paper_benchmark("gsm8k", shared_data)
    results, samples, _ = ask(benchmark, lambda request: answers[request.doc["question"]])
    assert len(rows) == 1319
    assert results["exact_match,strict-match"] == sum(strict) / 1319
    assert results[benchmark.metric] == sum(flexible) / 1319
    for name, expected in {"strict-match": strict, "flexible-extract": flexible}.items():
        assert [s["exact_match"] == 1 for s in samples if s["filter"] == name] == expected


MATH = [  # solution, response, verdict of math-verify, and of the stock comparison
    ("$\\boxed{\\frac{1}{2}}$", "It is $\\boxed{0.5}$.", 1, 0),
    ("$\\boxed{12}$", "Final Answer: The final answer is $12$. I hope it is correct.", 1, 1),
    ("$\\boxed{12}$", "Final Answer: The final answer is $13$. I hope it is correct.", 0, 0),
    ("$\\boxed{(1, 2)}$", "Final Answer: The final answer is $(1,2)$. I hope it is correct.", 1, 1),
    ("$\\boxed{2x + 2}$", "So $\\boxed{2(x+1)}$", 1, 0),
    ("$\\boxed{3}$", "", 0, 0),
]


def test_math500(write):
    rows = [{"problem": f"Problem {i}?", "solution": solution, "answer": ""} for i, (solution, *_) in enumerate(MATH)]
    for row in rows:
        row.update(subject="Algebra", level=1, unique_id="test/algebra/1.json")
    answers = {row["problem"]: text for row, (_, text, *_) in zip(rows, MATH, strict=True)}
    benchmark = paper_benchmark("math500", write(FILES["math500"], rows))
    results, samples, _ = ask(benchmark, lambda request: answers[request.doc["problem"]])
    assert [(s["math_verify"], s["exact_match"]) for s in samples] == [tuple(verdicts) for _, _, *verdicts in MATH]
    assert (results[benchmark.metric], results["exact_match,none"]) == (4 / 6, 2 / 6)


def test_humaneval(shared_data):
    """All reference solutions, three of four right."""
    rows = json_lines(shared_data / "humaneval" / "HumanEval.jsonl.gz")
    answers = {}
    for i, row in enumerate(rows):
        is_wrong, is_closed = i % 4 == 1, i % 2 == 0
        body = "    raise NotImplementedError\n" if is_wrong else row["canonical_solution"]
        answers[row["task_id"]] = body + "```\nThat is all: it(" * is_closed
    benchmark = paper_benchmark("humaneval", shared_data)
    results, samples, _ = ask(benchmark, lambda request: answers[request.doc["task_id"]])
    assert len(samples) == 164
    assert [s["pass@1"] for s in samples] == [float(i % 4 != 1) for i in range(164)]
    assert results[benchmark.metric] == 123 / 164
    assert results["pass@1_stderr,create_test"] == pytest.approx((0.75 * 0.25 / 163) ** 0.5)
    ((outcome,),) = [s["filtered_resps"] for s in samples[1:2]]
    assert outcome["program"] == rows[1]["prompt"] + "    raise NotImplementedError\n"
    assert "NotImplementedError" in outcome["reason"]


MBPP = [  # response, whether its program is the code
    ("\n{}\n```", True),
    ("\n{}\n```\nNow you:\n```python\nraise\n```", True),
    ("{}\n```", False),  # the stock pattern takes the first word for the name of a language
    ("```python\n{}\n```", False),  # closes the block that the prompt opened
    ("\n{}", False),  # closes none
]


@pytest.mark.parametrize("step", [10, pytest.param(1, marks=pytest.mark.slow)])
def test_mbpp(shared_data, tmp_path, step):
    """The reference solutions; one of the test split needs a set-up that the task leaves out."""
    rows = json_lines(shared_data / "mbpp" / "mbpp.jsonl")
    asked = [row for row in rows if 11 <= row["task_id"] <= 510][::step]
    (tmp_path / "mbpp").mkdir()
    (tmp_path / "mbpp" / "mbpp.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:10] + asked))
    answers, expected = {}, {}
    for i, row in enumerate(asked):
        text, is_code = MBPP[i % len(MBPP)]
        answers[row["task_id"]] = text.format(row["code"])
        expected[row["task_id"]] = float(is_code and not row["test_setup_code"])
    benchmark = paper_benchmark("mbpp", tmp_path)
    results, samples, _ = ask(benchmark, lambda request: answers[request.doc["task_id"]])
    assert len(samples) == 500 // step
    assert {sample["doc"]["task_id"]: sample["pass_at_1"] for sample in samples} == expected
    assert results[benchmark.metric] == sum(expected.values()) / len(asked)


def stock_functions(folder, *names):
    """Functions of a stock module without what it does on import."""
    tree = ast.parse((STOCK / folder / "utils.py").read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name in names]
    namespace = {"re": re}
    exec(compile(tree, folder, "exec"), namespace)
    return [namespace[name] for name in names]


@pytest.mark.parametrize(
    "text",
    [
        "    return 1\n",
        "    return 1\n```\nand\n```python\nx\n```",
        "",
        "```",
        "```python\nx = 1\n```",
        "Sure:\n```python\nx = 1\n```\n```\ny\n```",
        "x = 1\n```",
        "no block",
        "python\nx\n```",
        "```py\nx",
    ],
)
def test_programs_are_those_of_the_stock_tasks(text):
    (build,) = stock_functions("humaneval", "build_predictions_instruct")
    (extract,) = stock_functions("mbpp", "extract_code_blocks")
    doc = ROWS["humaneval"]
    assert [[code.complete_function(text, doc)]] == build([[text]], [doc])
    assert code.first_code_block(text, doc) == extract(text)


class TestFewshot:
    def test_mbpp_has_the_examples_of_the_stock_task(self, shared_data):
        (samples,) = stock_functions("mbpp", "list_fewshot_samples")
        (prompt,), _ = prompts_of(paper_benchmark("mbpp", shared_data, num_fewshot=3))
        turns = [turn.partition("<assistant>") for turn in prompt.split("<user>")[1:]]
        assert len(turns) == 4
        for sample, (question, _, answer) in zip(samples(), turns[:3], strict=True):
            assert sample["text"] in question
            assert all(test in question for test in sample["test_list"])
            assert answer.strip() == f"```python\n{sample['code']}\n```"

    @pytest.mark.parametrize(("name", "num_fewshot"), [("gsm8k", 8), ("math500", 4)])
    def test_the_others_bring_their_own(self, write, name, num_fewshot):
        data_dir = write(FILES[name], [ROWS[name]])
        (prompt,), _ = prompts_of(paper_benchmark(name, data_dir, num_fewshot=num_fewshot))
        assert prompt.count("<user>") == num_fewshot + 1
        assert prompt.endswith(PROMPTS[name][0])

    @pytest.mark.parametrize(
        ("name", "most"), [("gsm8k", 8), ("math500", 4), ("humaneval", 0), ("mbpp", 3), ("ifeval", 0)]
    )
    def test_a_number_out_of_range(self, name, most):
        for number in (-1, most + 1):
            assert failure(lambda number=number: paper_benchmark(name, "x", num_fewshot=number)) == (
                f"num_fewshot: expected 0 to {most} for {name}, got {number}"
            )

    def test_mbpp_without_its_examples(self, write):
        benchmark = paper_benchmark("mbpp", write(FILES["mbpp"], [ROWS["mbpp"]]), num_fewshot=3)
        message = failure(benchmark.load)
        assert message.endswith("mbpp.jsonl: num_fewshot: expected tasks 2, 3, 4 as examples, found no [2, 3, 4]")


class TestRefusals:
    @pytest.mark.parametrize("name", ["humaneval", "mbpp"])
    def test_code_that_may_not_be_run(self, name):
        assert failure(lambda: PaperBenchmark(name)) == (
            f"allow_code_execution: {name} runs the programs that the model writes on this machine, in a sandbox; "
            "expected true to allow that, got false"
        )

    def test_no_such_benchmark(self):
        assert failure(lambda: PaperBenchmark("mmlu")) == (
            "name: expected gsm8k, math500, humaneval, mbpp, ifeval, got 'mmlu'"
        )

    @pytest.mark.parametrize("name", FILES)
    def test_no_file(self, tmp_path, name):
        benchmark = paper_benchmark(name, tmp_path)
        first = paper._STOCK[name].files[0]
        for call in (benchmark.load, benchmark.settings):
            assert failure(call) == f"{tmp_path / first}: expected a file of JSON Lines, found none"

    @pytest.mark.parametrize(
        ("name", "changes", "message"),
        [
            ("gsm8k", {"answer": 4}, "column answer: expected text, got 4"),
            ("math500", {"solution": "2"}, "column solution: expected text with an answer in \\boxed{}, got '2'"),
            ("humaneval", {"prompt": None}, "column prompt: expected text, got None"),
            ("mbpp", {"task_id": "11"}, "column task_id: expected a whole number, got '11'"),
            ("mbpp", {"test_list": ["a", "b"]}, "column test_list: expected a list of three texts, got ['a', 'b']"),
            ("ifeval", {"kwargs": [{}, 1]}, "column kwargs: expected a list of objects, got [{}, 1]"),
            ("ifeval", {"kwargs": [{}]}, "column kwargs: expected 2, as there are instructions, got 1"),
            (
                "ifeval",
                {"instruction_id_list": ["no:comma"]},
                "column instruction_id_list: expected instructions of IFEval, got ['no:comma']",
            ),
        ],
    )
    def test_a_value_of_another_kind(self, write, name, changes, message):
        data_dir = write(FILES[name], [ROWS[name], ROWS[name] | changes])
        assert failure(paper_benchmark(name, data_dir).load) == f"{data_dir / FILES[name]}:2: {message}"

    @pytest.mark.parametrize("row", ["[1]\n", '{"question": "1?"}\n'])
    def test_a_column_that_is_missing(self, write, row):
        data_dir = write(FILES["gsm8k"], [ROWS["gsm8k"], row])
        expected = "a JSON object, got list" if row.startswith("[") else "columns question, answer, found no answer"
        assert failure(paper_benchmark("gsm8k", data_dir).load) == f"{data_dir}/gsm8k/test.jsonl:2: expected {expected}"

    @pytest.mark.parametrize("value", ["", " ", float("nan"), float("inf"), True, ["a"], {}, "\ud83d"], ids=repr)
    @pytest.mark.parametrize(("name", "column"), [("gsm8k", "question"), ("humaneval", "test"), ("mbpp", "test_list")])
    def test_what_is_no_text(self, write, name, column, value):
        changes = {column: ["a", "b", value] if name == "mbpp" else value}
        data_dir = write(FILES[name], [ROWS[name], ROWS[name] | changes])
        message = failure(paper_benchmark(name, data_dir).load)
        assert message.startswith(f"{data_dir / FILES[name]}:2: column {column}: expected ")

    def test_a_file_as_it_is_saved(self, write):
        data_dir = write(FILES["gsm8k"], ["\ufeff" + json.dumps([ROWS["gsm8k"]] * 2, indent=2).replace("\n", "\r\n")])
        assert len(paper_benchmark("gsm8k", data_dir).load().dataset["test"]) == 2

    def test_a_line_that_is_no_json(self, write):
        data_dir = write(FILES["gsm8k"], [ROWS["gsm8k"], "{\n"])
        message = failure(paper_benchmark("gsm8k", data_dir).load)
        assert message.startswith(f"{data_dir}/gsm8k/test.jsonl:2: expected a JSON object, got '{{' (")

    def test_a_zipped_file_that_is_cut_off(self, tmp_path):
        path = tmp_path / "humaneval" / "HumanEval.jsonl.gz"
        path.parent.mkdir()
        path.write_bytes(gzip.compress(json.dumps(ROWS["humaneval"]).encode() * 99)[:-20])
        message = failure(paper_benchmark("humaneval", tmp_path).load)
        assert message.startswith(f"{path}: expected a file that can be read (")

    @pytest.mark.parametrize("name", ["gsm8k", "mbpp"])
    def test_no_questions(self, write, name):
        data_dir = write(FILES[name], [ROWS[name] | {"task_id": 600}] if name == "mbpp" else [])
        assert (
            failure(paper_benchmark(name, data_dir).load) == f"{data_dir / FILES[name]}: expected questions, found none"
        )


HUB = {
    "gsm8k": ("openai/gsm8k", "main", {"test": 1}),
    "math500": ("HuggingFaceH4/MATH-500", "default", {"test": 1}),
    "humaneval": ("openai/openai_humaneval", "openai_humaneval", {"test": 1}),
    "mbpp": ("google-research-datasets/mbpp", "full", {"test": 1, "prompt": 10}),
    "ifeval": ("google/IFEval", "default", {"train": 1}),
}


class TestHub:
    """From a folder named as the data set is; ``datasets`` reads it as it reads the hub."""

    @pytest.fixture(autouse=True)
    def _here(self, monkeypatch, tmp_path):
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")

    @pytest.mark.parametrize("name", FILES)
    def test_questions(self, name):
        path, configuration, splits = HUB[name]
        Path(path).mkdir(parents=True)
        card = ["---", "configs:", f"- config_name: {configuration}", "  data_files:"]
        for split, number in splits.items():
            first = 1 if split == "prompt" else 11
            rows = [ROWS[name] | ({"task_id": first + i} if name == "mbpp" else {}) for i in range(number)]
            pq.write_table(pa.Table.from_pylist(rows), f"{path}/{split}.parquet")
            card.append(f"  - {{split: {split}, path: {split}.parquet}}")
        Path(path, "README.md").write_text("\n".join([*card, "---", ""]))
        benchmark = PaperBenchmark(name, allow_code_execution=True)
        prompts, _ = prompts_of(benchmark)
        assert prompts == [PROMPTS[name][0]]
        assert benchmark.settings()["data"] == "hub"
        if name == "mbpp":
            (prompt,), _ = prompts_of(PaperBenchmark(name, num_fewshot=3, allow_code_execution=True))
            assert prompt.count("<user>") == 4

    def test_no_hub(self):
        message = failure(PaperBenchmark("gsm8k").load)
        assert message.startswith(
            "gsm8k: expected its data set on the hub or in the cache of datasets; data_dir names local files ("
        )


def test_programs_run_side_by_side(write, monkeypatch):
    calls = []

    def run_all(self, programs, on_finished=None):
        calls.append(programs)
        return [Outcome(i == 0, "" if i == 0 else "no", 0.0) for i in range(len(programs))]

    monkeypatch.setattr(Sandbox, "run_all", run_all)
    data_dir = write(FILES["humaneval"], [ROWS["humaneval"]] * 2)
    results, samples, _ = ask(paper_benchmark("humaneval", data_dir), lambda _: "    return 2\n```")
    (programs,) = calls
    program = 'def two():\n    """Give 2."""\n    return 2\n'
    assert programs == [program + "\ndef check(candidate):\n    assert candidate() == 2\n\ncheck(two)"] * 2
    assert results["pass@1,create_test"] == 0.5
    assert [s["filtered_resps"] for s in samples] == [
        [{"program": program, "is_passed": True, "reason": ""}],
        [{"program": program, "is_passed": False, "reason": "no"}],
    ]


def test_settings_tell_files_apart(write):
    first = paper_benchmark("gsm8k", write(FILES["gsm8k"], [ROWS["gsm8k"]])).settings()
    second = paper_benchmark("gsm8k", write(FILES["gsm8k"], [ROWS["gsm8k"] | {"question": "2?"}])).settings()
    assert json.loads(json.dumps(first)) == first
    assert first["data"] != second["data"]
    assert first == second | {"data": first["data"]}
