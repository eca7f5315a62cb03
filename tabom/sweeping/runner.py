"""Runs a sweep on this machine: several processes at once, resumable, with a summary at the end."""

import os
import re
import statistics
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console

from tabom.errors import TabomError
from tabom.jobs.job import is_locked
from tabom.jobs.side_by_side import SideBySide
from tabom.reporting.comparison import Column, markdown_table, rich_table, short_names, show_value
from tabom.reporting.progress import Display
from tabom.reporting.sensitivity import Setting, plot_sensitivity, sensitivity_rows
from tabom.signals import EXIT_CODE
from tabom.storage.claims import remove_empty
from tabom.storage.files import whole_file
from tabom.storage.run_record import DIRECTORY
from tabom.storage.settings import check_same
from tabom.storage.yaml_files import read_yaml
from tabom.sweeping.file import Sweep, identity
from tabom.sweeping.run import Run
from tabom.sweeping.search import Search

_LONGEST_NAME = 120


class Runner(SideBySide[Run]):
    """Tries settings until the sweep is complete, and can be stopped and started again at any moment.

    Args:
        sweep: What is run.
        output_dir: Held by this process; gets ``sweep.yaml``, the search's journal, a directory a run, and the summary.
        num_jobs: Runs at once.

    Raises:
        TabomError: If another sweep lies in the directory.
    """

    def __init__(self, sweep: Sweep, output_dir: Path, num_jobs: int) -> None:
        super().__init__("sweep", num_jobs)
        _keep_identity(sweep, output_dir)
        self._sweep = sweep
        self._directory = output_dir
        self._search = Search(sweep, output_dir / "search.journal")
        self._seeds: tuple[int | None, ...] = sweep.seeds or (None,)
        num_seeds, cap = len(self._seeds), sweep.content.get("run_cap", sys.maxsize)
        if sweep.method == "grid":
            self._num_runs = min(len(sweep.grid()) * num_seeds, cap)
        else:  # every setting has all seeds, since their mean counts
            self._num_runs = -(-cap // num_seeds) * num_seeds
        self._num_settings = -(-self._num_runs // num_seeds)
        self._names = short_names(list(sweep.axes))
        self._choose = max if sweep.goal == "maximize" else min
        self._runs: dict[int, list[Run]] = {}
        for trial in self._search.suggested():
            self._add(trial)
        self._active = [run for runs in self._runs.values() for run in runs if run.is_tried]
        self._failed: set[str] = set()

    def run(self) -> None:
        """Make the runs that are missing, then write the summary.

        Raises:
            TabomError: If runs failed; the same command tries them again.
        """
        for setting in self._runs:
            self._tell(setting)
        with closing(Display()) as self._display:
            self._task = self._display.add(self._sweep.name, self._num_runs, "runs", completed=self._num_done)
            self._run_all()
        if self._finished():
            self._summarise()
        if self._is_stopping:
            print("tabom sweep: stopped; the same command goes on", file=sys.stderr)
            sys.exit(EXIT_CODE)
        if self._failed:
            names = ", ".join(sorted(self._failed))
            raise TabomError(f"{len(self._failed)} runs failed ({names}); the same command tries them again")

    @property
    def _num_done(self) -> int:
        """Runs that have finished, and those of settings that were stopped early."""
        pruned = {trial.number for trial in self._search.suggested(TrialState.PRUNED)}
        return sum(run.metric is not None or run.setting in pruned for runs in self._runs.values() for run in runs)

    def _finished(self) -> list[tuple[Run, float]]:
        """Runs with what they reached."""
        return [(run, run.metric) for runs in self._runs.values() for run in runs if run.metric is not None]

    def _is_open(self, setting: int) -> bool:
        return any(trial.number == setting for trial in self._search.suggested(TrialState.RUNNING))

    def _add(self, trial: FrozenTrial) -> None:
        is_grid, num_seeds = self._sweep.method == "grid", len(self._seeds)
        seeds = self._seeds[: max(0, self._num_runs - trial.number * num_seeds)] if is_grid else self._seeds
        num_commands = 1 + len(self._sweep.content.get("then", []))
        values, metric = dict(trial.params), self._sweep.metric
        places = [self._place(trial.number, values, seed) for seed in seeds]
        self._runs[trial.number] = [
            Run(place, trial.number, values, seed, metric, num_commands)
            for place, seed in zip(places, seeds, strict=True)
        ]

    def _place(self, setting: int, values: dict[str, Any], seed: int | None) -> Path:
        """The run's directory: one that an earlier version made keeps its number; none has two settings."""
        former = self._directory / (f"{setting:03}" + ("" if seed is None else f"-seed{seed}"))
        if former.is_dir():
            return former
        name = self._name(values, seed)
        taken = {run.directory.name for runs in self._runs.values() for run in runs}
        return self._directory / (f"{name}-{setting:03}" if name in taken else name)

    def _following(self) -> Run | None:
        """What is to be run: a seed of a setting that has not finished and was not tried by this command."""
        while True:
            for trial in self._search.suggested(TrialState.RUNNING):
                for run in self._runs[trial.number]:
                    if run.metric is None and not run.is_tried:
                        return run
            if len(self._runs) >= self._num_settings:
                return None
            self._add(self._search.suggest())

    def _commands(self, run: Run) -> list[list[str]]:
        given = {key: value for key in ("project", "entity") if (value := self._sweep.content.get(key))}
        logger = {"offline": "true", "group": self._sweep.name, "name": self._name(run.values, run.seed), **given}
        options = [f"--trainer.logger.{key}={value}" for key, value in logger.items()]
        first, following = self._sweep.words(run.values, run.seed), self._sweep.then(run.directory, self._setting(run))
        return [[*words, *options] for words in (first, *following)]

    def _name(self, values: dict[str, Any], seed: int | None) -> str:
        """Of a run, in W&B as well: all that tells it from the others, as far as a file's name may hold it."""
        parts = [*self._parts(values), *([] if seed is None else [f"seed={seed}"])]
        return re.sub(r"[^\w.+=-]+", "_", "-".join(parts))[:_LONGEST_NAME] or "run"

    def _setting(self, run: Run) -> str:
        return " ".join(self._parts(run.values)) or self._sweep.name

    def _parts(self, values: dict[str, Any]) -> list[str]:
        return [f"{self._names[key]}={show_value(value)}" for key, value in values.items()]

    def _note_end(self, job: Run) -> None:
        self._is_hopeless(job)
        if reason := job.finish():
            self._failed.add(job.directory.name)
            self._display.line(f"{job.directory.name}: {reason}; {job.log}")
        self._tell(job.setting)

    def _begin_next(self) -> Run | None:
        following = self._following()
        if following is not None:
            num_threads = max(1, (os.cpu_count() or 1) // self._num_jobs)
            following.start(self._commands(following), num_threads, self._template)
        return following

    def _tell(self, setting: int) -> None:
        """Say to the search what a setting reached, once all its seeds have finished."""
        metrics = [run.metric for run in self._runs[setting] if run.metric is not None]
        if len(metrics) == len(self._seeds) and self._is_open(setting):
            self._search.tell(setting, statistics.mean(metrics))

    def _look(self) -> None:
        """Early stopping, by the checks of a setting's first seed; the other seeds end with it."""
        for run in [] if self._is_stopping else self._active:
            if self._is_hopeless(run):
                self._search.tell(run.setting, None)
                for other in self._runs[run.setting]:
                    other.stop()
        self._display.update(self._task, self._num_done, self._numbers())

    def _is_hopeless(self, run: Run) -> bool:
        """Report the checks that are new, of a run that has ended as well: others are compared with it."""
        if not self._sweep.early_terminate or run.seed != self._seeds[0] or not self._is_open(run.setting):
            return False
        values = run.checks()
        new = range(run.num_reported, len(values))
        run.num_reported = len(values)
        return any([self._search.is_hopeless(run.setting, check + 1, values[check]) for check in new])  # noqa: C419

    def _numbers(self) -> dict[str, str]:
        metrics = [metric for _, metric in self._finished()]
        numbers = {"failed": str(len(self._failed))} if self._failed else {}
        return numbers | ({f"best {self._sweep.metric}": f"{self._choose(metrics):.4g}"} if metrics else {})

    def _summarise(self) -> None:
        """Best setting, table, and figure, as far as the sweep has come."""
        settings = [
            Setting({k: "null" if v is None else v for k, v in run.values.items()}, metric)
            for run, metric in self._finished()
        ]
        column = Column("", self._sweep.metric, digits=4)
        rows = sensitivity_rows(settings, column, self._sweep.goal)
        best = self._choose(
            settings, key=lambda one: statistics.mean(other.metric for other in settings if other.values == one.values)
        )
        command = " ".join(["tabom", *self._sweep.words(best.values, None)])
        places = ["*", *(["*/then-*"] if "then" in self._sweep.content else [])]
        sync = " ".join(["wandb sync", *(f"{self._directory}/{place}/wandb/offline-run-*" for place in places)])
        if self._sweep.axes:
            figure = plot_sensitivity(settings, self._sweep.name, column)
            for ending in ("png", "svg"):
                figure.savefig(self._directory / f"sensitivity.{ending}", dpi=150)
        about = f"{self._sweep.content['description']}\n\n" if "description" in self._sweep.content else ""
        text = f"# {self._sweep.name}\n\n{about}{markdown_table(rows)}\nBest: `{command}`\n\nTo W&B: `{sync}`\n"
        (self._directory / "summary.md").write_text(text)
        Console().print(rich_table(rows, f"{self._sweep.name}, {len(settings)} of {self._num_runs} runs"))
        print(f"best: {command}\nto W&B: {sync}\ntable and figure: {self._directory}/summary.md, sensitivity.png")


def _keep_identity(sweep: Sweep, directory: Path) -> None:
    """Store what is run, or see that it is what was run here before; a sweep of which no run has begun is forgotten."""
    path, now = directory / "sweep.yaml", identity(sweep)
    if path.is_file():
        try:
            check_same(path, read_yaml(path), now, "the sweep that was begun here", advice="give another --output_dir")
        except TabomError:
            locks = list(directory.glob("*/lock"))
            if any(directory.glob(f"*/{DIRECTORY}/*.jsonl")) or any(map(is_locked, locks)):
                raise
            for lock in locks:
                for file in (lock, lock.with_name("output.log")):
                    file.unlink(missing_ok=True)
                remove_empty([lock.parent])
            for file in (path, *directory.glob("search.journal*")):
                file.unlink()
        else:
            return
    with whole_file(path) as file:
        file.write(yaml.safe_dump(now, sort_keys=False).encode())
