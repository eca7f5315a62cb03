"""Runs a sweep on this machine: several processes at once, resumable, with a summary at the end."""

import os
import secrets
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import FrameType

import yaml
from optuna.trial import FrozenTrial
from rich.console import Console

from tabom.errors import TabomError, require
from tabom.reporting.comparison import markdown_table, rich_table
from tabom.reporting.progress import Display
from tabom.reporting.sensitivity import Setting, plot_sensitivity, sensitivity_rows, short_names, show_value
from tabom.signals import EXIT_CODE, handled_by
from tabom.storage.claims import remove_empty
from tabom.storage.files import whole_file
from tabom.storage.run_record import DIRECTORY
from tabom.storage.settings import check_same
from tabom.sweeping.file import Sweep, identity, read_yaml
from tabom.sweeping.run import Run, RunningProcess, is_locked
from tabom.sweeping.search import Search

_POLL_SECONDS = 0.2


class Runner:
    """Tries settings until the sweep is complete, and can be stopped and started again at any moment.

    Args:
        sweep: What is run.
        output_dir: Held by this process; gets ``sweep.yaml``, the search's journal, a directory a run, and the summary.
        num_jobs: Runs at once.

    Raises:
        TabomError: If another sweep lies in the directory.
    """

    def __init__(self, sweep: Sweep, output_dir: Path, num_jobs: int) -> None:
        require(num_jobs >= 1, f"jobs: expected at least 1, got {num_jobs}")
        _keep_identity(sweep, output_dir)
        self._sweep = sweep
        self._directory = output_dir
        self._num_jobs = num_jobs
        self._search = Search(sweep, output_dir / "search.journal")
        self._seeds: tuple[int | None, ...] = sweep.seeds or (None,)
        num_settings = len(sweep.grid()) if sweep.method == "grid" else -(-sweep.content["run_cap"] // len(self._seeds))
        self._num_settings, self._num_runs = num_settings, num_settings * len(self._seeds)
        self._names = short_names(list(sweep.axes))
        self._choose = max if sweep.goal == "maximize" else min
        self._active: list[RunningProcess] = []
        self._tried: set[tuple[int, int | None]] = set()
        self._failed: set[str] = set()
        self._is_stopping = False

    def run(self) -> None:
        """Make the runs that are missing, then write the summary.

        Raises:
            TabomError: If runs failed; the same command tries them again.
        """
        self._take_up()
        with handled_by(self._note_signal), Display() as self._display:
            task = self._display.add(self._sweep.name, self._num_runs, "runs", completed=self._num_done)
            while True:
                self._collect()
                if self._is_stopping:
                    for process in self._active:
                        process.stop()
                else:
                    self._stop_hopeless()
                    while len(self._active) < self._num_jobs and (following := next(self._following(), None)):
                        self._start(*following)
                self._display.update(task, self._num_done, self._numbers())
                if not self._active:
                    break
                time.sleep(_POLL_SECONDS)
        if any(self._runs("finished")):
            self._summarise()
        if self._is_stopping:
            print("tabom sweep: stopped; the same command goes on", file=sys.stderr)
            sys.exit(EXIT_CODE)
        if self._failed:
            names = ", ".join(sorted(self._failed))
            raise TabomError(f"{len(self._failed)} runs failed ({names}); the same command tries them again")

    @property
    def _num_done(self) -> int:
        return len(self._runs("finished", "pruned"))

    def _runs(self, *states: str, setting: int | None = None) -> list[Run]:
        runs = self._search.runs.values()
        return [run for run in runs if run.state in states and setting in (None, run.setting)]

    def _take_up(self) -> None:
        """Find what an earlier command left: processes that outlived it, and settings of which it told nothing."""
        for run in self._runs("running"):
            process = RunningProcess(run, self._directory / run.run_id)
            if process.is_running():
                self._active.append(process)
                self._tried.add((run.setting, run.seed))
            else:
                self._search.note(process.outcome(self._sweep.metric))
        for trial in self._search.open():
            self._tell(trial.number)

    def _following(self) -> Iterator[tuple[FrozenTrial, int | None]]:
        """What is to be run: the seeds of each setting that have no end and were not tried by this command."""
        while True:
            for trial in self._search.open():
                is_pruned = any(self._runs("pruned", setting=trial.number))
                done = {run.seed for run in self._runs("finished", setting=trial.number)}
                for seed in () if is_pruned else self._seeds:
                    if seed not in done and (trial.number, seed) not in self._tried:
                        yield trial, seed
            if self._search.num_suggested() >= self._num_settings:
                return
            self._search.suggest()

    def _start(self, trial: FrozenTrial, seed: int | None) -> None:
        """Go on with a run that was stopped and has a checkpoint, or begin a new one."""
        self._tried.add((trial.number, seed))
        stopped = [
            run.run_id
            for run in self._runs("stopped", setting=trial.number)
            if run.seed == seed and (self._directory / run.run_id / "checkpoints/last.ckpt").exists()
        ]
        wandb_id = secrets.token_hex(4)
        run = Run(stopped[-1] if stopped else wandb_id, wandb_id, trial.number, dict(trial.params), seed)
        process = RunningProcess(run, self._directory / run.run_id)
        process.directory.mkdir(exist_ok=True)
        self._search.note(run)  # before the process is there: it must not be lost if this one is killed meanwhile
        process.begin(self._words(run, is_resumed=bool(stopped)), max(1, (os.cpu_count() or 1) // self._num_jobs))
        self._search.note(process.run)
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
            self._search.note(run)
            if run.reason:
                self._failed.add(run.run_id)
                self._display.line(f"{run.run_id} ({self._name(run)}): {run.reason}; {process.directory}/output.log")
            self._tell(run.setting)

    def _tell(self, setting: int) -> None:
        """Say to the search what a setting reached, once all its seeds have ended."""
        if any(self._runs("pruned", setting=setting)):
            if not any(process.run.setting == setting for process in self._active):
                self._search.tell(setting, None)
            return
        metrics = {run.seed: run.metric for run in self._runs("finished", setting=setting) if run.metric is not None}
        if metrics.keys() == set(self._seeds):
            self._search.tell(setting, statistics.mean(metrics.values()))

    def _stop_hopeless(self) -> None:
        """Early stopping, by the checks of a setting's first seed; the other seeds end with it."""
        for process in self._active:
            if self._is_hopeless(process):
                self._tried |= {(process.run.setting, seed) for seed in self._seeds}
                for other in self._active:
                    if other.run.setting == process.run.setting:
                        other.is_ended_early = True
                        other.stop()

    def _is_hopeless(self, process: RunningProcess) -> bool:
        """Report the checks that are new, of a run that has ended as well: others are compared with it."""
        if not self._sweep.early_terminate or process.run.seed != self._seeds[0]:
            return False
        values = process.values(self._sweep.metric)
        new = range(process.num_reported, len(values))
        process.num_reported = len(values)
        return any([self._search.is_hopeless(process.run.setting, check + 1, values[check]) for check in new])  # noqa: C419

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        del frame
        if not self._is_stopping:
            self._is_stopping = True
            name = signal.Signals(number).name
            print(f"tabom sweep: {name}, the runs in progress are being stopped", file=sys.stderr)

    def _numbers(self) -> dict[str, str]:
        metrics = [run.metric for run in self._runs("finished") if run.metric is not None]
        numbers = {"failed": str(len(self._failed))} if self._failed else {}
        return numbers | ({f"best {self._sweep.metric}": f"{self._choose(metrics):.4g}"} if metrics else {})

    def _summarise(self) -> None:
        """Best setting, table, and figure, as far as the sweep has come."""
        settings = [
            Setting({k: "null" if v is None else v for k, v in run.values.items()}, run.seed or 0, run.metric)
            for run in self._runs("finished")
            if run.metric is not None
        ]
        rows = sensitivity_rows(settings, self._sweep.metric, digits=4, goal=self._sweep.goal)
        best = self._choose(
            settings, key=lambda one: statistics.mean(other.metric for other in settings if other.values == one.values)
        )
        command = " ".join(["tabom", *self._sweep.words(best.values, None)])
        sync = f"wandb sync {self._directory}/*/wandb/offline-run-*"
        if self._sweep.axes:
            figure = plot_sensitivity(settings, self._sweep.name, self._sweep.metric, digits=3)
            for ending in ("png", "svg"):
                figure.savefig(self._directory / f"sensitivity.{ending}", dpi=150)
        text = f"# {self._sweep.name}\n\n{markdown_table(rows)}\nBest: `{command}`\n\nTo W&B: `{sync}`\n"
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
