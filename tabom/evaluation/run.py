"""One benchmark, run by lm-eval.

Imported when an evaluation starts, since lm-eval takes seconds.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from statistics import fmean
from typing import Any

from lm_eval.api.task import Task
from lm_eval.defaults import DEFAULT_OTHER_SEED
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager
from lm_eval.utils import handle_non_serializable

from tabom.errors import require
from tabom.evaluation.benchmarks import Benchmark
from tabom.evaluation.benchmarks.harness import quiet
from tabom.evaluation.discrimination import discrimination_of
from tabom.evaluation.language_model import DiffusionLM
from tabom.evaluation.responses import Response
from tabom.storage.run_record import Discrimination


@dataclass(frozen=True)
class Answered:
    """One question.

    Attributes:
        question: Hash of all that the task says of it.
        prompt: What the model saw.
        target: Reference answer, as the task has it.
        answer: What the task read off the response.
        score: Value of the benchmark's metric.
        response: What was decoded; None where given answers were scored.
    """

    question: str
    prompt: str
    target: str
    answer: str
    score: float
    response: Response | None


@dataclass(frozen=True)
class BenchmarkRun:
    """What came out of a benchmark.

    Attributes:
        task: Its name in lm-eval.
        report: lm-eval's results, configuration and versions, as JSON can hold them.
        samples: lm-eval's account of each question, once for each of its filters, likewise.
        answered: The questions, with the benchmark's own metric.
        values: All metrics, with their standard errors.
        cost: As :class:`tabom.storage.run_record.BenchmarkResult` has it.
        discrimination: Likewise.
    """

    task: str
    report: dict[str, Any]
    samples: list[dict[str, Any]]
    answered: list[Answered]
    values: dict[str, float]
    cost: dict[str, float]
    discrimination: Discrimination | None

    @property
    def scores(self) -> dict[str, float]:
        """Of each question by its hash; a question that occurs twice has a number behind its hash."""
        scores: dict[str, float] = {}
        for number, answered in enumerate(self.answered):
            again = answered.question in scores
            scores[f"{answered.question}/{number}" if again else answered.question] = answered.score
        return scores


def run_benchmark(
    benchmark: Benchmark, lm: DiffusionLM, settings: Mapping[str, Any], *, limit: int | None, is_chat: bool
) -> BenchmarkRun | None:
    """Ask all questions, score the answers.

    It is lm-eval's ``evaluate``: its ``simple_evaluate`` would look over the machine for some seconds, which the run's
    record has done.

    Args:
        benchmark: Loads its questions here.
        lm: Answers; its store keeps what it has answered.
        settings: Of the model and the decoding, for lm-eval's results.
        limit: Questions, the first ones; None is all.
        is_chat: Whether prompts are a user's turns.

    Returns:
        Results on the first process, None on others.

    Raises:
        TabomError: If the questions cannot be loaded.
    """
    task = benchmark.load()
    _set_examples(task, benchmark.num_fewshot)
    lm.needs_greedy = task.OUTPUT_TYPE != "multiple_choice" or "exact_match" in (task.aggregation() or ())
    with quiet():
        results = evaluate(
            lm=lm,
            task_dict=TaskManager(include_defaults=False).load([task]),
            limit=limit,
            apply_chat_template=is_chat,
            fewshot_as_multiturn=is_chat,
            confirm_run_unsafe_code=benchmark.runs_code,
        )
    costs = lm.gather_object({"num_decoded": lm.num_decoded, "num_tokens": lm.num_tokens, "seconds": lm.seconds})
    if results is None:
        return None
    lm.read_all()
    report = _plain(results) | {"config": dict(settings), "lm_eval_version": version("lm_eval")}
    (name, samples), *_ = report.pop("samples").items()
    answered = _answered(benchmark, lm, name, samples)
    values = {key: float(value) for key, value in report["results"][name].items() if _is_metric(key, value)}
    discrimination = discrimination_of(one.response for one in answered)
    return BenchmarkRun(name, report, samples, answered, values, _cost(answered, costs or []), discrimination)


def _set_examples(task: Task, num_fewshot: int | None) -> None:
    """Answered questions ahead of each one: what lm-eval's ``simple_evaluate`` does; 0 in a task's file is kept."""
    own = task.get_config("num_fewshot")
    if own is None or (num_fewshot is not None and own != 0):
        task.set_config("num_fewshot", num_fewshot or 0)
    task.set_fewshot_seed(DEFAULT_OTHER_SEED)


def _answered(benchmark: Benchmark, lm: DiffusionLM, task: str, samples: Sequence[dict[str, Any]]) -> list[Answered]:
    metric, _, filtering = benchmark.metric.partition(",")
    own = [sample for sample in samples if sample["filter"] == filtering]
    known = sorted({f"{name},{sample['filter']}" for sample in samples for name in sample["metrics"]})
    require(
        len(own) > 0 and all(metric in sample["metrics"] for sample in own),
        f"benchmark: expected metric to be one of {', '.join(known)}, got {benchmark.metric}",
    )
    return [
        Answered(
            question=sample["doc_hash"],
            prompt=sample["arguments"][0][0],
            target=str(sample["target"]),
            answer=_shown(sample["filtered_resps"]),
            score=float(sample[metric]),
            response=lm.first_response(task, sample["arguments"][0][0]),
        )
        for sample in own
    ]


def _is_metric(key: str, value: Any) -> bool:
    return "," in key and isinstance(value, int | float) and not math.isnan(value)


def _shown(answers: Any) -> str:
    """One answer as text; several as JSON."""
    while isinstance(answers, list) and len(answers) == 1:
        answers = answers[0]
    return answers if isinstance(answers, str) else json.dumps(answers)


def _cost(answered: Sequence[Answered], costs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    responses = [one.response for one in answered if one.response is not None]
    num_decoded = sum(cost["num_decoded"] for cost in costs)
    seconds = max((cost["seconds"] for cost in costs), default=0.0)
    if not responses:
        return {}
    found = {
        "num_decoded": float(num_decoded),
        "num_steps": fmean(response.num_steps for response in responses),
        "num_tokens": fmean(response.num_tokens for response in responses),
    }
    if seconds > 0:
        found["tokens_per_second"] = sum(cost["num_tokens"] for cost in costs) / seconds
    return found


def _plain(content: Any) -> Any:
    """The same as JSON holds it: numpy's numbers become Python's, functions their source."""
    return json.loads(json.dumps(content, default=handle_non_serializable))
