"""Runs a sweep on this machine: several processes at once, resumable, with a summary at the end."""

import os
import secrets
import signal
import statistics
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from tabom.errors import TabomError, require
from tabom.reporting.comparison import markdown_table, rich_table
from tabom.reporting.progress import Display
from tabom.reporting.sensitivity import Setting, plot_sensitivity, sensitivity_rows, short_names, show_value
from tabom.signals import EXIT_CODE, handled_by
from tabom.sweeping.file import Sweep, identity
from tabom.sweeping.run import Run, RunLog, RunningProcess
from tabom.sweeping.search import Search, Suggestion

_POLL_SECONDS = 0.2
_MAX_ROWS = 30


class Runner:
    """Tries settings until the sweep is complete, and can be stopped and started again at any moment.

    Args:
        sweep: What is run.
        output_dir: Holds ``sweep.yaml``, the search's journal, ``runs.jsonl``, a directory a run, and the summary.
        num_jobs: Runs at once.

    Raises:
        TabomError: If another sweep lies in the directory.
    """

    def __init__(self, sweep: Sweep, output_dir: Path, num_jobs: int) -> None:
        require(num_jobs >= 1, f"jobs: expected at least 1, got {num_jobs}")
        _keep_identity(sweep, output_dir / "sweep.yaml")
        self._sweep = sweep
        self._directory = output_dir
        self._num_jobs = num_jobs
        self._log = RunLog(output_dir / "runs.jsonl")
        self._search = Search(sweep, output_dir / "search.journal")
        self._seeds: tuple[int | None, ...] = sweep.seeds or (None,)
        self._names = short_names(list(sweep.axes))
        self._active: list[RunningProcess] = []
        self._waiting: deque[tuple[Suggestion, int | None]] = deque()
        self._failed_now: set[str] = set()
        self._is_stopping = False

    def run(self) -> None:
        """Make the runs that are missing, then write the summary.

        Raises:
            TabomError: If runs failed; the same command tries them again.
        """
        self._take_up()
        with handled_by(self._note_signal), Display(self._table) as self._display:
            done = [run for run in self._log.runs.values() if run.state in ("finished", "pruned")]
            task = self._display.add(self._sweep.name, self._num_runs, "runs", completed=len(done))
            while True:
                self._collect()
                if self._is_stopping:
                    for process in self._active:
                        process.stop()
                else:
                    self._stop_hopeless()
                    while len(self._active) < self._num_jobs and (following := self._following()):
                        self._start(*following)
                self._display.update(task, self._num_done, self._numbers())
                if not self._active:
                    break
                time.sleep(_POLL_SECONDS)
        finished = [run for run in self._log.runs.values() if run.state == "finished"]
        if finished:
            self._summarise(finished)
        if self._is_stopping:
            print("tabom sweep: stopped; the same command goes on", file=sys.stderr)
            sys.exit(EXIT_CODE)
        if self._failed_now:
            names = ", ".join(sorted(self._failed_now))
            raise TabomError(f"{len(self._failed_now)} runs failed ({names}); the same command tries them again")

    @property
    def _num_settings(self) -> int:
        if self._sweep.method == "grid":
            return len(self._sweep.grid())
        return -(-self._sweep.content["run_cap"] // len(self._seeds))

    @property
    def _num_runs(self) -> int:
        return self._num_settings * len(self._seeds)

    @property
    def _num_done(self) -> int:
        return sum(run.state in ("finished", "pruned") for run in self._log.runs.values())

    def _take_up(self) -> None:
        """Find what an earlier command left: its settings without an end, and processes that outlived it."""
        for run in [run for run in self._log.runs.values() if run.state == "running"]:
            process = RunningProcess(run, self._directory / run.run_id)
            if process.is_running():
                self._active.append(process)
            else:
                self._log.note(process.outcome(self._sweep.metric))
        for suggestion in self._search.open():
            self._enqueue(suggestion)

    def _enqueue(self, suggestion: Suggestion) -> None:
        """Let the seeds of a setting run that neither are finished nor running."""
        runs = [run for run in self._log.runs.values() if run.setting == suggestion.number]
        taken = {run.seed for run in runs if run.state in ("finished", "running")}
        is_pruned = any(run.state == "pruned" for run in runs)
        missing = [seed for seed in self._seeds if seed not in taken and not is_pruned]
        self._waiting.extend((suggestion, seed) for seed in missing)
        if not missing:
            self._tell(suggestion.number)

    def _following(self) -> tuple[Suggestion, int | None] | None:
        """What is to be run next; None if nothing is left."""
        while not self._waiting and self._search.num_suggested() < self._num_settings:
            self._enqueue(self._search.suggest())
        return self._waiting.popleft() if self._waiting else None

    def _start(self, suggestion: Suggestion, seed: int | None) -> None:
        """Go on with a run that was stopped and has a checkpoint, or begin a new one."""
        stopped = [
            run
            for run in self._log.runs.values()
            if (run.setting, run.seed, run.state) == (suggestion.number, seed, "stopped")
            and (self._directory / run.run_id / "checkpoints/last.ckpt").exists()
        ]
        wandb_id = secrets.token_hex(4)
        run_id = stopped[-1].run_id if stopped else wandb_id
        run = Run(run_id, wandb_id, suggestion.number, suggestion.values, seed, "running", 0)
        process = RunningProcess(run, self._directory / run_id)
        process.directory.mkdir(exist_ok=True)
        self._log.note(run)  # before the process is there: it must not be lost if this one is killed meanwhile
        process.begin(self._words(run, is_resumed=bool(stopped)), max(1, (os.cpu_count() or 1) // self._num_jobs))
        self._log.note(process.run)
        self._active.append(process)

    def _words(self, run: Run, *, is_resumed: bool) -> list[str]:
        logger = {"offline": "true", "group": self._sweep.name, "name": self._name(run)}
        return [
            *self._sweep.words(run.values, run.seed),
            *(f"--trainer.logger.{key}={value}" for key, value in logger.items()),
            f"--run_dir={self._directory / run.run_id}",
            *(["--ckpt_path=last"] if is_resumed else []),
        ]

    def _name(self, run: Run) -> str:
        parts = [f"{self._names[key]}={show_value(value)}" for key, value in run.values.items()]
        return " ".join([*parts, *([] if run.seed is None else [f"seed={run.seed}"])]) or self._sweep.name

    def _collect(self) -> None:
        """Note what became of the runs that have ended."""
        for process in [process for process in self._active if not process.is_running()]:
            self._active.remove(process)
            self._is_hopeless(process)
            run = process.outcome(self._sweep.metric)
            if run.state == "stopped" and not self._is_stopping:
                run = replace(run, reason="its process was killed")
                self._failed_now.add(run.run_id)
            if run.state == "failed":
                self._failed_now.add(run.run_id)
            self._log.note(run)
            if run.run_id in self._failed_now:
                self._display.line(f"{run.run_id} ({self._name(run)}): {run.reason}; {process.directory}/output.log")
            self._tell(run.setting)

    def _tell(self, setting: int) -> None:
        """Say to the search what a setting reached, once all its seeds have ended."""
        runs = [run for run in self._log.runs.values() if run.setting == setting]
        if any(run.state == "pruned" for run in runs):
            if not any(process.run.setting == setting for process in self._active):
                self._search.tell(setting, None)
            return
        metrics = {run.seed: run.metric for run in runs if run.state == "finished" and run.metric is not None}
        if metrics.keys() == set(self._seeds):
            self._search.tell(setting, statistics.mean(metrics.values()))

    def _stop_hopeless(self) -> None:
        """Early stopping, by the checks of a setting's first seed; the other seeds end with it."""
        for process in list(self._active):
            if self._is_hopeless(process):
                self._end_early(process.run.setting)

    def _is_hopeless(self, process: RunningProcess) -> bool:
        """Report the checks that are new, of a run that has ended as well: others are compared with it."""
        if not self._sweep.early_terminate or process.run.seed != self._seeds[0]:
            return False
        values = process.values(self._sweep.metric)
        new = range(process.num_reported, len(values))
        process.num_reported = len(values)
        return any([self._search.is_hopeless(process.run.setting, check + 1, values[check]) for check in new])  # noqa: C419

    def _end_early(self, setting: int) -> None:
        self._waiting = deque(item for item in self._waiting if item[0].number != setting)
        for process in self._active:
            if process.run.setting == setting:
                process.is_ended_early = True
                process.stop()

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self._is_stopping:
            self._is_stopping = True
            print(
                f"tabom sweep: {signal.Signals(number).name}, the runs in progress are being stopped", file=sys.stderr
            )
            for process in self._active:
                process.stop()

    def _numbers(self) -> Mapping[str, str]:
        metrics = [run.metric for run in self._log.runs.values() if run.metric is not None]
        best = max if self._sweep.goal == "maximize" else min
        numbers = {"failed": str(len(self._failed_now))} if self._failed_now else {}
        return {**numbers, **({f"best {self._sweep.metric}": f"{best(metrics):.4g}"} if metrics else {})}

    def _table(self) -> Table:
        """The newest runs, those in progress with their last step."""
        table = Table(box=None)
        for title in ("run", "state", *self._names.values(), "seed", "step", self._sweep.metric, "seconds"):
            table.add_column(title, justify="left" if title in ("run", "state") else "right")
        processes = {process.run.run_id: process for process in list(self._active)}
        for run in list(self._log.runs.values())[-_MAX_ROWS:]:
            metric, seconds, step = run.metric, run.seconds, ""
            if run.run_id in processes:
                process = processes[run.run_id]
                seconds = round(time.monotonic() - process.start, 1)
                record = process.record()
                if record is not None and record.checks:
                    step = str(record.checks[-1].step)
                    metric = next(reversed(process.values(self._sweep.metric)), None)
            values = [show_value(run.values[key]) for key in self._names]
            shown = ["" if value is None else f"{value:.4g}" for value in (metric, seconds)]
            table.add_row(run.run_id, run.state, *values, "" if run.seed is None else str(run.seed), step, *shown)
        return table

    def _summarise(self, finished: list[Run]) -> None:
        """Best setting, table, and figure, as far as the sweep has come."""
        settings = [
            Setting(
                {key: "null" if value is None else value for key, value in run.values.items()}, run.seed or 0, metric
            )
            for run in finished
            if (metric := run.metric) is not None
        ]
        rows = sensitivity_rows(settings, self._sweep.metric, digits=4, goal=self._sweep.goal)
        best = self._best(finished)
        command = " ".join(["tabom", *self._sweep.words(best, None)])
        sync = f"wandb sync {self._directory}/*/wandb/offline-run-*"
        if self._sweep.axes:
            figure = plot_sensitivity(settings, self._sweep.name, self._sweep.metric, digits=3)
            for ending in ("png", "svg"):
                figure.savefig(self._directory / f"sensitivity.{ending}", dpi=150)
        text = f"# {self._sweep.name}\n\n{markdown_table(rows)}\nBest: `{command}`\n\nTo W&B: `{sync}`\n"
        (self._directory / "summary.md").write_text(text)
        Console().print(rich_table(rows, f"{self._sweep.name}, {len(finished)} of {self._num_runs} runs"))
        print(f"best: {command}\nto W&B: {sync}\ntable and figure: {self._directory}/summary.md, sensitivity.png")

    def _best(self, finished: list[Run]) -> dict[str, Any]:
        """Values of the setting whose mean over the seeds is the best."""
        metrics: dict[int, list[float]] = {}
        for run in finished:
            if run.metric is not None:
                metrics.setdefault(run.setting, []).append(run.metric)
        best = max if self._sweep.goal == "maximize" else min
        number = best(metrics, key=lambda setting: statistics.mean(metrics[setting]))
        return next(run.values for run in finished if run.setting == number)


def _keep_identity(sweep: Sweep, path: Path) -> None:
    """Store what is run, or see that it is what was run here before."""
    now = identity(sweep)
    if not path.is_file():
        path.write_text(yaml.safe_dump(now, sort_keys=False))
        return
    before = yaml.safe_load(path.read_text())
    for key in {**before, **now}:
        if before.get(key) != now.get(key):
            raise TabomError(
                f"{path}: expected the sweep that was begun here, {key} {before.get(key)}, got {now.get(key)}; "
                "give another --output_dir"
            )
