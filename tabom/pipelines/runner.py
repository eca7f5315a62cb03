"""Runs a pipeline: what is missing, side by side; first what the longest chain of steps waits for."""

import functools
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from tabom.errors import TabomError
from tabom.jobs.side_by_side import SideBySide
from tabom.pipelines.file import Pipeline, Rule, Step
from tabom.pipelines.step_job import PAGES, StepJob, outputs
from tabom.reporting.progress import clock
from tabom.signals import EXIT_CODE
from tabom.storage.settings import check_same


class Runner(SideBySide[StepJob]):
    """Runs steps until none is left, and can be stopped and started again at any moment.

    Args:
        pipeline: What is run; its directory is held by this process.
        num_jobs: Steps at once.
        reruns_changed: Run steps anew that have finished with another command, other configuration files or other
            results of what they need; otherwise they are refused.
        devices: Of ``CUDA_VISIBLE_DEVICES``, shared out where several steps run at once.
        num_columns: Width of what steps print.

    Raises:
        TabomError: If a step has changed.
    """

    def __init__(
        self,
        pipeline: Pipeline,
        num_jobs: int,
        *,
        reruns_changed: bool = False,
        devices: Sequence[str] = (),
        num_columns: int = 120,
    ) -> None:
        super().__init__("pipeline", num_jobs)
        self._pipeline = pipeline
        self._reruns_changed = reruns_changed
        self._devices = devices if num_jobs > 1 else ()
        self._num_columns = num_columns
        self._jobs = {name: StepJob(pipeline, step) for name, step in pipeline.steps.items()}
        self._tokens: dict[str, str] = {}  # of what has finished
        self._left_out: set[str] = set()
        self._failed: dict[str, str] = {}
        self._stopped: set[str] = set()
        self._has_ended = False  # any step, under this command
        self._active = [job for job in self._jobs.values() if job.is_running()]
        for job in self._jobs.values():
            note = job.note
            if note is not None and note.state == "begun" and job not in self._active and job.exit_code() is not None:
                job.conclude()  # after the process that had started it was killed
        self._refuse_changed()

    def run(self) -> None:
        """Run what is missing.

        Raises:
            TabomError: If steps failed; the same command tries them again.
        """
        self._settle()
        num_all, num_done = len(self._jobs), len(self._tokens)
        directory = self._pipeline.output_dir / "steps"
        print(f"{self._pipeline.path}: {num_all} steps, {num_done} of them done; logs: {directory}/", flush=True)
        self._run_all()
        if self._is_stopping or (self._stopped and not self._failed):
            print("tabom pipeline: stopped; the same command goes on", file=sys.stderr)
            sys.exit(EXIT_CODE)
        if self._failed:
            names = ", ".join(self._failed)
            num_waiting = len(self._open())
            waiting = f", {num_waiting} others need them" if num_waiting else ""
            raise TabomError(f"{len(self._failed)} steps failed ({names}){waiting}; the same command tries them again")

    def _open(self) -> list[StepJob]:
        """Steps that are still to be run."""
        done = {*self._tokens, *self._left_out, *self._failed, *self._stopped}
        return [job for name, job in self._jobs.items() if name not in done and job not in self._active]

    def _begin_next(self) -> StepJob | None:
        self._settle()
        for job in self._by_urgency(self._open()):
            if self._is_ready(job.step):
                taken = {other.slot for other in self._active}
                job.slot = next(slot for slot in range(self._num_jobs) if slot not in taken)
                others = [path for other in self._jobs.values() if other is not job for path in outputs(other.step)]
                job.start(job.planned(self._tokens), self._environment(job.slot), others, self._template)
                if not self._has_ended:  # afterwards the results show that it goes on
                    print(f"{self._title(job.step)} ...", flush=True)
                return job
        return None

    def _by_urgency(self, jobs: Sequence[StepJob]) -> list[StepJob]:
        """In the order of the file; side by side first those after which most steps have to follow one another."""
        steps = self._pipeline.steps.values()

        @functools.cache
        def num_following(name: str) -> int:
            return max((1 + num_following(other.name) for other in steps if name in other.needs), default=0)

        return sorted(jobs, key=lambda job: -num_following(job.step.name) if self._num_jobs > 1 else 0)

    def _environment(self, slot: int) -> dict[str, str]:
        known = {name: value for name, value in os.environ.items() if name not in ("WANDB_SWEEP_ID", "WANDB_RUN_ID")}
        environment = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "COLUMNS": str(self._num_columns)} | known
        if self._devices:
            environment["CUDA_VISIBLE_DEVICES"] = self._devices[slot % len(self._devices)]
        return environment

    def _note_end(self, job: StepJob) -> None:
        name, reason = job.step.name, job.conclude()
        assert job.note is not None
        self._has_ended = True
        if reason:
            self._failed[name] = reason
            lines = "".join(f"\n    {line}" for line in job.last_lines(5))
            print(f"{self._title(job.step)}: {reason}; {job.log}{lines}", flush=True)
        elif job.note.state != "finished":
            self._stopped.add(name)
            print(f"{self._title(job.step)}: stopped", flush=True)
        else:
            self._tokens[name] = job.note.token
            measured = {metric: job.measured(metric) for metric in self._pipeline.show}
            values = [f"{metric} {value:.3g}" for metric, value in measured.items() if value is not None]
            results, left = [clock(job.note.seconds), *values], self._time_left()
            print(f"{self._title(job.step)}: {', '.join(results)}{f'; about {left} left' if left else ''}", flush=True)
            if job.step.verb in PAGES:
                print(job.printed().rstrip(), flush=True)

    def _settle(self) -> None:
        """Find what needs not be run: what has finished before, and what a rule leaves out."""
        found = True
        while found:
            found = False
            for job in filter(lambda job: self._is_ready(job.step), self._open()):
                name, step = job.step.name, job.step
                fallen = next((rule for rule in step.rules if not self._rises(rule)), None)
                lacking = {need for need in step.needs if need in self._left_out} - step.may_lack
                if fallen is not None or lacking:
                    self._left_out.add(name)
                    reason = f"{fallen.metric} no longer rises" if fallen else f"it needs {', '.join(sorted(lacking))}"
                    print(f"{self._title(step)}: left out, since {reason}", flush=True)
                    found = True
                elif job.note is not None and job.note.state == "finished" and not self._is_changed(job):
                    self._tokens[name] = job.note.token
                    found = True

    def _is_ready(self, step: Step) -> bool:
        return all(name in self._tokens or name in self._left_out for name in step.needs)

    def _rises(self, rule: Rule) -> bool:
        """Whether what was measured last is above all that was measured before."""
        values: list[float] = []
        for name in rule.steps:
            if name in self._left_out:
                return False
            value = self._jobs[name].measured(rule.metric)
            if value is None:
                where = f"{self._pipeline.path}: while_rises.metric"
                raise TabomError(f"{where}: expected {rule.metric} in the records of {name}, found none")
            values.append(value)
        return values[-1] > max(values[:-1])

    def _refuse_changed(self) -> None:
        """See that what has finished, or was killed, is what the file now says."""
        for job in self._jobs.values():
            if job.note is not None and job.note.state != "failed":
                known = {name: other.note.token for name, other in self._jobs.items() if other.note is not None}
                self._is_changed(job, {name: known.get(name, "") for name in job.note.needs})

    def _is_changed(self, job: StepJob, tokens: Mapping[str, str] | None = None) -> bool:
        """Whether a step is to be run anew.

        Args:
            job: That has run.
            tokens: Of what it needs; None are those of what has finished.

        Raises:
            TabomError: If it has changed, and may not be run anew.
        """
        assert job.note is not None
        now, before = job.planned(self._tokens if tokens is None else tokens).settings, job.note.settings
        if now != before and not self._reruns_changed and job.step.verb not in PAGES:
            check_same(job.path, before, now, f"the step {job.step.name} that was run", "--rerun_changed runs it anew")
        return now != before

    def _title(self, step: Step) -> str:
        return f"[{list(self._jobs).index(step.name) + 1}/{len(self._jobs)}] {step.name}"

    def _time_left(self) -> str:
        """By how long steps of the same verbs took; empty where none is left or nothing is known."""
        notes = [(job.step.verb, job.note) for job in self._jobs.values() if job.note is not None]
        known = [(verb, note.seconds) for verb, note in notes if note.state == "finished"]
        left = [(job, 0.0) for job in self._open()] + [(job, job.elapsed) for job in self._active]
        total = 0.0
        for job, elapsed in left:
            of_verb = [seconds for verb, seconds in known if verb == job.step.verb]
            total += max(0.0, statistics.mean(of_verb or [seconds for _, seconds in known] or [0.0]) - elapsed)
        return clock(total / self._num_jobs) if left else ""


def devices() -> list[str]:
    """GPUs of this machine, as ``CUDA_VISIBLE_DEVICES`` names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name]
    return [str(index) for index, _ in enumerate(Path("/dev").glob("nvidia[0-9]*"))]
