"""A task of ours as a task of lm-eval."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tabom.errors import require
from tabom.evaluation.benchmarks.base import Benchmark
from tabom.evaluation.benchmarks.harness import in_memory, loading, make_task, mean_of, package_version
from tabom.storage.names import plain_name
from tabom.tasks import Split
from tabom.tasks import Task as ExampleTask
from tabom.types import Example

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_METRIC = "accuracy"


class TaskBenchmark(Benchmark):
    """Examples of a task, judged by its verifier.

    A response is decoded without stop strings, and handed to the verifier whole.

    Args:
        task: Gives the examples.
        name: Names it in results.
        num_examples: Number of examples, the first of the split.
        split: Which one.

    Raises:
        TabomError: If the name is empty or the number is not positive.
    """

    def __init__(self, task: ExampleTask, name: str, num_examples: int, split: Split = "test") -> None:
        require(bool(name), "name: expected a name for the results, got ''")
        plain_name(name, "benchmark.name")
        require(num_examples >= 1, f"num_examples: expected at least 1, got {num_examples}")
        self.task = task
        self.name = name
        self.num_examples = num_examples
        self.split: Split = split
        self.domain = ""
        self.metric = f"{_METRIC},none"
        self.num_fewshot = 0
        self.runs_code = False

    def load(self) -> "Task":
        """A task with the metric ``accuracy``."""
        is_correct = self.task.is_correct

        def process_results(doc: Mapping[str, Any], responses: Sequence[str]) -> dict[str, float]:
            return {_METRIC: float(is_correct(Example(**doc), responses[0]))}

        with loading(self.name, "examples"):
            return make_task(
                {
                    "task": self.name,
                    **in_memory({self.split: self._docs()}),
                    "test_split": self.split,
                    "doc_to_text": "prompt",
                    "doc_to_target": "reference",
                    "output_type": "generate_until",
                    "generation_kwargs": {"until": [], "do_sample": False},
                    "num_fewshot": self.num_fewshot,
                    "process_results": process_results,
                    "metric_list": mean_of(_METRIC),
                }
            )

    def settings(self) -> dict[str, Any]:
        """The task's class and the digest of its examples."""
        kind = type(self.task)
        digest = hashlib.sha256(json.dumps(self._docs()).encode()).hexdigest()
        return {
            "task": f"{kind.__module__}.{kind.__qualname__}",
            "lm_eval": package_version("lm_eval"),
            "split": self.split,
            "num_examples": self.num_examples,
            "data": f"sha256:{digest}",
        }

    def _docs(self) -> list[dict[str, str]]:
        return [dataclasses.asdict(example) for example in self.task.examples(self.split, self.num_examples)]
