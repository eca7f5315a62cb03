"""What a page on finished runs says: sections made from the runs' own records."""

import itertools
import math
import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tabom.errors import require
from tabom.reporting.benchmarks import benchmark_sections, collect_benchmarks
from tabom.reporting.comparison import MISSING, Column, MethodResult, comparison_rows
from tabom.reporting.curves import plot_lines
from tabom.reporting.figures import plot_frontiers
from tabom.reporting.frontier import frontier_rows, matched_levels, seed_curves
from tabom.reporting.page import Plot, Rows, Section, Table
from tabom.reporting.paper import paper_section
from tabom.reporting.results import BASE, Group, Results, commit, fingerprint, seconds, trainings
from tabom.reporting.sensitivity import plot_sensitivity, sensitivity_rows, short_names, show_value
from tabom.storage.run_record import RunRecord

METRIC = "accuracy_1_per_step"
BASELINE = "sft_sd"
_COLUMNS = (
    Column("nelbo_change", "NELBO change", digits=3, is_signed=True),
    Column("kl", "KL", digits=3),
    Column("tds", "TDS", digits=3),
    Column("order_agreement", "order agreement", digits=2),
)
_AT_THEIR_BEST = "A method with several learning rates is shown at the one with the highest mean {metric}."
Line = tuple[list[float], list[float]]


def sections(
    records: Sequence[RunRecord], results: Results, metric: str = METRIC, baseline: str | None = None
) -> list[Section]:
    """All sections that the runs have data for; the first says what is missing.

    Args:
        records: All runs that were given.
        results: Of them.
        metric: Accuracy that is set against forgetting.
        baseline: Method, or model in benchmarks, that differences are taken to; None is ``sft_sd`` where there is one.

    Raises:
        TabomError: If runs were measured but none has the metric, or none is of the baseline.
    """
    benchmarks = collect_benchmarks(records, results.roles)
    results = replace(results, roles=results.roles | benchmarks.roles)
    models = [*results.base, *results.models]
    names = {name for model in models for name in model.values}
    require(not models or metric in names, f"--metric: expected one of {', '.join(sorted(names))}, got {metric}")
    methods = list(dict.fromkeys([*(point.method for point in results.on_frontier()), *benchmarks.models]))
    require(
        baseline is None or baseline in methods,
        f"--baseline: expected one of {', '.join(methods) or 'no method'}, got {baseline}",
    )
    parts = [
        *(_of_models(results, metric, baseline or BASELINE) if models else []),
        *benchmark_sections(benchmarks, baseline or BASELINE),
        _cost(records, results),
        _runs(records, results),
        paper_section(results, column_of(metric)),
    ]
    missing = [part for part in parts if isinstance(part, str)]
    stage = {"test": "the test split", "validate": "the validation split, of a training at its last check"}
    counts = [f"Runs: {len(records)}."]
    if models:
        counts.append(
            f"Models that are compared: {len(results.models)}, of {len(results.methods)} methods. "
            f"All numbers are measured on {stage[results.stage]}."
        )
    if benchmarks.answers:
        counts.append(benchmarks.summary)
    if results.num_left_out:
        missing.insert(0, f"Runs that do not count: {results.num_left_out}. The table of the runs says why of each.")
    about = Section(
        "About this page",
        [" ".join(counts), *missing],
        warnings=results.warnings(),
    )
    return [about, *(part for part in parts if isinstance(part, Section))]


def _of_models(results: Results, metric: str, baseline: str) -> list[Section | str]:
    """Sections on what trainings and tests measured."""
    shown = results.shown(metric)
    return [
        _frontier(results, metric, baseline),
        _table(results),
        _along_curves(results, shown, metric),
        _forgetting(shown, metric),
        _sensitivity(results, metric),
    ]


def column_of(metric: str) -> Column:
    """How a metric is shown: shares as %, known ones with their title, others with three digits."""
    known = {column.metric: column for column in _COLUMNS}
    if match := re.fullmatch(r"accuracy_(\d+)_per_step", metric):
        return Column(metric, f"accuracy at {match[1]} a step, %", scale=100)
    if re.match(r"accuracy|base_accuracy|pass_at", metric):
        return Column(metric, f"{metric.replace('_', ' ')}, %", scale=100)
    return known.get(metric, Column(metric, metric.replace("_", " "), digits=3))


def _name(metric: str) -> str:
    """Of a metric, within a sentence."""
    return column_of(metric).title.removesuffix(", %")


def _frontier(results: Results, metric: str, baseline: str) -> Section | str:
    """Accuracy gained against forgetting, and the table at matched forgetting."""
    points = [point for point in results.on_frontier() if {"kl", metric} <= set(point.metrics)]
    bases = [model.values[metric] for model in results.base if metric in model.values]
    if not points:
        return "No frontier: no model has a KL from its base beside its accuracy."
    if not bases:
        return (
            f"No frontier: the base itself was not measured. Run tabom {results.stage} with the config of one of the "
            "methods and without a checkpoint, and give its directory as well."
        )
    if len(results.base_models) > 1:
        return "No frontier: the runs start from different base models. Give the runs of one base model at a time."
    base = MethodResult(BASE, 0, {"kl": 0.0, metric: statistics.mean(bases)})
    rates: dict[str, set[float | None]] = {}
    for point in points:
        rates.setdefault(point.method, set()).add(point.learning_rate)
    compared = [point for point in points if len(rates[point.method]) > 1]
    single = [method for method, values in rates.items() if len(values) == 1]
    texts = [
        "A method is compared with the others at equal KL from the base, never at one learning rate: at one learning "
        "rate, methods differ in how far they went as well as in what they learnt.",
    ]
    if single:
        texts.append(f"With one learning rate, a method is a point and not compared: {', '.join(single)}.")
    tables = [_matched(compared, base, metric, baseline)] if compared else []
    plot = Plot(
        "frontier",
        f"Points gained over the base ({100 * base.metrics[metric]:.1f} %) in {_name(metric)}, against KL.",
        _in_words(points, base, metric),
        plot_frontiers(points, base, metric),
        _frontier_data(points, base, metric),
    )
    return Section("Gain against forgetting", texts, [plot], tables)


def _matched(compared: Sequence[MethodResult], base: MethodResult, metric: str, baseline: str) -> Table:
    curves = seed_curves(compared, base, metric)
    text = f"Accuracy at matched forgetting: {_name(metric)} in %, KL(base || model) in nats a token"
    if baseline in curves:
        text += f"; in brackets the difference to {baseline} with the same seed ± its standard error"
    rows = frontier_rows(curves, matched_levels(curves), baseline)
    return Table(f"{text}; {MISSING}: not every seed goes so far", rows)


def _frontier_data(points: Sequence[MethodResult], base: MethodResult, metric: str) -> Rows:
    rows = [["method", "learning rate or weight", "seeds", "KL", "gain, points"]]
    for (method, rate), group in _grouped(points).items():
        gain = statistics.mean(point.metrics[metric] for point in group) - base.metrics[metric]
        kl = statistics.mean(point.metrics["kl"] for point in group)
        rows.append([method, show_value(rate), str(len(group)), f"{kl:.4f}", f"{100 * gain:+.1f}"])
    return rows


def _in_words(points: Sequence[MethodResult], base: MethodResult, metric: str) -> str:
    data = _frontier_data(points, base, metric)[1:]
    parts = [
        f"{method}: " + ", ".join(f"{row[4]} at KL {row[3]}" for row in rows)
        for method, rows in itertools.groupby(data, key=lambda row: row[0])
    ]
    return f"Accuracy points gained over the base against KL from it. {'; '.join(parts)}."


def _grouped(points: Sequence[MethodResult]) -> dict[tuple[str, float | None], list[MethodResult]]:
    groups: dict[tuple[str, float | None], list[MethodResult]] = {}
    for method in dict.fromkeys(point.method for point in points):
        for point in points:
            if point.method == method:
                groups.setdefault((method, point.learning_rate), []).append(point)
    return groups


def _table(results: Results) -> Section:
    rows = results.rows()
    names = {name for row in rows for name in row.metrics}
    accuracies = sorted(name for name in names if re.fullmatch(r"accuracy_\d+_per_step", name))
    main = [*map(column_of, accuracies), *(column for column in _COLUMNS if column.metric in names)]
    others = [column_of(name) for name in sorted(names - {column.metric for column in main})]
    tables = [Table("Mean ± standard deviation over the seeds", comparison_rows(rows, main))]
    if others:
        tables.append(Table("All else that was measured", comparison_rows(rows, others)))
    text = (
        "NELBO change and KL(base || model): forgetting on text of the base domain, nats a token. TDS: trajectory "
        "discrimination score. Order agreement: share of pairs whose entropies stand in decoding order. "
        "Rows of one learning rate differ in how far they went: they are read off the frontier, not here."
    )
    return Section("Results", [text], tables=tables)


def _along_curves(results: Results, shown: Sequence[Group], metric: str) -> Section | str:
    """Trajectory discrimination and entropy by step, cross-entropy by mask ratio."""
    names = dict.fromkeys(
        name for group in shown for model in group.models if model.curves for name in model.curves.curves
    )
    plots = []
    for name in names:
        lines = {group.method: line for group in shown if (line := _mean_curve(group, name))}
        plots.append(_lines(f"{results.stage}_{name}", lines, *_curve_titles(name)))
    if not plots:
        return "No curves by step or mask ratio: the runs recorded none."
    text = f"Lines are means over the seeds. {_AT_THEIR_BEST.format(metric=_name(metric))}"
    return Section("By denoising step and mask ratio", [text], plots)


def _curve_titles(name: str) -> tuple[str, str, str]:
    """Title and axes of one kind of curve."""
    variance, entropy = "entropy variance (nats²)", "mean entropy (nats)"
    known = {
        "tds": ("Trajectory discrimination", "denoising step", variance),
        "tds_by_share": ("Trajectory discrimination by share", "share of the response decoded", variance),
        "unmask_entropy": ("Entropy when revealed", "denoising step", entropy),
    }
    answers = name.removeprefix("ce_").replace("_", " ")
    return known.get(name, (f"Cross-entropy of held-out {answers} answers", "mask ratio", "nats a masked token"))


def _mean_curve(group: Group, name: str) -> Line | None:
    """Mean over the models that have a point there."""
    measured = [model.curves for model in group.models if model.curves and name in model.curves.curves]
    if not measured:
        return None
    columns = itertools.zip_longest(*(curves.curves[name] for curves in measured))
    present = [[value for value in column if value is not None] for column in columns]
    means = [statistics.mean(values) if values else math.nan for values in present]
    positions = [float(index) for index in range(len(means))]
    if name.startswith("ce_"):
        positions = measured[0].mask_ratios
    elif name == "tds_by_share":
        positions = [(index + 0.5) / len(means) for index in range(len(means))]
    return positions, means


def _lines(name: str, lines: Mapping[str, Line], title: str, xlabel: str, ylabel: str) -> Plot:
    """A figure of one line a method, with its text and its numbers."""
    ends = [
        f"{method}: from {y[0]:.3g} at {x[0]:g} to {y[-1]:.3g} at {x[-1]:g}"
        for method, (x, y) in (
            (method, list(zip(*(p for p in zip(*line, strict=True) if not math.isnan(p[1])), strict=True)))
            for method, line in lines.items()
            if not all(map(math.isnan, line[1]))
        )
    ]
    numbers = {method: dict(zip(*line, strict=True)) for method, line in lines.items()}
    positions = sorted({x for line in numbers.values() for x in line})
    rows = [[xlabel, *lines]]
    for x in positions:
        values = [line.get(x, math.nan) for line in numbers.values()]
        rows.append([f"{x:g}", *(MISSING if math.isnan(value) else f"{value:.4g}" for value in values)])
    text = f"{title}: {ylabel} against {xlabel}, one line a method. {'; '.join(ends)}."
    return Plot(name, f"{title}: {ylabel} against {xlabel}.", text, plot_lines(lines, title, xlabel, ylabel), rows)


def _forgetting(shown: Sequence[Group], metric: str) -> Section | str:
    """Checks on validation over the trainings."""
    column = column_of(metric)
    plots = []
    for name, scale, ylabel in (("kl", 1.0, "KL (nats)"), (metric, column.scale, column.title)):
        title = "Forgetting over training" if name == "kl" else "Accuracy over training"
        lines = {group.method: line for group in shown if (line := _over_training(group, name, scale))}
        if lines:
            plots.append(_lines(f"training_{name}", lines, title, "optimizer step", ylabel))
    if not plots:
        return "No forgetting over training: no training with its checks on validation is among the runs."
    text = f"Checks on validation, means over the seeds. {_AT_THEIR_BEST.format(metric=_name(metric))}"
    return Section("Forgetting over training", [text], plots)


def _over_training(group: Group, name: str, scale: float) -> Line | None:
    """Mean over the seeds at each step that all of them were checked at; what was resumed is one training."""
    by_seed = [
        {
            check.step: scale * check.values[name]
            for training in model.trainings
            for check in training.checks
            if check.stage == "validate" and name in check.values
        }
        for model in group.models
    ]
    steps = sorted(set.intersection(*map(set, by_seed)))
    return (
        ([*map(float, steps)], [statistics.mean(seed[step] for seed in by_seed) for step in steps]) if steps else None
    )


def _sensitivity(results: Results, metric: str) -> Section | str:
    column = column_of(metric)
    plots, tables = [], []
    for label in dict.fromkeys(model.label for model in results.models):
        settings = results.settings(label, metric)
        if not settings:
            continue
        rows = sensitivity_rows(settings, column.title, column.scale, column.digits)
        keys = list(settings[0].values)
        varied = " and ".join(short_names(keys).values())
        text = f"{column.title} of {label} by {varied}. Best: {', '.join(map(': '.join, zip(*rows[:2], strict=True)))}."
        name = f"sensitivity_{re.sub(r'[^A-Za-z0-9]+', '_', label)}"
        figure = plot_sensitivity(settings, f"{label}: {varied}", column.title, column.scale, column.digits)
        plots.append(Plot(name, f"{label}: {column.title} by {varied}.", text, figure, rows))
        tables.append(Table(f"{label} by {varied}, the best first", rows))
    if not plots:
        return "No sensitivity: within no label do settings vary beside learning rate, interpolation and seed."
    text = (
        "What varies within a label, beside the seed. With more than two settings a panel averages over the others, "
        "which hides how they depend on each other."
    )
    return Section("Sensitivity", [text], plots, tables)


def _cost(records: Sequence[RunRecord], results: Results) -> Section:
    rows = [["label", "verb", "runs", "minutes each", "tokens each", "device hours"]]
    groups: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        groups.setdefault((results.labels[record.path], record.verb), []).append(record)
    fits = [record for record in records if record.verb == "fit"]
    for (label, verb), own in groups.items():
        whole = [
            trainings(record, fits) if verb == "fit" else [record]
            for record in own
            if record.state == "finished" and not results.roles[record.path].startswith("resumed")
        ]
        minutes = Column("", "").show([sum(map(seconds, parts)) / 60 for parts in whole]) if whole else MISSING
        tokens = [sum(part.num_tokens or 0 for part in parts) for parts in whole]
        shown_tokens = f"{statistics.mean(tokens):,.0f}" if any(tokens) else MISSING
        rows.append([label, verb, str(len(own)), minutes, shown_tokens, f"{sum(map(_device_hours, own)):.3f}"])
    text = (
        "Minutes and tokens (positions of the canvases that were trained on) are of the finished runs, with the runs "
        "that they resumed. Device hours are of all runs, those among them that were stopped or repeated. A killed run "
        "is known until it last wrote, and its tokens are not."
    )
    return Section("Cost", [text], tables=[Table("Time, tokens and device hours", rows)])


def _device_hours(record: RunRecord) -> float:
    if record.device_hours is not None:
        return record.device_hours
    return seconds(record) * record.environment["num_processes"] / 3600


def _runs(records: Sequence[RunRecord], results: Results) -> Section:
    settings = {model.record.path: model for model in (*results.base, *results.models)}
    environments: dict[tuple[str, ...], int] = {}
    rows = [
        [
            "run",
            "verb",
            "label",
            "seed",
            "settings",
            "state",
            "counts as",
            "commit",
            "environment",
            "data",
            "parent",
            "path",
        ]
    ]
    for record in records:
        model = settings.get(record.path)
        values = {} if model is None else model.settings
        names = short_names(list(values))
        shown = [f"{names[key]} {show_value(value)}" for key, value in values.items()]
        if model is not None and model.rate is not None:
            shown.append(f"lr {model.rate:g}")
        if model is not None and model.interpolation != 1:
            shown.append(f"interpolation {model.interpolation:g}")
        number = environments.setdefault(_environment(record), len(environments) + 1)
        rows.append(
            [
                record.run_id,
                record.verb,
                results.labels[record.path],
                str(record.seed if model is None else model.seed),
                ", ".join(shown) or MISSING,
                f"{record.state} {record.reason}".strip(),
                results.roles[record.path],
                commit(record) + (" + changes" if record.environment["is_git_dirty"] else ""),
                str(number),
                fingerprint(record)[:12] or MISSING,
                record.parent or MISSING,
                os.path.relpath(record.path),
            ]
        )
    head = ["environment", "Python", "versions", "platform", "processor", "threads", "memory, GiB", "GPUs", "processes"]
    table = [head, *([str(number), *parts] for parts, number in environments.items())]
    return Section("The runs", tables=[Table("Every run that was given", rows), Table("Where they ran", table)])


def _environment(record: RunRecord) -> tuple[str, ...]:
    content = record.environment
    return (
        content["python"],
        ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        content["platform"],
        f"{content['num_cpus']} x {content['cpu']}",
        str(content["num_threads"]),
        str(content["memory_gib"]),
        ", ".join(content["gpus"]) or MISSING,
        str(content["num_processes"]),
    )
