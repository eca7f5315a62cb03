"""What is asked of lm-eval; it is imported on first use, since that takes seconds."""

import importlib.metadata
import importlib.util
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.errors import TabomError, require, short_reason

if TYPE_CHECKING:
    from lm_eval.api.task import Task
    from lm_eval.tasks import TaskManager


def package_version(package: str) -> str:
    """Version of a package of the extra ``eval``.

    Raises:
        TabomError: If it is not installed.
    """
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError as error:
        raise _missing(package) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what a user can do nothing about: lm-eval's remarks, and the progress bars of ``datasets``."""
    import datasets

    logger = logging.getLogger("lm_eval")
    level = logger.level
    shows_progress = not datasets.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        logger.setLevel(level)
        if shows_progress:
            datasets.enable_progress_bars()


@contextmanager
def loading(name: str, expected: str) -> Iterator[None]:
    """Keep lm-eval quiet; name the benchmark in what is raised.

    Raises:
        TabomError: For whatever is raised within.
    """
    package_version("lm_eval")
    try:
        with quiet():
            yield
    except TabomError:
        raise
    except ImportError as error:
        raise _missing(str(error)) from error
    except Exception as error:  # tasks run code of their own; the hub's client and many readers raise their own kinds
        raise TabomError(f"{name}: expected {expected} ({short_reason(error)})") from error


def stock_tasks(folder: str) -> "TaskManager":
    """The tasks in one folder of lm-eval; a list of all of them takes a quarter of a minute."""
    import lm_eval.tasks

    return task_manager(Path(lm_eval.tasks.__file__).parent / folder)


def task_manager(include_path: Path | None) -> "TaskManager":
    """The tasks below a folder, or those of lm-eval."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_path=include_path, include_defaults=include_path is None)


def load_changed(manager: "TaskManager", task: str, changes: Mapping[str, Any]) -> "Task":
    """A task with other values for some keys of its file; lm-eval takes them for the tasks of a group only."""
    group = {"group": f"tabom_{task}", "task": [{"task": task, **changes}]}
    return manager.load(group)["tasks"][task]


def make_task(config: Mapping[str, Any]) -> "Task":
    """A task with a configuration as a task file has it."""
    from lm_eval.api.task import ConfigurableTask

    return ConfigurableTask(config=dict(config))


def in_memory(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """The part of a task's configuration that says where its rows come from."""

    def custom_dataset(**_: Any) -> Any:  # it is given the task's metadata
        from datasets import Dataset

        return {split: Dataset.from_list([dict(row) for row in rows]) for split, rows in splits.items()}

    return {"custom_dataset": custom_dataset}


def mean_of(metric: str) -> list[dict[str, Any]]:
    """``metric_list`` of a task with one verdict."""
    return [{"metric": metric, "aggregation": "mean", "higher_is_better": True}]


def require_metric(task: "Task", name: str, metric: str) -> None:
    """Refuse a headline that the task does not give.

    Raises:
        TabomError: If there is no such metric or filter.
    """
    filters = [entry["name"] for entry in task.get_config("filter_list") or [{"name": "none"}]]
    metrics: Any = task.aggregation()
    known = [f"{given},{filter_name}" for given in metrics for filter_name in filters]
    gives_others = any(callable(entry["metric"]) for entry in task.get_config("metric_list") or [])
    is_known = metric in known or (gives_others and metric.rpartition(",")[2] in filters)
    require(is_known, f"{name}: metric: expected {' or '.join(known)}, got {metric!r}")


def _missing(what: str) -> TabomError:
    return TabomError(f"benchmarks: expected lm-eval and its packages ({what}); pip install 'tabom[eval]'")
