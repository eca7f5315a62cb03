"""HumanEval and MBPP: the stock prompts, scored in our sandbox.

The stock tasks fetch their scorer from the hub when they are imported, and it runs code without containment. So their
files are read without importing what they name, and the functions they name are replaced.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tabom.errors import require
from tabom.evaluation.benchmarks.harness import make_task, mean_of, stock_tasks
from tabom.sandbox import Sandbox

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_TEST_TASKS = range(11, 511)
_PROMPT_TASKS = range(1, 11)
_FEWSHOT_TASKS = (2, 3, 4)

Doc = Mapping[str, Any]
ProgramOf = Callable[[str, Doc], str]
"""What is run: from the response and the question."""


def complete_function(response: str, doc: Doc) -> str:
    """HumanEval's program: the prompt and the response up to the end of its code block."""
    return doc["prompt"] + response.partition("```")[0]


def first_code_block(response: str, _: Doc) -> str:
    """MBPP's program: the first code block of the response, whose prompt has opened one; empty without any."""
    block = re.compile(r"```(?:\w+)?\n?(.*?)\n?```", re.DOTALL)
    found = block.search("```" + response) or block.search(response.replace("```python", "```"))
    return found[1] if found is not None else ""


def load_humaneval(changes: Mapping[str, Any], program_of: ProgramOf = complete_function) -> "Task":
    """``humaneval_instruct``, with other values for some keys, and perhaps another program."""
    return _load("humaneval", "humaneval_instruct", "pass@1", program_of, changes)


def load_mbpp(changes: Mapping[str, Any], program_of: ProgramOf = first_code_block) -> "Task":
    """``mbpp_instruct``, likewise; its examples come from the data, the stock file has the same three."""
    fewshot = {"sampler": "first_n", "split": "prompt", "process_docs": _fewshot_docs}
    return _load("mbpp", "mbpp_instruct", "pass_at_1", program_of, {"fewshot_config": fewshot, **changes})


def split_mbpp(place: str, rows: Sequence[Doc], num_fewshot: int) -> dict[str, list[Doc]]:
    """The splits of the hub that are used, from the file with all tasks.

    Raises:
        TabomError: If the examples are not there.
    """
    test = [row for row in rows if row["task_id"] in _TEST_TASKS]
    prompt = [row for row in rows if row["task_id"] in _PROMPT_TASKS]
    missing = sorted({*_FEWSHOT_TASKS[:num_fewshot]} - {row["task_id"] for row in prompt})
    require(not missing, f"{place}: num_fewshot: expected tasks 2, 3, 4 as examples, found no {missing}")
    return {"test": test, "prompt": prompt}


def _load(folder: str, task: str, metric: str, program_of: ProgramOf, changes: Mapping[str, Any]) -> "Task":
    from lm_eval.utils import apply_template

    config = {**(stock_tasks(folder).task_index[task].cfg or {}), **changes}
    sandbox = Sandbox()

    def run(responses: Sequence[Sequence[str]], docs: Sequence[Doc]) -> list[dict[str, Any]]:
        """A filter of lm-eval: it sees all responses at once, so the programs run side by side."""
        programs = [program_of(text, doc) for (text,), doc in zip(responses, docs, strict=True)]
        tests = [apply_template(config["doc_to_target"], dict(doc)) for doc in docs]
        outcomes = sandbox.run_all([f"{program}\n{test}" for program, test in zip(programs, tests, strict=True)])
        return [
            {"program": program, "is_passed": outcome.is_passed, "reason": outcome.reason}
            for program, outcome in zip(programs, outcomes, strict=True)
        ]

    def process_results(_: Doc, results: Sequence[Mapping[str, Any]]) -> dict[str, float]:
        return {metric: float(results[0]["is_passed"])}

    scoring = {
        "metric_list": mean_of(metric),
        "process_results": process_results,
        "filter_list": [
            {"name": entry["name"], "filter": [{"function": "custom", "filter_fn": run}]}
            for entry in config["filter_list"]
        ],
    }
    return make_task({**config, **scoring})


def _fewshot_docs(docs: Sequence[Doc]) -> list[dict[str, Any]]:
    return [{**doc, "is_fewshot": True} for doc in docs if doc["task_id"] in _FEWSHOT_TASKS]
