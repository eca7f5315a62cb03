"""What the records of many runs say together: which model is whose, and which of them count."""

import re
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from tabom.errors import require
from tabom.reporting.comparison import MethodResult
from tabom.reporting.sensitivity import Setting, Value, short_names, show_value
from tabom.storage.run_record import Curves, RunRecord
from tabom.storage.settings import flat

BASE = "base"
BENCHMARK = "benchmark"
RATE = "model.init_args.optimizer.init_args.lr"
INTERPOLATION = "model.init_args.interpolation"
STAGES = ("test", "validate")
_BASE_MODEL = "model.init_args.backbone.init_args.path"
_TASK = "data.init_args.task"
_TRAINER_KEYS = (
    "max_steps", "max_epochs", "precision", "gradient_clip_val", "gradient_clip_algorithm", "accumulate_grad_batches",
    "limit_train_batches",
)  # fmt: skip
_SETTINGS = re.compile(rf"model\.|data\.|trainer\.({'|'.join(_TRAINER_KEYS)})$")
_NO_SETTINGS = re.compile(r"(\.path|\.tokenizer|_dir|_file|_workers|(?<!\.class)_path)$")
# What a test is run with comes from its own configuration, all else from that of the training.
_MEASURED_WITH = re.compile(rf"model\.init_args\.validation\.|data\.init_args\.validation\.|{_TASK}|{INTERPOLATION}$")


@dataclass(frozen=True)
class Model:
    """One model that was measured.

    Attributes:
        record: Of the run that measured it.
        trainings: The runs that made it, of a resumed training all; empty where they were not given.
        label: The base, or the configs that it was trained with.
        keys: Flat configuration: how it was trained, and what it was measured with.
        values: What was measured, by name; without those that are not a number.
        settings: What varies within the label beside learning rate and interpolation, by dotted key.
    """

    record: RunRecord
    trainings: list[RunRecord]
    label: str
    keys: dict[str, Any]
    values: dict[str, float]
    settings: dict[str, Value] = field(default_factory=dict)

    @property
    def seed(self) -> int:
        """Of the training."""
        return (self.trainings or [self.record])[-1].seed

    @property
    def rate(self) -> float | None:
        """Learning rate; None for the base."""
        return None if self.label == BASE else self.keys.get(RATE)

    @property
    def interpolation(self) -> float:
        """Weight of the trained model against the base."""
        return float(self.keys.get(INTERPOLATION, 1.0))

    @property
    def method(self) -> str:
        """Label and settings."""
        names = short_names(list(self.settings))
        return ", ".join([self.label, *(f"{names[key]} {show_value(value)}" for key, value in self.settings.items())])

    @property
    def fingerprint(self) -> str:
        """Of the trajectories that it was trained on."""
        return fingerprint((self.trainings or [self.record])[-1])

    @property
    def base_model(self) -> str:
        """What it started from; empty for one that was trained from scratch."""
        return self.keys.get(_BASE_MODEL) or ""

    @property
    def task(self) -> str:
        """What its accuracies are about: the class, and the file that it was tested on."""
        parts = (self.keys.get(f"{_TASK}.class_path"), self.keys.get(f"{_TASK}.init_args.test_file"))
        return " ".join(str(part) for part in parts if part is not None)

    @property
    def curves(self) -> Curves | None:
        """What was measured along curves, at last."""
        return self.record.curves[-1] if self.record.curves else None

    def result(self, method: str, rate: float | None) -> MethodResult:
        """Row of a table or point of a curve."""
        return MethodResult(method, self.seed, self.values, rate)


@dataclass(frozen=True)
class Group:
    """Models that differ in nothing but the seed.

    Attributes:
        method: Label and settings, with the learning rate where the method has several.
        models: One a seed.
    """

    method: str
    models: list[Model]


@dataclass(frozen=True)
class Results:
    """What is compared.

    Attributes:
        stage: ``test`` or ``validate``.
        base: Measurements of the base itself.
        models: All others that count, by method, learning rate and interpolation.
        roles: What each run counts as, or why it does not, by the path of its record.
        labels: Of each run, by the path of its record.
    """

    stage: str
    base: list[Model]
    models: list[Model]
    roles: dict[Path, str]
    labels: dict[Path, str]

    @property
    def num_left_out(self) -> int:
        """Runs that do not count."""
        counted = (BASE, "counted", "training", "trajectories")
        return sum(role not in counted and not role.startswith(BENCHMARK) for role in self.roles.values())

    @property
    def base_models(self) -> set[str]:
        """What the models that are compared started from."""
        return {model.base_model for model in (*self.base, *self.models)} - {""}

    @property
    def methods(self) -> list[str]:
        """In order of first appearance."""
        return list(dict.fromkeys(model.method for model in self.models))

    def of_method(self, method: str) -> list[Model]:
        """Its models that are not interpolated."""
        return [model for model in self.models if model.method == method and model.interpolation == 1]

    def rates(self, method: str) -> list[float | None]:
        """Its learning rates."""
        return list(dict.fromkeys(model.rate for model in self.of_method(method)))

    def shown(self, metric: str) -> list[Group]:
        """Each method at the learning rate whose mean is the highest, and the base, for what cannot show all."""
        groups: list[Group] = []
        for method in self.methods:
            by_rate: dict[float | None, list[Model]] = {}
            for model in self.of_method(method):
                by_rate.setdefault(model.rate, []).append(model)
            if by_rate:
                rate = max(by_rate, key=lambda rate: _mean(by_rate[rate], metric))
                name = f"{method} (lr {rate:g})" if len(by_rate) > 1 else method
                groups.append(Group(name, by_rate[rate]))
        return [*groups, Group(BASE, self.base)] if self.base else groups

    def rows(self) -> list[MethodResult]:
        """One a model, the base first, for tables; an interpolated one has a method of its own."""
        base = [model.result(BASE, None) for model in self.base]
        return base + [model.result(_interpolated(model), model.rate) for model in self.models]

    def on_frontier(self) -> list[MethodResult]:
        """One a point: each method over its learning rates, and towards the base over its interpolation weights."""
        points = [model.result(model.method, model.rate) for model in self.models if model.interpolation == 1]
        towards = {(m.method, m.rate) for m in self.models if m.interpolation < 1}
        for model in self.models:
            if (model.method, model.rate) in towards:
                method = f"{model.method} (lr {show_value(model.rate)}) towards the base"
                points.append(model.result(method, model.interpolation))
        return points

    def settings(self, label: str, metric: str) -> list[Setting]:
        """The runs of a label by what varies in it, with the learning rate where it varies as well."""
        own = [m for m in self.models if m.label == label and m.interpolation == 1 and metric in m.values]
        rates = {model.rate for model in own}
        return [
            Setting(
                model.settings | ({RATE: model.rate} if len(rates) > 1 and model.rate is not None else {}),
                model.seed,
                model.values[metric],
            )
            for model in own
            if model.settings
        ]

    def warnings(self) -> list[str]:
        """What the compared runs differ in although they should not."""
        compared = [*self.base, *self.models]
        parts = {
            "base model": [model.base_model for model in compared if model.base_model],
            "trajectories (SHA-256 of the manifest)": [m.fingerprint[:12] for m in self.models if m.fingerprint],
        }
        texts = differences("The runs", [model.record for model in compared], parts)
        num_unknown = sum(model.record.parent is not None and not model.trainings for model in compared)
        if num_unknown:
            texts.append(
                f"{num_unknown} of {len(compared)} runs measured a checkpoint whose training is not among the runs: "
                "their seed, learning rate and settings are those that the measurement was given."
            )
        return texts


def collect(records: Sequence[RunRecord], stage: str | None = None) -> Results:
    """Find out which run belongs to which method, and which count.

    A label is the stems of a run's ``--config`` files. A test belongs to the training whose checkpoint it loaded. What
    varies within a label are its settings; seed, paths, logger, callbacks and machine are none. A test without a
    checkpoint measures the base. Of a resumed training the last run counts, of several runs that are alike the latest;
    of several tasks the one with the most runs. A run of benchmarks has the name that it gives its model as its label.

    Args:
        records: By time.
        stage: ``test`` or ``validate``; None is ``test`` where there is one.

    Raises:
        TabomError: If no run was measured at the stage, nor on benchmarks.
    """
    stage = stage or next((s for s in STAGES if any(record.last(s) for record in records)), STAGES[0])
    fits = [record for record in records if record.verb == "fit"]
    resumed = {earlier.path: record for record in fits for earlier in trainings(record, fits)[:-1]}
    labels = _labels(records, fits)
    results = [record for record in records if record.last(stage) or record.benchmarks]
    measured = {path for record in results for path in _paths(trainings(record, fits))}
    roles: dict[Path, str] = {}
    latest: dict[tuple[Any, ...], Model] = {}
    models: list[Model] = []
    for record in records:
        roles[record.path] = _role(record, stage, fits, resumed, measured)
        if not roles[record.path]:
            models.append(_model(record, stage, fits, labels[record.path]))
    task = max(models, key=lambda model: [other.task for other in models].count(model.task)).task if models else ""
    for model in _with_settings([model for model in models if model.task == task]):
        unknown = None if model.trainings else model.record.parent
        numbers = (model.rate, model.interpolation, model.seed, model.fingerprint, unknown)
        key = (model.label, *model.settings.items(), *numbers)
        if key in latest:
            roles[latest[key].record.path] = f"repeated by {model.record.run_id}"
        latest[key] = model
        roles[model.record.path] = "base" if model.label == BASE else "counted"
    require(
        len(latest) > 0 or BENCHMARK in roles.values(),
        f"{stage}: expected a finished run with results of this stage, found none",
    )
    roles |= {model.record.path: f"measured on {model.task}, not counted" for model in models if model.task != task}
    base = [model for model in latest.values() if model.label == BASE]
    others = [model for model in latest.values() if model.label != BASE]
    methods = list(dict.fromkeys(model.method for model in others))
    others.sort(key=lambda model: (methods.index(model.method), model.rate or 0.0, -model.interpolation))
    return Results(stage, base, others, roles, labels)


def fingerprint(record: RunRecord) -> str:
    """SHA-256 of the manifest of its trajectories; empty where it read none."""
    return record.inputs.get("trajectories", {}).get("manifest_sha256", "")


def commit(record: RunRecord) -> str:
    """The first digits of the commit."""
    return (record.environment["git_commit"] or "none")[:10]


def trainings(record: RunRecord, fits: Sequence[RunRecord]) -> list[RunRecord]:
    """What made the model that a run measured: several where a training was resumed, the first one first."""
    chain = _chain(record, fits)
    return chain if record.verb == "fit" else chain[:-1]


def seconds(record: RunRecord) -> float:
    """How long it ran; of a killed run until it last wrote."""
    if record.seconds is not None:
        return record.seconds
    return record.checks[-1].seconds if record.checks else 0.0


def base_model(record: RunRecord) -> str:
    """Path of the pretrained model that it has; empty where it has none."""
    return dict(flat(record.config)).get(_BASE_MODEL) or ""


def differences(what: str, records: Sequence[RunRecord], parts: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """What compared runs differ in although they should not.

    Args:
        what: They are called.
        records: Of the measurements.
        parts: Values of the runs by what they should share, beside the commit.
    """
    parts = {**(parts or {}), "commit": [commit(record) for record in records]}
    texts = [
        f"{what} differ in their {name}: {', '.join(f'{value} ({count})' for value, count in counts.items())}."
        for name, counts in ((name, Counter(values)) for name, values in parts.items())
        if len(counts) > 1
    ]
    num_dirty = sum(bool(record.environment["is_git_dirty"]) for record in records)
    if num_dirty:
        texts.append(f"{num_dirty} of {len(records)} runs were made with uncommitted changes.")
    return texts


def _paths(records: Iterable[RunRecord]) -> set[Path]:
    return {record.path for record in records}


def _chain(record: RunRecord, fits: Iterable[RunRecord]) -> list[RunRecord]:
    """A training and those it resumed, the first one first."""
    parents = [fit for fit in fits if fit.run_id == record.parent and fit.time < record.time]
    return [*(_chain(parents[-1], fits) if parents else []), record]


def _is_base(record: RunRecord) -> bool:
    """Whether a run measured a pretrained model as it is."""
    return record.verb in STAGES and record.config.get("ckpt_path") is None and base_model(record) != ""


def _labels(records: Sequence[RunRecord], fits: Sequence[RunRecord]) -> dict[Path, str]:
    files = {
        record.path: [
            PurePath(file)
            for file in (trainings(record, fits) or [record])[-1].config_files
            if PurePath(file).parent.name != "trainer"
        ]
        for record in records
    }
    others = [record for record in records if record.verb != "evaluate"]
    folders = {(file.stem, file.parent.name) for record in others for file in files[record.path]}
    counts = Counter(stem for stem, _ in folders)

    def name(file: PurePath) -> str:
        return f"{file.parent.name}/{file.stem}" if counts[file.stem] > 1 else file.stem

    def label(record: RunRecord) -> str:
        if record.benchmarks:
            return ", ".join(dict.fromkeys(result.model for result in record.benchmarks))
        return BASE if _is_base(record) else " + ".join(map(name, files[record.path])) or "no config"

    return {record.path: label(record) for record in records}


def _role(
    record: RunRecord, stage: str, fits: Sequence[RunRecord], resumed: Mapping[Path, RunRecord], measured: set[Path]
) -> str:
    """Why a run does not count; empty if it does."""
    if record.path in resumed:
        return f"resumed by {resumed[record.path].run_id}"
    if record.state != "finished":
        return "unfinished, not counted"
    if record.verb == "predict":
        return "trajectories"
    training = trainings(record, fits)[-1:]
    if training and training[0].path in resumed:
        return f"its training was resumed by {resumed[training[0].path].run_id}"
    if training and training[0].state != "finished":
        return "its training is unfinished, not counted"
    if record.verb == "evaluate" and record.benchmarks:
        return BENCHMARK
    if record.last(stage):
        return ""
    return "training" if record.path in measured else f"no results of {stage}, not counted"


def _model(record: RunRecord, stage: str, fits: Sequence[RunRecord], label: str) -> Model:
    made_by = trainings(record, fits)
    keys = dict(flat((made_by or [record])[-1].config))
    keys |= {key: value for key, value in flat(record.config) if _MEASURED_WITH.match(key)}
    values = {name: value for name, value in record.last(stage).items() if value == value}
    return Model(record, made_by, label, keys, values)


def _with_settings(models: Sequence[Model]) -> list[Model]:
    """Each with what varies within its label."""
    varying: dict[str, list[str]] = {}
    for label in {model.label for model in models} - {BASE}:
        own = [model.keys for model in models if model.label == label]
        names = dict.fromkeys(key for keys in own for key in keys if _is_setting(key))
        varying[label] = [key for key in names if len({str(keys.get(key)) for keys in own}) > 1]
    return [
        replace(model, settings={key: _value(model.keys.get(key)) for key in varying.get(model.label, [])})
        for model in models
    ]


def _is_setting(key: str) -> bool:
    return bool(_SETTINGS.match(key)) and not _NO_SETTINGS.search(key) and key not in (RATE, INTERPOLATION)


def _value(value: Any) -> Value:
    """A number, the class of a class path, or what is written for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return str(value).rpartition(".")[2]


def _interpolated(model: Model) -> str:
    return model.method if model.interpolation == 1 else f"{model.method} x {model.interpolation:g}"


def _mean(models: Iterable[Model], metric: str) -> float:
    values = [model.values[metric] for model in models if metric in model.values]
    return statistics.mean(values) if values else float("-inf")
