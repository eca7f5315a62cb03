"""The record that a run keeps of itself: JSON Lines, written as it happens, read by sweeps and reports.

One file a run, ``<run directory>/records/<verb>-<time>-<run id>.jsonl``. Its lines, by ``kind``: ``start`` (what was
run, where and on what), ``parent`` (the run whose checkpoint was loaded), ``metrics``, ``curves``, ``samples``,
``benchmark``, and ``end``. Neither W&B nor any other library is needed for it.
"""

import dataclasses
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tabom.errors import require
from tabom.storage.log import read_lines
from tabom.storage.names import plain_name
from tabom.storage.settings import flat_config
from tabom.storage.typed import typed

DIRECTORY = "records"
State = Literal["running", "finished", "stopped", "failed"]


@dataclass(frozen=True)
class Check:
    """Scalars that were logged at once.

    Attributes:
        stage: ``train``, ``validate``, ``test`` or ``distill``.
        step: Optimizer steps done.
        seconds: Since the start.
        values: By name, without the stage.
    """

    stage: str
    step: int
    seconds: float
    values: dict[str, float]


@dataclass(frozen=True)
class Curves:
    """What one evaluation measured along curves.

    Attributes:
        stage: ``validate`` or ``test``.
        step: Optimizer steps done.
        mask_ratios: At which the cross-entropies were measured.
        curves: By the names in ``Validation.curves``; None where there is no point.
    """

    stage: str
    step: int
    mask_ratios: list[float]
    curves: dict[str, list[float | None]]


@dataclass(frozen=True)
class Discrimination:
    """Trajectory discrimination score (TDS) of some responses to a benchmark.

    Attributes:
        num_responses: How many.
        curves: By where a response ends (``so_far``, ``final``): mean over the responses by denoising step (nats
            squared); None where no response counts.
    """

    num_responses: int
    curves: dict[str, list[float | None]]

    @property
    def scores(self) -> dict[str, float]:
        """Mean of each curve that has a point."""
        points = {end: [value for value in curve if value is not None] for end, curve in self.curves.items()}
        return {end: statistics.fmean(values) for end, values in points.items() if values}


@dataclass(frozen=True)
class Sample:
    """One decoded answer.

    Attributes:
        prompt: What was asked.
        response: The answer.
        reference: A right one.
        is_correct: The verdict.
    """

    prompt: str
    response: str
    reference: str
    is_correct: bool


@dataclass(frozen=True)
class Samples:
    """A few answers of a test; every test of a task has the same prompts."""

    rows: list[Sample]


@dataclass(frozen=True)
class BenchmarkResult:
    """What a model reached on one benchmark.

    Attributes:
        benchmark: ``gsm8k``, ``math500``, ``humaneval``, ``mbpp``, ``ifeval``, or the name of another task.
        domain: ``maths``, ``code``, ``instructions``, or empty where it is none of the paper's.
        task: Name in lm-eval.
        metric: The one that is reported, as lm-eval names it with its filter: ``exact_match,flexible-extract``.
        model: What the model is called in tables.
        trained_on: Domain that it was post-trained on; None for a base model.
        scores: Value of ``metric`` of each question, by the hash of the question, in order.
        values: All metrics of lm-eval, with their standard errors (``exact_match_stderr,flexible-extract``).
        cost: ``num_steps`` (network calls a response) and ``num_tokens`` (a response, up to and with the first end of
            sequence), both means, of responses that were decoded; ``tokens_per_second``, of what this run decoded;
            ``num_decoded``, responses that this run decoded. What was not measured is left out.
        settings: What decides the decoding: sampler, response length, number of examples in the prompt.
        discrimination: Of the responses whose entropies were recorded, or None.
    """

    benchmark: str
    domain: str
    task: str
    metric: str
    model: str
    trained_on: str | None
    scores: dict[str, float]
    values: dict[str, float]
    cost: dict[str, float]
    settings: dict[str, Any]
    discrimination: Discrimination | None = None

    @property
    def score(self) -> float:
        """Of all questions: their mean."""
        return statistics.fmean(self.scores.values())

    @property
    def numbers(self) -> dict[str, float]:
        """All that was measured, by name."""
        scores = {} if self.discrimination is None else self.discrimination.scores
        discrimination = {f"tds_{end}": score for end, score in scores.items()}
        return {"score": self.score, **self.values, **self.cost, **discrimination}

    @property
    def standard_error(self) -> float | None:
        """Of the score, as lm-eval has it; None for a single question."""
        name, _, filtering = self.metric.partition(",")
        return self.values.get(f"{name}_stderr,{filtering}")


@dataclass(frozen=True, kw_only=True)
class _Start:
    """The first line."""

    verb: str
    run_id: str
    time: str
    command: list[str]
    config_files: list[str]
    config: dict[str, Any]
    environment: dict[str, Any]
    seed: int
    inputs: dict[str, dict[str, Any]]
    wandb: dict[str, Any] | None
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class RunRecord(_Start):
    """One run, as far as it came.

    Attributes:
        path: Of the file.
        verb: ``fit``, ``validate``, ``test``, ``predict`` or ``evaluate``.
        run_id: Unique; the one of W&B where W&B is on.
        time: Of the start, UTC, ISO 8601.
        command: Words after ``tabom``; empty for a run of a Python program.
        config_files: Those given by ``--config``.
        config: Resolved configuration; of a Python program as far as the objects tell.
        environment: Commit, versions and hardware.
        seed: ``seed_everything``.
        inputs: Fingerprints of what was read.
        wandb: Id, group, sweep and directory of the W&B run, or None.
        name: What a Python program calls the model; empty for a run of the command line.
        parent: Id of the run whose checkpoint was loaded, or None.
        state: ``running`` also for one that was killed.
        reason: Why it was stopped or failed.
        checks: In order.
        curves: In order.
        samples: Of a test.
        benchmarks: In order.
        seconds: Of the whole run; None without an end, as the two that follow.
        num_tokens: Positions of the canvases that were trained on.
        device_hours: Seconds times processes, in hours.
    """

    path: Path
    parent: str | None
    state: State
    reason: str
    checks: list[Check]
    curves: list[Curves]
    samples: list[Sample]
    benchmarks: list[BenchmarkResult]
    seconds: float | None
    num_tokens: int | None
    device_hours: float | None

    @property
    def directory(self) -> Path:
        """Of the run."""
        return self.path.parents[1]

    @property
    def base_model(self) -> str:
        """Path of the pretrained model that it has; empty where it has none."""
        return flat_config(self.config).get("model.backbone.path") or ""

    @property
    def data(self) -> str:
        """SHA-256 of the manifest of its trajectories; empty where it read none."""
        return self.inputs.get("trajectories", {}).get("manifest_sha256", "")

    @property
    def commit(self) -> str:
        """First digits of the commit."""
        return (self.environment["git_commit"] or "none")[:10]

    @property
    def machine(self) -> str:
        """GPUs, or processors where there are none."""
        return ", ".join(self.environment["gpus"]) or f"{self.environment['num_cpus']} x {self.environment['cpu']}"

    @property
    def known_seconds(self) -> float:
        """How long it ran; of a killed run until it last wrote."""
        if self.seconds is not None:
            return self.seconds
        return self.checks[-1].seconds if self.checks else 0.0

    @property
    def known_device_hours(self) -> float:
        """Device hours, of a killed run until it last wrote."""
        if self.device_hours is not None:
            return self.device_hours
        return self.known_seconds * self.environment["num_processes"] / 3600

    def last(self, stage: str) -> dict[str, float]:
        """Values of the last check of a stage; empty if there is none."""
        return next((check.values for check in reversed(self.checks) if check.stage == stage), {})


def read_record(path: Path) -> RunRecord:
    """Read one file; a last line that a killed run left unfinished is left out.

    Raises:
        TabomError: If a line is not what it should be.
    """
    lines = read_lines(path, "an object of a run's record")
    require(len(lines) > 0, f"{path}: expected the record of a run, got an empty file")
    start, *others = lines
    kind = start.pop("kind", None)
    require(kind == "start", f"{path}, line 1: expected kind start, got {kind}")
    found: dict[str, Any] = {"path": path, "parent": None} | dataclasses.asdict(_End())
    parts: dict[str, Any] = {"checks": [], "curves": [], "samples": [], "benchmarks": []}
    for number, content in enumerate(others, 2):
        kind, where = content.pop("kind", None), f"{path}, line {number}"
        require(isinstance(kind, str) and kind in _LINES, f"{where}: expected a known kind, got {kind}")
        line = typed(_LINES[kind], content, where, f"kind {kind}")
        match line:
            case _Parent():
                found["parent"] = line.run_id
            case _End():
                found |= vars(line)
            case Check():
                parts["checks"].append(line)
            case Curves():
                for name in (line.stage, *line.curves):
                    plain_name(name, f"{where}: curves")
                num = len(line.mask_ratios)
                wrong = [name for name, curve in line.curves.items() if name.startswith("ce_") and len(curve) != num]
                require(not wrong, f"{where}: curves.{''.join(wrong[:1])}: expected {num} points, one a mask ratio")
                parts["curves"].append(line)
            case Samples():
                parts["samples"] = line.rows
            case _:
                plain_name(line.benchmark, f"{where}: benchmark")
                require(len(line.scores) > 0, f"{where}: scores: expected at least one question, got none")
                parts["benchmarks"].append(line)
    first = vars(typed(_Start, start, f"{path}, line 1", "kind start"))
    plain_name(first["run_id"], f"{path}, line 1: run_id")
    options = {key.replace(".", "_"): value for key, value in flat_config(first["config"]).items()}
    _read_of(_Config, options, f"{path}, line 1: config")
    _read_of(_Inputs, first["inputs"].get("trajectories", {}), f"{path}, line 1: inputs.trajectories")
    first["environment"] = _read_of(_Environment, first["environment"], f"{path}, line 1: environment")
    return RunRecord(**first, **found, **parts)


def _read_of(kind: type[Any], content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Content, in which the fields of a data class are as they should be; what is not there is as by default."""
    known = {known.name for known in dataclasses.fields(kind)}
    own = typed(kind, {key: value for key, value in content.items() if key in known}, where)
    return dataclasses.asdict(own) | dict(content)


@dataclass(frozen=True)
class _Environment:
    """What is read of the environment; a record may leave it out."""

    git_commit: str | None = None
    is_git_dirty: bool | None = None
    versions: dict[str, str] = field(default_factory=dict)
    cpu: str = ""
    num_cpus: int | None = None
    gpus: list[str] = field(default_factory=list)
    num_processes: int = 1
    python: str = ""
    platform: str = ""
    num_threads: int | None = None
    memory_gib: float | None = None


@dataclass(frozen=True)
class _Config:
    """What is read of the configuration by its name."""

    ckpt_path: str | None = None
    model_backbone_path: str | None = None
    model_optimizer_lr: float | None = None
    model_interpolation: float | None = None


@dataclass(frozen=True)
class _Inputs:
    """What is read of the trajectories."""

    manifest_sha256: str = ""


@dataclass(frozen=True)
class _Parent:
    """The run whose checkpoint was loaded."""

    run_id: str


@dataclass(frozen=True)
class _End:
    """The last line; of a run that has none it is as here."""

    state: State = "running"
    reason: str = ""
    seconds: float | None = None
    num_tokens: int | None = None
    device_hours: float | None = None


_LINES = {
    "parent": _Parent,
    "metrics": Check,
    "curves": Curves,
    "samples": Samples,
    "benchmark": BenchmarkResult,
    "end": _End,
}


def find_records(paths: Iterable[Path]) -> list[RunRecord]:
    """Read the records of files, and of directories with all that lies in them, by time.

    Raises:
        TabomError: If a path is missing or holds no record.
    """
    found: set[Path] = set()
    for path in paths:
        require(path.exists(), f"{path}: expected a run's directory or record, found no such file")
        files = list(path.rglob(f"{DIRECTORY}/*.jsonl")) if path.is_dir() else [path]
        require(len(files) > 0, f"{path}: expected {DIRECTORY}/*.jsonl of at least one run in it, found none")
        found |= {file.resolve() for file in files}
    return sorted(map(read_record, found), key=lambda record: (record.time, record.run_id))
