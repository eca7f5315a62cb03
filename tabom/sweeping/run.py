"""One run of a sweep: a process, its directory, and what became of it."""

import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabom.jobs.job import PROGRAM, Job
from tabom.jobs.template import Template
from tabom.storage.run_record import DIRECTORY, RunRecord, read_record


class Run(Job):
    """One setting with one seed: one command, or several that each wait for the one before to finish.

    What became of it is read from the records of its commands, so that what has finished is not run again.

    Args:
        directory: Of the run, and of its first command; the others have directories in it.
        setting: Number of the setting that it tries.
        values: Of the setting.
        seed: None leaves it to the configuration.
        metric: Stage and name of what is optimised.
        num_commands: How many there are.
    """

    def __init__(
        self,
        directory: Path,
        setting: int,
        values: dict[str, Any],
        seed: int | None,
        metric: str,
        num_commands: int = 1,
    ) -> None:
        super().__init__(directory / "lock", directory / "output.log")
        self.directory = directory
        self.setting = setting
        self.values = values
        self.seed = seed
        self.num_reported = 0
        self._stage, _, self._name = metric.partition("/")
        self._directories = [directory, *(directory / f"then-{number}" for number in range(1, num_commands))]
        self._wandb_id = ""
        self.is_tried = self.is_running()
        if self.is_tried:  # its record may have ended already: the last directory there is is its own
            self._number = max(number for number, path in enumerate(self._directories) if path.is_dir())
        else:
            finished = [any(one.state == "finished" for one in _records(path)) for path in self._directories]
            self._number = min([*(i for i, is_done in enumerate(finished) if not is_done), num_commands - 1])
        self.metric: float | None = None  # at its end
        if not self.is_tried:
            self.finish()

    def start(self, commands: Sequence[Sequence[str]], num_threads: int, template: Template | None = None) -> None:
        """Start the next command; one that was stopped and has a checkpoint goes on from it.

        Args:
            commands: All of them; words after ``tabom``.
            num_threads: Of its tensor operations, unless ``OMP_NUM_THREADS`` says otherwise.
            template: Starts it without its imports.
        """
        self.is_tried = True
        directory = self._directories[self._number]
        directory.mkdir(exist_ok=True)
        self._wandb_id = secrets.token_hex(4)  # another one each time: W&B takes no run twice
        environment = {"OMP_NUM_THREADS": str(num_threads)} | os.environ
        environment.pop("WANDB_SWEEP_ID", None)
        mode = "disabled" if os.environ.get("WANDB_MODE") == "disabled" else "offline"
        environment |= {"WANDB_MODE": mode, "WANDB_RUN_ID": self._wandb_id}
        goes_on = ["--ckpt_path=last"] if (directory / "checkpoints/last.ckpt").exists() else []
        words = [*commands[self._number], f"--run_dir={directory}", *goes_on]
        self.begin([*PROGRAM, *words], environment, template)

    def checks(self) -> list[float]:
        """The metric at all checks so far, also at those before it was stopped; of a benchmark, at its ends."""
        records = [record for directory in self._directories for record in _records(directory)]
        if self._stage == "benchmark":
            results = [result for record in records for result in record.benchmarks]
            numbers = [{f"{one.benchmark}/{name}": number for name, number in one.numbers.items()} for one in results]
            return [each[self._name] for each in numbers if self._name in each]
        checks = [check for record in records for check in record.checks if check.stage == self._stage]
        return list({check.step: check.values[self._name] for check in checks if self._name in check.values}.values())

    def finish(self) -> str:
        """Read what became of the command, once it has ended; returns why it failed, if it did."""
        records = _records(self._directories[self._number])
        record = next((one for one in reversed(records) if self._wandb_id in ("", one.run_id)), None)
        if record is None:
            return (self.last_lines(1) or ["no output"])[0] if self.is_begun and not self.is_asked_to_stop else ""
        if record.state == "finished" and self._number + 1 < len(self._directories):
            self._number += 1
            self.is_tried = False
            return ""
        if record.state == "finished":
            values = self.checks()
            self.metric = values[-1] if values else None
            return "" if values else f"expected the metric {self._stage}/{self._name} in {record.path}, found none"
        if record.state == "failed":
            return record.reason
        return "" if self.is_asked_to_stop else "its process was killed"


def _records(directory: Path) -> list[RunRecord]:
    """By time; one whose first line is not whole yet is left out."""
    paths = sorted((directory / DIRECTORY).glob("*.jsonl"))
    return [read_record(path) for path in paths if b"\n" in path.read_bytes()]
