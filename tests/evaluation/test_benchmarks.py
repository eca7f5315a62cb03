"""Tasks of ours, and any task of lm-eval, as benchmarks."""

import importlib.metadata
import json
import logging
import subprocess
import sys

import datasets
import pytest
import yaml
from scripted import ask, prompts_of

from tabom.errors import TabomError
from tabom.evaluation.benchmarks import LmEvalBenchmark, PaperBenchmark, TaskBenchmark
from tabom.tasks import QuestionFile, Sudoku4x4


def failure(call):
    with pytest.raises(TabomError) as error:
        call()
    return str(error.value)


@pytest.fixture
def questions(tmp_path):
    """A question file whose prompts and answers look like templates."""
    path = tmp_path / "test.jsonl"
    rows = [{"question": f"{{{{{i}}}}} + {i}?", "answer": f"[{2 * i}]"} for i in range(6)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return QuestionFile(str(path), str(path), verifier="number")


class TestTask:
    def test_sudoku(self):
        task = Sudoku4x4()
        examples = task.examples("test", 9)
        benchmark = TaskBenchmark(task, "sudoku", 9)
        answers = {e.prompt: e.reference if i % 3 else e.reference[::-1] for i, e in enumerate(examples)}
        results, samples, lm = ask(benchmark, lambda request: answers[request.args[0]])
        assert [s["accuracy"] for s in samples] == [float(i % 3 != 0) for i in range(9)]
        assert results[benchmark.metric] == 6 / 9
        assert results["accuracy_stderr,none"] == pytest.approx((6 / 9 * 3 / 9 / 8) ** 0.5)
        assert [s["doc"]["query_id"] for s in samples] == [e.query_id for e in examples]
        assert lm.requests[0].args[1] == {"until": [], "do_sample": False}

    def test_question_file(self, questions):
        benchmark = TaskBenchmark(questions, "sums", 6)
        answers = {f"{{{{{i}}}}} + {i}?": f"It is {2 * i + (i == 2)}." for i in range(6)}
        results, samples, _ = ask(benchmark, lambda request: answers[request.args[0]])
        assert [s["accuracy"] for s in samples] == [1, 1, 0, 1, 1, 1]
        assert results["accuracy,none"] == 5 / 6
        assert [s["target"] for s in samples] == [f"[{2 * i}]" for i in range(6)]

    def test_chat(self, questions):
        prompts, _ = prompts_of(TaskBenchmark(questions, "sums", 2), limit=2)
        assert prompts == ["<user>{{0}} + 0?<assistant>", "<user>{{1}} + 1?<assistant>"]

    def test_another_split(self):
        samples = ask(TaskBenchmark(Sudoku4x4(), "sudoku", 2, "validation"), lambda _: "")[1]
        examples = Sudoku4x4().examples("validation", 2)
        assert [s["doc"]["query_id"] for s in samples] == [e.query_id for e in examples]

    def test_settings(self):
        benchmarks = [TaskBenchmark(Sudoku4x4(seed=seed), "sudoku", 2) for seed in (0, 0, 1)]
        first, same, other = (benchmark.settings() for benchmark in benchmarks)
        assert first == same == json.loads(json.dumps(first))
        assert first["task"] == "tabom.tasks.sudoku.Sudoku4x4"
        assert first == other | {"data": first["data"]} != other

    def test_too_few_examples(self, questions):
        message = failure(TaskBenchmark(questions, "sums", 7).load)
        assert message == f"{questions.test_file}: expected at least 7 examples, found 6"

    def test_refusals(self):
        assert failure(lambda: TaskBenchmark(Sudoku4x4(), "sudoku", 0)) == "num_examples: expected at least 1, got 0"
        assert failure(lambda: TaskBenchmark(Sudoku4x4(), "", 1)) == "name: expected a name for the results, got ''"
        for name in ("../../evil", "a/b", "..", ".x"):
            message = failure(lambda name=name: TaskBenchmark(Sudoku4x4(), name, 1))
            assert message == f"benchmark.name: expected a plain name and no path, got {name!r}"
            message = failure(lambda name=name: LmEvalBenchmark(name, "acc,none"))
            assert message == f"benchmark.task: expected a plain name and no path, got {name!r}"


@pytest.fixture
def include(tmp_path):
    """Two task files and their data: sums to be written, and to be chosen."""
    rows = [
        {"sum": f"{i} + {i}", "answer": str(2 * i), "choices": [str(i), str(2 * i)], "gold": 1} for i in range(1, 5)
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "test_split": "test",
        "doc_to_text": "{{sum}} =",
    }
    written = common | {
        "task": "my_sums",
        "output_type": "generate_until",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": {"until": ["\n"]},
        "filter_list": [
            {"name": name, "filter": [{"function": "regex", "regex_pattern": pattern}, {"function": "take_first"}]}
            for name, pattern in {"strict": "^(\\d+)$", "any": "(\\d+)"}.items()
        ],
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    }
    chosen = common | {
        "task": "my_choices",
        "output_type": "multiple_choice",
        "doc_to_target": "gold",
        "doc_to_choice": "choices",
        "num_fewshot": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    unsafe = written | {"task": "my_code", "unsafe_code": True}
    group = {"group": "my_group", "task": ["my_sums", "my_choices"]}
    broken = common | {"task": "my_broken", "output_type": "none"}
    folder = tmp_path / "tasks"
    folder.mkdir()
    for config in (written, chosen, unsafe, group, broken):
        name = config.get("group") or config["task"]
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(config))
    return str(folder)


class TestLmEval:
    def test_text(self, include):
        benchmark = LmEvalBenchmark("my_sums", "exact_match,any", include_path=include)
        answers = {"1 + 1 =": "2", "2 + 2 =": "it is 4", "3 + 3 =": "7", "4 + 4 =": ""}
        results, _, lm = ask(benchmark, lambda request: answers[request.args[0]])
        assert (results["exact_match,strict"], results["exact_match,any"]) == (0.25, 0.5)
        assert lm.requests[0].args[1] == {"until": ["\n"]}

    def test_choices(self, include):
        benchmark = LmEvalBenchmark("my_choices", "acc,none", include_path=include, domain="maths")
        right = {(f"{i} + {i} =", f" {2 * i}") for i in (1, 2, 3)}
        likelihood = lambda request: (-1.0 if request.args in right else -2.0, False)  # noqa: E731
        results, _, lm = ask(benchmark, likelihood=likelihood)
        assert results["acc,none"] == 0.75
        assert len(lm.requests) == 8
        assert benchmark.domain == "maths"

    def test_fewshot(self, include):
        benchmark = LmEvalBenchmark("my_sums", "exact_match,any", include_path=include, num_fewshot=2)
        (prompt,), _ = prompts_of(benchmark)
        assert prompt.count("<user>") == 3
        fixed = LmEvalBenchmark("my_choices", "acc,none", include_path=include, num_fewshot=2)
        assert failure(fixed.load) == "num_fewshot: expected 0, as my_choices has no examples, got 2"

    @pytest.mark.parametrize("metric", ["exact_match,none", "acc,any", "acc,"])
    def test_no_such_metric(self, include, metric):
        message = failure(lambda: LmEvalBenchmark("my_sums", metric, include_path=include).load())
        known = "my_sums: metric: expected exact_match,strict or exact_match,any"
        general = "metric: expected a metric and a filter, such as exact_match,none"
        assert message == f"{general if metric == 'acc,' else known}, got {metric!r}"

    @pytest.mark.parametrize("task", ["my_group", "other"])
    def test_no_such_task(self, include, task):
        benchmark = LmEvalBenchmark(task, "acc,none", include_path=include)
        assert failure(benchmark.load) == f"task: expected one of the 4 in {include}, got {task!r}"

    def test_no_such_folder(self, tmp_path):
        benchmark = LmEvalBenchmark("my_sums", "acc,none", include_path=str(tmp_path / "none"))
        assert failure(benchmark.load) == f"include_path: expected a folder, got {tmp_path / 'none'}"

    def test_a_task_that_cannot_be_made(self, include):
        message = failure(LmEvalBenchmark("my_broken", "acc,none", include_path=include).load)
        assert message.startswith("my_broken: expected a task that lm-eval can load (Got invalid output_type 'none'")

    def test_code(self, include):
        benchmark = LmEvalBenchmark("my_code", "exact_match,any", include_path=include)
        assert failure(benchmark.load) == (
            "allow_code_execution: my_code runs the programs that the model writes on this machine, without our "
            "sandbox; expected true to allow that, got false"
        )
        allowed = LmEvalBenchmark("my_code", "exact_match,any", include_path=include, allow_code_execution=True)
        assert ask(allowed, lambda _: "2")[0]["exact_match,any"] == 0.25

    def test_a_negative_number(self):
        assert failure(lambda: LmEvalBenchmark("a", "acc,none", num_fewshot=-1)) == (
            "num_fewshot: expected at least 0 or null, got -1"
        )

    @pytest.mark.slow
    def test_a_task_of_its_own(self):
        """Found in the list of all; the hub is not to be had here."""
        message = failure(LmEvalBenchmark("arc_easy", "acc,none").load)
        assert message.startswith("arc_easy: expected a task that lm-eval can load (")
        assert failure(LmEvalBenchmark("none_such", "acc,none").load).endswith(" in lm-eval, got 'none_such'")

    def test_settings(self, include):
        benchmark = LmEvalBenchmark("my_sums", "exact_match,any", include_path=include, num_fewshot=2)
        assert json.loads(json.dumps(benchmark.settings())) == {
            "task": "my_sums",
            "lm_eval": importlib.metadata.version("lm_eval"),
            "include_path": include,
            "num_fewshot": 2,
        }


@pytest.mark.slow
def test_without_lm_eval(tmp_path):
    """The package is imported, and benchmarks are made, without it; only then an error says what to install."""
    script = f"""
import sys
import importlib.metadata as metadata

sys.modules["lm_eval"] = None
found = metadata.version
def version(name):
    if name == "lm_eval":
        raise metadata.PackageNotFoundError(name)
    return found(name)
metadata.version = version
from tabom.errors import TabomError
from tabom.evaluation import LmEvalBenchmark, PaperBenchmark, TaskBenchmark
from tabom.tasks import Sudoku4x4

benchmarks = [
    PaperBenchmark("gsm8k", {str(tmp_path)!r}),
    LmEvalBenchmark("a", "acc,none", include_path={str(tmp_path)!r}),
    TaskBenchmark(Sudoku4x4(), "sudoku", 2),
]
for benchmark in benchmarks:
    for call in (benchmark.load, benchmark.settings):
        try:
            call()
        except TabomError as error:
            print(error)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    message = "benchmarks: expected lm-eval and its packages (lm_eval); pip install 'tabom[eval]'\n"
    assert (done.stdout, done.stderr) == (message * 6, "")


def test_loading_leaves_logging_as_it_was(tmp_path):
    logging.getLogger("lm_eval").setLevel(logging.INFO)
    shows_progress = not datasets.are_progress_bars_disabled()
    failure(PaperBenchmark("gsm8k", str(tmp_path)).load)
    assert logging.getLogger("lm_eval").level == logging.INFO
    assert shows_progress == (not datasets.are_progress_bars_disabled())
