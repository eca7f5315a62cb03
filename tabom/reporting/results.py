"""What the records of many runs say together: which model is whose, and which of them count."""

import re
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePath
from typing import Any

from tabom.errors import require
from tabom.reporting.comparison import Frame, Value, grouped, measurements, short_names, show_value
from tabom.reporting.extent import OTHERWISE, TASK, extent_of, measured_otherwise
from tabom.reporting.names import BASE, human_name
from tabom.reporting.sensitivity import Setting
from tabom.storage.run_record import RunRecord
from tabom.storage.settings import flat_config

BENCHMARK = "benchmark"
RATE = "model.optimizer.lr"
INTERPOLATION = "model.interpolation"
STAGES = ("test", "validate")
_SETTINGS = re.compile(
    r"(model|data)(\.|$)|trainer\.(max_steps|max_epochs|precision|gradient_clip_val|gradient_clip_algorithm|"
    r"accumulate_grad_batches|limit_train_batches)$"
)
_NO_SETTINGS = re.compile(r"(\.path|replay\.trajectories|\.tokenizer|_dir|_file|_workers|_path)$")
# What a test is run with comes from its own configuration, all else from that of the training.
_MEASURED_WITH = re.compile(
    rf"(model|data)\.validation\.|{TASK}(\.|$)|{INTERPOLATION}$|trainer\.(limit_(test|val)_batches|fast_dev_run)$"
)


@dataclass(frozen=True)
class Model:
    """One model that was measured.

    Attributes:
        record: Of the run that measured it.
        trainings: The runs that made it, of a resumed training all; empty where they were not given.
        label: The base, or the configs that it was trained with.
        keys: Flat configuration: how it was trained, and what it was measured with.
        extent: What it was measured on, and how much of it.
        values: What was measured, by name; without those that are not a number.
        settings: What varies within the label beside learning rate and interpolation, by dotted key.
    """

    record: RunRecord
    trainings: list[RunRecord]
    label: str
    keys: dict[str, Any]
    extent: dict[str, Any]
    values: dict[str, float]
    settings: dict[str, Value] = field(default_factory=dict)

    @property
    def source(self) -> RunRecord:
        """The last training, or the measurement itself where that was not given."""
        return self.trainings[-1] if self.trainings else self.record

    @property
    def seed(self) -> int:
        """Of the training."""
        return self.source.seed

    @property
    def base_model(self) -> str:
        """What the training started from, or the base that was measured."""
        return self.source.base_model

    @property
    def rate(self) -> float | None:
        """Learning rate; None for the base."""
        return None if self.label == BASE else self.keys.get(RATE)

    @property
    def interpolation(self) -> float:
        """Weight of the trained model against the base."""
        return float(self.keys.get(INTERPOLATION, 1.0))

    @property
    def varied(self) -> list[str]:
        """Its settings, as they are shown."""
        names = short_names(list(self.settings))
        return [f"{human_name(names[key])} {show_value(value)}" for key, value in self.settings.items()]

    @property
    def method(self) -> str:
        """Label and settings, as they are shown."""
        return ", ".join([human_name(self.label), *self.varied])


@dataclass(frozen=True)
class Results:
    """What is compared.

    Attributes:
        stage: ``test`` or ``validate``.
        base: Measurements of the base itself.
        models: All others that count, by method, learning rate and interpolation.
        roles: What each run counts as, or why it does not, by the path of its record.
        labels: Of each run, by the path of its record.
        trainings: Of each run, those that made its model, by the path of its record.
    """

    stage: str
    base: list[Model]
    models: list[Model]
    roles: dict[Path, str]
    labels: dict[Path, str]
    trainings: dict[Path, list[RunRecord]]

    @property
    def num_left_out(self) -> int:
        """Runs that do not count."""
        counted = (BASE, "counted", "training", "trajectories")
        return sum(role not in counted and not role.startswith(BENCHMARK) for role in self.roles.values())

    @property
    def compared(self) -> list[Model]:
        """The base and all others."""
        return [*self.base, *self.models]

    @property
    def base_models(self) -> list[str]:
        """What the models that are compared started from."""
        return list(dict.fromkeys(filter(None, (model.base_model for model in self.compared))))

    @property
    def has_bases(self) -> bool:
        """Whether there are several base models and each was measured, so that every base is a replicate."""
        return len(self.base_models) > 1 and {model.base_model for model in self.base} == set(self.base_models)

    def by_base(self) -> "dict[str, Results]":
        """The models of each base model by themselves."""
        return {
            name: replace(
                self,
                base=[model for model in self.base if model.base_model == name],
                models=[model for model in self.models if model.base_model == name],
            )
            for name in self.base_models
        }

    @property
    def methods(self) -> list[str]:
        """In order of first appearance."""
        return list(dict.fromkeys(model.method for model in self.models))

    @property
    def trained(self) -> list[Model]:
        """Those that are not interpolated."""
        return [model for model in self.models if model.interpolation == 1]

    def shown(self, metric: str) -> dict[str, list[Model]]:
        """Each method at the learning rate whose mean is the highest, and the base, for what cannot show all."""

        def mean(models: list[Model]) -> float:
            values = [model.values[metric] for model in models if metric in model.values]
            return statistics.mean(values) if values else float("-inf")

        shown: dict[str, list[Model]] = {}
        for method, own in grouped(self.trained, lambda model: model.method).items():
            rates = grouped(own, lambda model: model.rate)
            best = max(rates.values(), key=mean)
            shown[f"{method} (lr {show_value(best[0].rate)})" if len(rates) > 1 else method] = best
        return shown | ({BASE: self.base} if self.base else {})

    def rows(self) -> Frame:
        """One a model, the base first, for tables; an interpolated one has a method of its own.

        With several bases there is one a base: means over its seeds, with the base's number in the place of the seed.
        """
        ends = ["" if model.interpolation == 1 else f" x {model.interpolation:g}" for model in self.compared]
        places = [self.base_models.index(m.base_model) if self.has_bases else m.seed for m in self.compared]
        numbered = zip(self.compared, ends, places, strict=True)
        rows = measurements((m.method + end, place, m.rate, m.values) for m, end, place in numbered)
        groups = rows.groupby(["method", "seed", "learning_rate"], sort=False, dropna=False)
        return groups.mean().reset_index()[list(rows.columns)] if self.has_bases else rows

    def on_frontier(self) -> Frame:
        """One a point: each method over its learning rates, and towards the base over its interpolation weights."""
        towards = {(model.method, model.rate) for model in self.models if model.interpolation < 1}
        names = {key: f"{key[0]} (lr {show_value(key[1])}) towards the base" for key in towards}
        between = [model for model in self.models if (model.method, model.rate) in towards]
        return measurements(
            [
                *((model.method, model.seed, model.rate, model.values) for model in self.trained),
                *((names[m.method, m.rate], m.seed, m.interpolation, m.values) for m in between),
            ]
        )

    def settings(self, label: str, metric: str) -> list[Setting]:
        """The runs of a label by what varies in it, with the learning rate where it varies as well."""
        own = [model for model in self.trained if model.label == label and metric in model.values]
        varies = len({model.rate for model in own}) > 1
        rates = [{RATE: model.rate} if varies and model.rate is not None else {} for model in own]
        return [
            Setting(model.settings | rate, model.values[metric], model.values.get(f"{metric}_error"))
            for model, rate in zip(own, rates, strict=True)
            if model.settings
        ]

    def warnings(self) -> list[str]:
        """What the compared runs differ in although they should not."""
        by_base = self.by_base().values() if self.has_bases else [self]
        data = [[model.source.data[:12] for model in own.models if model.source.data] for own in by_base]
        bases = [model.base_model for model in self.compared if model.base_model]
        parts = {
            "base model": [] if self.has_bases else bases,
            "trajectories (SHA-256 of the manifest)": max(data, key=lambda own: len(set(own)), default=[]),
        }
        texts = differences("The runs", [model.record for model in self.compared], parts)
        otherwise = Counter(role for role in self.roles.values() if role.startswith(OTHERWISE))
        texts += [f"Left out, since {_runs(count)} {role}." for role, count in otherwise.items()]
        num_unknown = sum(model.record.parent is not None and not model.trainings for model in self.compared)
        if num_unknown:
            texts.append(
                f"{num_unknown} of {len(self.compared)} runs measured a checkpoint whose training is not among the "
                "runs: their seed, learning rate and settings are those that the measurement was given."
            )
        return texts


def collect(records: Sequence[RunRecord], stage: str | None = None) -> Results:
    """Find out which run belongs to which method, and which count.

    A label is the stems of a run's ``--config`` files, or the name that a Python program gave. A test belongs to the
    training whose checkpoint it loaded. What varies within a label are its settings; seed, paths, logger, callbacks and
    machine are none. A test without a checkpoint measures the base. Of a resumed training the last run counts, of
    several runs that are alike the latest; of those that were measured on different tasks, files or numbers of examples
    those of which there are most, and of equally many those without a limit. A run of benchmarks has the name that it
    gives its model as its label.

    Args:
        records: By time.
        stage: ``test`` or ``validate``; None is ``test`` where there is one.

    Raises:
        TabomError: If no run was measured at the stage, nor on benchmarks.
    """
    stage = stage or next((s for s in STAGES if any(record.last(s) for record in records)), STAGES[0])
    made_by = trainings(records)
    labels = _labels(records, made_by)
    roles = _roles(records, stage, made_by)
    models = [_model(r, stage, made_by[r.path], labels[r.path]) for r in records if not roles[r.path]]
    extents = [model.extent for model in models]
    extent = max(
        extents, key=lambda extent: (extents.count(extent), -sum("limit" in key for key in extent)), default={}
    )
    roles |= {m.record.path: measured_otherwise(m.extent, extent) for m in models if m.extent != extent}
    latest: dict[tuple[Any, ...], Model] = {}
    for model in _with_settings([model for model in models if model.extent == extent]):
        unknown = None if model.trainings else model.record.parent
        numbers = (model.rate, model.interpolation, model.seed, model.source.data, unknown)
        key = (model.label, model.base_model, *model.settings.items(), *numbers)
        if key in latest:
            roles[latest[key].record.path] = f"repeated by {model.record.run_id}"
        latest[key] = model
        roles[model.record.path] = "base" if model.label == BASE else "counted"
    require(
        len(latest) > 0 or BENCHMARK in roles.values(),
        f"{stage}: expected a finished run with results of this stage, found none",
    )
    base = [model for model in latest.values() if model.label == BASE]
    others = [model for model in latest.values() if model.label != BASE]
    methods = list(dict.fromkeys(model.method for model in others))
    others.sort(key=lambda model: (methods.index(model.method), model.rate or 0.0, -model.interpolation))
    return Results(stage, base, others, roles, labels, made_by)


def trainings(records: Sequence[RunRecord]) -> dict[Path, list[RunRecord]]:
    """What made the model that each run measured: several where a training was resumed, the first one first."""
    fits = [record for record in records if record.verb == "fit"]

    def chain(record: RunRecord) -> list[RunRecord]:
        parents = [fit for fit in fits if fit.run_id == record.parent and fit.time < record.time]
        return [*(chain(parents[-1]) if parents else []), record]

    def made(record: RunRecord) -> list[RunRecord]:
        own = chain(record)[:-1]
        for fit in fits if own else ():  # that went on in the same place before the measurement
            if fit.time < record.time and fit.directory == own[-1].directory and own[-1] in chain(fit):
                own = chain(fit)
        return own

    return {record.path: chain(record) if record.verb == "fit" else made(record) for record in records}


def differences(what: str, records: Sequence[RunRecord], parts: Mapping[str, Sequence[str]] | None = None) -> list[str]:
    """What compared runs differ in although they should not.

    Args:
        what: They are called.
        records: Of the measurements.
        parts: Values of the runs by what they should share, beside the commit.
    """
    parts = {**(parts or {}), "commit": [record.commit for record in records]}
    texts = [
        f"{what} differ in their {name}: {', '.join(f'{value} ({count})' for value, count in counts.items())}."
        for name, counts in ((name, Counter(values)) for name, values in parts.items())
        if len(counts) > 1
    ]
    num_dirty = sum(bool(record.environment["is_git_dirty"]) for record in records)
    if num_dirty:
        texts.append(f"{num_dirty} of {len(records)} runs were made with uncommitted changes.")
    return texts


def _labels(records: Sequence[RunRecord], made_by: Mapping[Path, list[RunRecord]]) -> dict[Path, str]:
    files = {
        record.path: [
            PurePath(file)
            for file in (made_by[record.path] or [record])[-1].config_files
            if PurePath(file).parent.name != "trainer"
        ]
        for record in records
    }
    others = [record for record in records if record.verb != "evaluate"]
    folders = {(file.stem, file.parent.name) for record in others for file in files[record.path]}
    counts = Counter(stem for stem, _ in folders)

    def label(record: RunRecord) -> str:
        if record.benchmarks:
            return ", ".join(dict.fromkeys(result.model for result in record.benchmarks))
        if record.name:
            return record.name
        if record.verb in STAGES and record.config.get("ckpt_path") is None and record.base_model:
            return BASE
        names = (f"{f.parent.name}/{f.stem}" if counts[f.stem] > 1 else f.stem for f in files[record.path])
        return " + ".join(names) or "no config"

    return {record.path: label(record) for record in records}


def _roles(records: Sequence[RunRecord], stage: str, made_by: Mapping[Path, list[RunRecord]]) -> dict[Path, str]:
    """Why runs do not count, by the paths of their records; empty for those that do."""
    resumed = {
        earlier.path: f"resumed by {record.run_id}"
        for record in records
        if record.verb == "fit"
        for earlier in made_by[record.path][:-1]
    }
    results = [record for record in records if record.last(stage) or record.benchmarks]
    measured = {training.path for record in results for training in made_by[record.path]}

    def role(record: RunRecord) -> str:
        if record.path in resumed:
            return resumed[record.path]
        if record.state != "finished":
            return "unfinished, not counted"
        if record.verb == "predict":
            return "trajectories"
        for training in made_by[record.path][-1:]:
            if training.path in resumed:
                return f"its training was {resumed[training.path]}"
            if training.state != "finished":
                return "its training is unfinished, not counted"
        if record.verb == "evaluate" and record.benchmarks:
            return BENCHMARK
        if record.last(stage):
            return ""
        return "training" if record.path in measured else f"no results of {stage}, not counted"

    return {record.path: role(record) for record in records}


def _model(record: RunRecord, stage: str, made_by: list[RunRecord], label: str) -> Model:
    keys = flat_config((made_by or [record])[-1].config)
    keys |= {key: value for key, value in flat_config(record.config).items() if _MEASURED_WITH.match(key)}
    values = {name: value for name, value in record.last(stage).items() if value == value}
    return Model(record, made_by, label, keys, extent_of(keys, stage), values)


def _runs(count: int) -> str:
    return "1 run was" if count == 1 else f"{count} runs were"


def _with_settings(models: Sequence[Model]) -> list[Model]:
    """Each with what varies within its label."""
    varying: dict[str, list[str]] = {BASE: []}
    for label, own in grouped([m for m in models if m.label != BASE], lambda model: model.label).items():
        names = dict.fromkeys(key for model in own for key in model.keys if is_setting(key))
        varying[label] = [key for key in names if len({str(model.keys.get(key)) for model in own}) > 1]
    return [
        replace(model, settings={key: value_of(model.keys.get(key)) for key in varying[model.label]})
        for model in models
    ]


def is_setting(key: str) -> bool:
    """Whether a key of a flat configuration decides what a training learns, beside learning rate and interpolation."""
    return bool(_SETTINGS.match(key)) and not _NO_SETTINGS.search(key) and key not in (RATE, INTERPOLATION)


def value_of(value: Any) -> Value:
    """A number, the class of a class path, or what is written for anything else."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value
    return str(value).rpartition(".")[2]
