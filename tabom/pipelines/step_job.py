"""One step of a pipeline as a process, and the note of its state that lies beside its log."""

import dataclasses
import secrets
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from tabom.jobs.job import PROGRAM, Job
from tabom.jobs.template import Template
from tabom.pipelines.file import Pipeline, Step
from tabom.signals import EXIT_CODE
from tabom.storage.files import file_sha256
from tabom.storage.run_record import DIRECTORY, RunRecord, read_record
from tabom.storage.sealed import read_sealed, write_sealed
from tabom.storage.typed import typed
from tabom.storage.yaml_files import read_yaml

PAGES = ("report", "view")
"""Verbs that write pages over older ones, so that they are simply run anew when something has changed."""
_RESUMING = ("predict", "evaluate", "sweep")
"""Verbs that go on by themselves with what an earlier start has left."""
_KILLED = 128
"""From this exit code on a signal ended the command."""


@dataclass(frozen=True)
class Note:
    """What a step was run with, and how that ended.

    Attributes:
        command: Words after ``tabom``.
        configs: SHA-256 of each configuration file, and of those that it names.
        needs: Token of each step that was needed.
        state: ``begun`` also where the process was killed or stopped.
        token: Of this run of the step; another one when it has run anew.
        seconds: That it took, of the last start.
    """

    command: list[str]
    configs: dict[str, str]
    needs: dict[str, str]
    state: Literal["begun", "finished", "failed"] = "begun"
    token: str = ""
    seconds: float = 0.0

    @property
    def settings(self) -> dict[str, object]:
        """What must be the same for the step to count as done."""
        return {"command": self.command, "configs": self.configs, "needs": self.needs}


class StepJob(Job):
    """A step: its process, its log, its exit code and the note of its state.

    Args:
        pipeline: That it belongs to.
        step: What is run.
    """

    def __init__(self, pipeline: Pipeline, step: Step) -> None:
        directory = pipeline.output_dir / "steps"
        directory.mkdir(parents=True, exist_ok=True)
        self._exit_path = directory / f"{step.slug}.exit"
        super().__init__(directory / f"{step.slug}.lock", directory / f"{step.slug}.log", self._exit_path)
        self.step = step
        self.path = directory / f"{step.slug}.json"
        self.note = self._read()
        self.slot = 0
        self._pipeline = pipeline
        self._since = self.path.stat().st_mtime if self.note is not None else 0.0
        self._size_before = 0

    def planned(self, tokens: Mapping[str, str]) -> Note:
        """The note of a run that begins now.

        Args:
            tokens: Of the steps that have finished; the others that it needs were left out.
        """
        command = self._pipeline.command(self.step, [name for name in self.step.needs if name not in tokens])
        needs = {name: tokens[name] for name in self.step.needs if name in tokens}
        configs = {str(path): file_sha256(path) for path in _files(map(Path, self.step.configs))}
        return Note(command, configs, needs)

    def start(
        self, now: Note, environment: Mapping[str, str], others: Iterable[Path], template: Template | None = None
    ) -> None:
        """Start the process: where an earlier start was stopped or failed, it goes on as far as its verb can.

        Args:
            now: Of this run.
            environment: Variables of the process.
            others: What other steps write, which stays where it is.
            template: Starts it without its imports.
        """
        before, directory = self.note, self._run_dir
        is_same = before is not None and before.settings == now.settings
        goes_on = before is not None and before.state != "finished" and (is_same or before.state == "failed")
        if before is not None and self.step.verb not in PAGES:
            is_left = goes_on and (before.state == "failed" or self.step.verb in _RESUMING)
            kept = {directory} if goes_on and self.step.verb == "fit" else set()
            self._set_aside(set() if is_left else outputs(self.step) - kept, others)
        checkpoints = (directory or Path()) / "checkpoints"
        has_checkpoint = any((checkpoints / name).exists() for name in ("last.ckpt", "last-before.ckpt"))
        resumes = goes_on and self.step.verb == "fit" and directory is not None and has_checkpoint
        words = self._pipeline.command(self.step, [n for n in self.step.needs if n not in now.needs], _best)
        words += ["--ckpt_path=last"] if resumes and "ckpt_path" not in self.step.options else []
        self._exit_path.unlink(missing_ok=True)  # before the note says that it has begun
        self._write(now)
        self._size_before = self.log.stat().st_size if self.log.exists() else 0
        self.begin([*PROGRAM, *words], environment, template)

    def conclude(self) -> str:
        """Note how it has ended; returns what went wrong, empty if it finished or was asked to stop."""
        assert self.note is not None
        code = self.exit_code()
        if code == 0:
            seconds = round(self._exit_path.stat().st_mtime - self._since, 1)
            self._write(replace(self.note, state="finished", token=secrets.token_hex(20), seconds=seconds))
        elif code is not None and code < _KILLED and code != EXIT_CODE and not self.is_asked_to_stop:
            self._write(replace(self.note, state="failed"))
        if code in (0, EXIT_CODE) or self.is_asked_to_stop:
            return ""
        if code is None or code >= _KILLED:
            return "its process was killed" + ("" if code is None else f" by signal {code - _KILLED}")
        return f"exit code {code}"

    @property
    def elapsed(self) -> float:
        """Seconds since it was started."""
        return time.time() - self._since

    def printed(self) -> str:
        """What it has printed since this start."""
        with self.log.open("rb") as file:
            file.seek(self._size_before)
            return file.read().decode(errors="replace")

    def measured(self, name: str) -> float | None:
        """The last value of a metric, with or without its stage, in the records of the step's own runs."""
        stage, _, metric = name.rpartition("/")
        for record in reversed(self._records()):
            for check in reversed(record.checks):
                if metric in check.values and stage in ("", check.stage):
                    return check.values[metric]
        return None

    @property
    def _run_dir(self) -> Path | None:
        value = self.step.setting("run_dir")
        return None if value is None else Path(value)

    def _records(self) -> list[RunRecord]:
        if self._run_dir is None:
            return []
        paths = sorted((self._run_dir / DIRECTORY).glob(f"{self.step.verb}-*.jsonl"))
        return [read_record(path) for path in paths if b"\n" in path.read_bytes()]

    def _set_aside(self, written: set[Path], others: Iterable[Path]) -> None:
        """Move what an earlier start wrote to where it is in nobody's way."""
        foreign = [path.resolve() for path in (*others, self._pipeline.output_dir)]
        for path in sorted(written):
            if path.exists() and not any(other.is_relative_to(path.resolve()) for other in foreign):
                place = self._pipeline.output_dir / "replaced" / f"{self.step.slug}-{secrets.token_hex(4)}"
                place.mkdir(parents=True)
                shutil.move(path, place / path.name)

    def _read(self) -> Note | None:
        if not self.path.is_file():
            return None
        return typed(Note, read_sealed(self.path, "the state of a step"), str(self.path))

    def _write(self, note: Note) -> None:
        self.note = note
        write_sealed(self.path, dataclasses.asdict(note))
        self._since = time.time() if note.state == "begun" else self._since


def outputs(step: Step) -> set[Path]:
    """Directories that a step writes, as far as its options and configuration name them."""
    settings = step.settings()
    names = [name for name in settings if name.rpartition(".")[2] in ("run_dir", "output_dir")]
    return {Path(settings[name]) for name in names if isinstance(settings[name], str)}


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    """Configuration files, and those that they name as the values of their keys."""
    for path in paths:
        yield path
        yield from _files(other for other in _named(read_yaml(path), path.parent))


def _named(content: Any, directory: Path) -> Iterator[Path]:
    if isinstance(content, dict | list):
        for value in content.values() if isinstance(content, dict) else content:
            yield from _named(value, directory)
    elif isinstance(content, str) and content.endswith((".yaml", ".yml")) and (directory / content).is_file():
        yield directory / content


def _best(step: Step) -> str:
    from tabom.modules.checkpoints import best_checkpoint

    return str(best_checkpoint(Path(step.setting("run_dir")) / "checkpoints/last.ckpt"))
