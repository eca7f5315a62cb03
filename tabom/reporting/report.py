"""What a page on finished runs says: sections made from the runs' own records."""

import os
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from tabom.errors import require
from tabom.reporting.benchmarks import benchmark_sections, collect_benchmarks
from tabom.reporting.comparison import (
    MISSING,
    Column,
    Frame,
    comparison_rows,
    grouped,
    short_names,
    show_value,
    table_rows,
)  # fmt: skip
from tabom.reporting.curves import CURVES, curve_positions, plot_lines
from tabom.reporting.frontier import frontier_rows, matched_levels, mean_gains, plot_frontiers
from tabom.reporting.page import Plot, Section, Table
from tabom.reporting.results import Model, Results
from tabom.reporting.sensitivity import plot_sensitivity, sensitivity_rows
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
    answers, roles = collect_benchmarks(records, results)
    results = replace(results, roles=results.roles | roles)
    names = sorted({name for model in results.compared for name in model.values})
    require(not names or metric in names, f"--metric: expected one of {', '.join(names)}, got {metric}")
    points, models = results.on_frontier(), [one.result.model for one in answers]
    methods = list(dict.fromkeys([*points["method"], *models]))
    known = ", ".join(methods) or "no method"
    require(baseline in (None, *methods), f"--baseline: expected one of {known}, got {baseline}")
    baseline, shown = baseline or BASELINE, results.shown(metric)
    parts: list[Section | str] = []
    if results.compared:
        parts += [_frontier(results, metric, baseline), _table(results), _along_curves(results.stage, shown, metric)]
        parts += [_forgetting(shown, metric), _sensitivity(results, metric)]
    parts += [*benchmark_sections(answers, baseline), _cost(records, results), _runs(records, results)]
    counts = [f"Runs: {len(records)}."]
    if results.compared:
        stage = {"test": "the test split", "validate": "the validation split, of a training at its last check"}
        counts.append(
            f"Models that are compared: {len(results.models)}, of {len(results.methods)} methods. "
            f"All numbers are measured on {stage[results.stage]}."
        )
    if answers:
        num_runs, num_models, num_benchmarks = (
            len(set(values))
            for values in zip(*((one.record.path, one.result.model, one.name) for one in answers), strict=True)
        )
        counts.append(
            f"Runs of benchmarks: {num_runs}. Models: {num_models}. Benchmarks: {num_benchmarks}. "
            "Their numbers are of the benchmarks' own questions."
        )
    missing = [part for part in parts if isinstance(part, str)]
    if results.num_left_out:
        missing.insert(0, f"Runs that do not count: {results.num_left_out}. The table of the runs says why of each.")
    about = Section("About this page", [" ".join(counts), *missing], warnings=results.warnings())
    return [about, *(part for part in parts if isinstance(part, Section))]


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
    points: Frame = results.on_frontier().reindex(columns=["method", "seed", "learning_rate", "kl", metric])
    points = points.dropna(subset=["kl", metric])
    bases = [model.values[metric] for model in results.base if metric in model.values]
    if points.empty:
        return "No frontier: no model has a KL from its base beside its accuracy."
    if not bases:
        return (
            f"No frontier: the base itself was not measured. Run tabom {results.stage} with the config of one of the "
            "methods and without a checkpoint, and give its directory as well."
        )
    if len(results.base_models) > 1:
        return "No frontier: the runs start from different base models. Give the runs of one base model at a time."
    accuracy = statistics.mean(bases)
    means = mean_gains(points, accuracy, metric)
    single = list(means["method"].drop_duplicates(keep=False))
    texts = [
        "A method is compared with the others at equal KL from the base, never at one learning rate: at one learning "
        "rate, methods differ in how far they went as well as in what they learnt.",
    ]
    if single:
        texts.append(f"With one learning rate, a method is a point and not compared: {', '.join(single)}.")
    compared = points[~points["method"].isin(single)]
    rows = table_rows(
        {
            "method": method,
            "learning rate or weight": show_value(rate),
            "seeds": str(num_seeds),
            "KL": f"{kl:.4f}",
            "gain, points": f"{gain:+.1f}",
        }
        for method, rate, num_seeds, kl, gain in means.itertuples(index=False)
    )
    words = [
        f"{method}: " + ", ".join(f"{row[4]} at KL {row[3]}" for row in own)
        for method, own in grouped(rows[1:], lambda row: row[0]).items()
    ]
    plot = Plot(
        "frontier",
        f"Points gained over the base ({100 * accuracy:.1f} %) in {_name(metric)}, against KL.",
        f"Accuracy points gained over the base against KL from it. {'; '.join(words)}.",
        plot_frontiers(points, accuracy, metric),
        rows,
    )
    tables = []
    if len(compared):
        caption = f"Accuracy at matched forgetting: {_name(metric)} in %, KL(base || model) in nats a token"
        if baseline in set(compared["method"]):
            caption += f"; in brackets the difference to {baseline} with the same seed ± its standard error"
        rows = frontier_rows(compared, accuracy, metric, matched_levels(compared), baseline)
        tables = [Table(f"{caption}; {MISSING}: not every seed goes so far", rows)]
    return Section("Gain against forgetting", texts, [plot], tables)


def _table(results: Results) -> Section:
    rows = results.rows()
    names = set(rows.columns[3:])
    accuracies = sorted(name for name in names if re.fullmatch(r"accuracy_\d+_per_step", name))
    main = [*map(column_of, accuracies), *(column for column in _COLUMNS if column.metric in names)]
    errors = {name for name in names if name.removesuffix("_error") in names - {name}}
    others = [column_of(name) for name in sorted(names - errors - {column.metric for column in main})]
    tables = [Table("Mean ± standard deviation over the seeds", comparison_rows(rows, main))]
    if others:
        tables.append(Table("All else that was measured", comparison_rows(rows, others)))
    text = (
        "NELBO change and KL(base || model): forgetting on text of the base domain, nats a token. TDS: trajectory "
        "discrimination score. Order agreement: share of pairs whose entropies stand in decoding order. "
        "Rows of one learning rate differ in how far they went: they are read off the frontier, not here."
    )
    return Section("Results", [text], tables=tables)


def _along_curves(stage: str, shown: Mapping[str, list[Model]], metric: str) -> Section | str:
    """Trajectory discrimination and entropy by step, cross-entropy by mask ratio."""
    plots, lines = [], {}
    for method, models in shown.items():
        measured = [model.record.curves[-1] for model in models if model.record.curves]
        for name in dict.fromkeys(name for one in measured for name in one.curves):
            own = [one for one in measured if name in one.curves]
            own = [one for one in own if one.mask_ratios == own[0].mask_ratios or not name.startswith("ce_")]
            line = pd.DataFrame([one.curves[name] for one in own], dtype=float).mean()
            line.index = pd.Index(curve_positions(name, len(line), own[0].mask_ratios))
            lines.setdefault(name, {})[method] = line
    for name, by_method in lines.items():
        answers = name.removeprefix("ce_").replace("_", " ")
        other = (f"Cross-entropy of held-out {answers} answers", "mask ratio", "nats a masked token")
        plots.append(_lines(f"{stage}_{name}", by_method, *CURVES.get(name, other)))
    if not plots:
        return "No curves by step or mask ratio: the runs recorded none."
    text = f"Lines are means over the seeds. {_AT_THEIR_BEST.format(metric=_name(metric))}"
    return Section("By denoising step and mask ratio", [text], plots)


def _lines(name: str, lines: Mapping[str, pd.Series], title: str, xlabel: str, ylabel: str) -> Plot:
    """A figure of one line a method, with its text and its numbers."""
    ends = [
        f"{method}: from {y.iloc[0]:.3g} at {y.index[0]:g} to {y.iloc[-1]:.3g} at {y.index[-1]:g}"
        for method, y in ((method, line.dropna()) for method, line in lines.items())
        if len(y)
    ]
    rows = [
        [f"{x:g}", *(MISSING if pd.isna(value) else f"{value:.4g}" for value in values)]
        for x, *values in pd.DataFrame(lines).sort_index().itertuples()
    ]
    figure = plot_lines({method: (list(y.index), list(y)) for method, y in lines.items()}, title, xlabel, ylabel)
    text = f"{title}: {ylabel} against {xlabel}, one line a method. {'; '.join(ends)}."
    return Plot(name, f"{title}: {ylabel} against {xlabel}.", text, figure, [[xlabel, *lines], *rows])


def _forgetting(shown: Mapping[str, list[Model]], metric: str) -> Section | str:
    """Checks on validation over the trainings."""
    column = column_of(metric)
    kinds = [("kl", "Forgetting", 1.0, "KL (nats)"), (metric, "Accuracy", column.scale, column.title)]
    plots = []
    for name, title, scale, ylabel in kinds:
        lines = {method: scale * _over_training(models, name) for method, models in shown.items()}
        lines = {method: line for method, line in lines.items() if len(line)}
        if lines:
            plots.append(_lines(f"training_{name}", lines, f"{title} over training", "optimizer step", ylabel))
    if not plots:
        return "No forgetting over training: no training with its checks on validation is among the runs."
    text = f"Checks on validation, means over the seeds. {_AT_THEIR_BEST.format(metric=_name(metric))}"
    return Section("Forgetting over training", [text], plots)


def _over_training(models: Sequence[Model], name: str) -> pd.Series:
    """Mean over the seeds at each step that all of them were checked at; what was resumed is one training."""
    by_seed = [
        {
            check.step: check.values[name]
            for training in model.trainings
            for check in training.checks
            if check.stage == "validate" and name in check.values
        }
        for model in models
    ]
    return pd.DataFrame(by_seed, dtype=float).dropna(axis="columns").mean().sort_index()


def _sensitivity(results: Results, metric: str) -> Section | str:
    column = column_of(metric)
    plots, tables = [], []
    for label in dict.fromkeys(model.label for model in results.models):
        settings = results.settings(label, metric)
        if not settings:
            continue
        rows = sensitivity_rows(settings, column)
        varied = " and ".join(short_names(list(settings[0].values)).values())
        text = f"{column.title} of {label} by {varied}. Best: {', '.join(map(': '.join, zip(*rows[:2], strict=True)))}."
        name = f"sensitivity_{re.sub(r'[^A-Za-z0-9]+', '_', label)}"
        figure = plot_sensitivity(settings, f"{label}: {varied}", column)
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
    rows = []
    for (label, verb), own in grouped(records, lambda record: (results.labels[record.path], record.verb)).items():
        whole = [
            results.trainings[record.path] if verb == "fit" else [record]
            for record in own
            if record.state == "finished" and not results.roles[record.path].startswith("resumed")
        ]
        tokens = [sum(part.num_tokens or 0 for part in parts) for parts in whole]
        rows.append(
            {
                "label": label,
                "verb": verb,
                "runs": str(len(own)),
                "minutes each": Column("", "").show(sum(part.known_seconds for part in parts) / 60 for parts in whole),
                "tokens each": f"{statistics.mean(tokens):,.0f}" if any(tokens) else MISSING,
                "device hours": f"{sum(record.known_device_hours for record in own):.3f}",
            }
        )
    text = (
        "Minutes and tokens (positions of the canvases that were trained on) are of the finished runs, with the runs "
        "that they resumed. Device hours are of all runs, those among them that were stopped or repeated. A killed run "
        "is known until it last wrote, and its tokens are not."
    )
    return Section("Cost", [text], tables=[Table("Time, tokens and device hours", table_rows(rows))])


def _runs(records: Sequence[RunRecord], results: Results) -> Section:
    models = {model.record.path: model for model in results.compared}
    environments = list(dict.fromkeys(tuple(_environment(record).items()) for record in records))
    rows = []
    for record in records:
        model = models.get(record.path)
        shown = [] if model is None else model.varied
        if model is not None and model.rate is not None:
            shown.append(f"lr {model.rate:g}")
        if model is not None and model.interpolation != 1:
            shown.append(f"interpolation {model.interpolation:g}")
        rows.append(
            {
                "run": record.run_id,
                "verb": record.verb,
                "label": results.labels[record.path],
                "seed": str(record.seed if model is None else model.seed),
                "settings": ", ".join(shown) or MISSING,
                "state": f"{record.state} {record.reason}".strip(),
                "counts as": results.roles[record.path],
                "commit": record.commit + (" + changes" if record.environment["is_git_dirty"] else ""),
                "environment": str(environments.index(tuple(_environment(record).items())) + 1),
                "data": record.data[:12] or MISSING,
                "parent": record.parent or MISSING,
                "path": os.path.relpath(record.path),
            }
        )
    where = table_rows({"environment": str(number)} | dict(parts) for number, parts in enumerate(environments, 1))
    tables = [Table("Every run that was given", table_rows(rows)), Table("Where they ran", where)]
    return Section("The runs", tables=tables)


def _environment(record: RunRecord) -> dict[str, str]:
    content = record.environment
    return {
        "Python": content["python"],
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        "platform": content["platform"],
        "processor": f"{content['num_cpus']} x {content['cpu']}",
        "threads": str(content["num_threads"]),
        "memory, GiB": str(content["memory_gib"]),
        "GPUs": ", ".join(content["gpus"]) or MISSING,
        "processes": str(content["num_processes"]),
    }
