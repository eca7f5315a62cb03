"""Any task of lm-eval."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.errors import require
from tabom.evaluation.benchmarks.base import Benchmark
from tabom.evaluation.benchmarks.harness import loading, package_version, require_metric, task_manager
from tabom.storage.names import plain_name

if TYPE_CHECKING:
    from lm_eval.api.task import Task


class LmEvalBenchmark(Benchmark):
    """A task that lm-eval knows, or one in a YAML file.

    Args:
        task: Its name; a group or a tag is refused.
        metric: Headline: a metric and a filter of the task, such as ``exact_match,strict-match``; the filter of a task
            without any is ``none``.
        include_path: Folder whose YAML files are searched instead of lm-eval's own, which takes a quarter of a minute.
        num_fewshot: Answered questions ahead of each one; None for the task's own number.
        domain: ``maths``, ``code``, ``instructions`` or empty.
        allow_code_execution: Needed by tasks that run the programs which the model wrote. lm-eval runs them itself, not
            in our sandbox.

    Raises:
        TabomError: If a number is negative or the metric is not written so.
    """

    def __init__(
        self,
        task: str,
        metric: str,
        include_path: str | None = None,
        num_fewshot: int | None = None,
        domain: str = "",
        allow_code_execution: bool = False,
    ) -> None:
        is_pair = all(metric.rpartition(","))
        require(is_pair, f"metric: expected a metric and a filter, such as exact_match,none, got {metric!r}")
        is_number = num_fewshot is None or num_fewshot >= 0
        require(is_number, f"num_fewshot: expected at least 0 or null, got {num_fewshot}")
        self.name = plain_name(task, "benchmark.task")
        self.metric = metric
        self.include_path = Path(include_path) if include_path is not None else None
        self.num_fewshot = num_fewshot
        self.domain = domain
        self.runs_code = allow_code_execution

    def load(self) -> "Task":
        """The task as lm-eval makes it."""
        if self.include_path is not None:
            require(self.include_path.is_dir(), f"include_path: expected a folder, got {self.include_path}")
        with loading(self.name, "a task that lm-eval can load"):
            manager = task_manager(self.include_path)
            where = self.include_path or "lm-eval"
            is_known = self.name in manager.all_subtasks
            require(is_known, f"task: expected one of the {len(manager.all_subtasks)} in {where}, got {self.name!r}")
            self._check_code((manager.task_index[self.name].cfg or {}).get("unsafe_code", False))
            task = manager.load(self.name)["tasks"][self.name]
            self._check_code(getattr(task, "UNSAFE_CODE", False))
        require_metric(task, self.name, self.metric)
        is_fixed = task.get_config("num_fewshot") == 0 and bool(self.num_fewshot)
        require(not is_fixed, f"num_fewshot: expected 0, as {self.name} has no examples, got {self.num_fewshot}")
        return task

    def settings(self) -> dict[str, Any]:
        """Task, folder and version of lm-eval."""
        return {
            "task": self.name,
            "lm_eval": package_version("lm_eval"),
            "include_path": str(self.include_path) if self.include_path is not None else None,
            "num_fewshot": self.num_fewshot,
        }

    def _check_code(self, runs_code: bool) -> None:
        require(
            self.runs_code or not runs_code,
            f"allow_code_execution: {self.name} runs the programs that the model writes on this machine, without our "
            "sandbox; expected true to allow that, got false",
        )
