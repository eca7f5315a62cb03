"""What a page on finished runs says: sections made from the runs' own records."""

import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pandas as pd

from tabom.errors import require
from tabom.reporting.bases import frontier_of_bases
from tabom.reporting.benchmarks import benchmark_sections, collect_benchmarks
from tabom.reporting.comparison import (
    MISSING,
    POINTS,
    Column,
    Frame,
    comparison_rows,
    grouped,
    short_names,
    show_value,
    table_rows,
)  # fmt: skip
from tabom.reporting.curves import CURVES, curve_positions, plot_lines
from tabom.reporting.findings import benchmark_finding, finding, score_of
from tabom.reporting.frontier import frontier_rows, matched_levels, mean_gains, plot_frontiers
from tabom.reporting.names import BASELINE, MAIN, METRIC, column_of, human_name, title_of
from tabom.reporting.page import Plot, Section, Table
from tabom.reporting.results import Model, Results
from tabom.reporting.runs import cost_section, runs_section
from tabom.reporting.sensitivity import plot_sensitivity, sensitivity_rows
from tabom.reporting.speed import speed_section
from tabom.storage.run_record import RunRecord

_AT_THEIR_BEST = "A method with several learning rates is shown at the one with the highest mean {metric}."
_MEASURES = """A value is followed by ± its standard error over the questions or texts that it was measured on, where \
the runs recorded one; in brackets is the standard deviation over the seeds. Bold: the best after post-training. Gain: \
points over the base ± the standard error of questions and seeds together. KL(base ‖ model) and NELBO change: \
forgetting on text of the base domain, in nats per token. TDS: trajectory discrimination score. Order agreement: share \
of the pairs whose entropies are in decoding order. Rows differ in how far they went from the base as well as in what \
they learnt: the frontier compares methods at equal forgetting."""


def sections(
    records: Sequence[RunRecord],
    results: Results,
    metric: str = METRIC,
    baseline: str | None = None,
    levels: Sequence[float] | None = None,
) -> list[Section]:
    """All sections that the runs have data for; the first says what was found, and what was left out.

    Args:
        records: All runs that were given.
        results: Of them.
        metric: Accuracy that is set against forgetting.
        baseline: Method, or model in benchmarks, that differences are taken to; None is ``sft_sd`` where there is one.
        levels: KL at which methods are compared; None are those that all of them reach.

    Raises:
        TabomError: If runs were measured but none has the metric, or none is of the baseline.
    """
    answers, roles = collect_benchmarks(records, results)
    results = replace(results, roles=results.roles | roles)
    names = sorted({name for model in results.compared for name in model.values if not name.endswith("_error")})
    require(not names or metric in names, f"--metric: expected one of {', '.join(names)}, got {metric}")
    points, models = results.on_frontier(), [one.result.model for one in answers]
    methods = list(dict.fromkeys([*points["method"], *models]))
    known = ", ".join(methods) or "no method"
    is_known = baseline is None or baseline in models or human_name(baseline) in methods
    require(is_known, f"--baseline: expected one of {known}, got {baseline}")
    baseline, shown = baseline or BASELINE, results.shown(metric)
    parts: list[Section | str] = []
    if results.compared:
        frontier = frontier_of_bases if results.has_bases else _frontier
        parts += [_sensitivity(results, metric), _table(results)]
        parts += [frontier(results, metric, human_name(baseline), levels)]
        parts += [_before_and_after(results, metric), _along_curves(results.stage, shown, metric)]
        parts += [_training(shown, metric)]
    parts += [
        speed_section(shown, answers),
        *benchmark_sections(answers, baseline),
        cost_section(records, results),
        runs_section(records, results),
    ]
    shown_parts = [part for part in parts if isinstance(part, Section)]
    missing = [part for part in parts if isinstance(part, str)]
    shown_parts[-1].paragraphs.extend(missing)
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
    texts = [" ".join(counts)]
    if results.num_left_out:
        texts.append(f"Runs that do not count: {results.num_left_out}. The table of the runs says why of each.")
    lead = " ".join(filter(None, [finding(results, metric, baseline, levels), benchmark_finding(answers)]))
    found = Section("In short", texts, warnings=results.warnings(), lead=lead)
    return [found, *shown_parts]


def about(paths: Iterable[Path], records: Sequence[RunRecord]) -> str:
    """Where the runs are, when they were made, and from which commits.

    Args:
        paths: That were given; of more than two the directory that they share.
        records: At least one, by time.
    """
    places = [str(path) for path in paths]
    if len(places) > 2:
        places = [os.path.commonpath([os.path.relpath(place) for place in places])]
    first, *_, last = (
        datetime.fromisoformat(record.time).strftime("%-d %B %Y") for record in (records[0], records[-1])
    )
    days = first if first == last else f"{first} to {last}"
    commits = ", ".join(dict.fromkeys(record.commit for record in records))
    return f"{', '.join(places)} · {days} · commit {commits}"


def _frontier(results: Results, metric: str, baseline: str, levels: Sequence[float] | None) -> Section | str:
    """Accuracy gained against forgetting, and the table at matched forgetting."""
    points: Frame = results.on_frontier().reindex(
        columns=["method", "seed", "learning_rate", "kl", metric, f"{metric}_error"]
    )
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
        return (
            "No frontier: the runs start from different base models, of which not every one was measured. Run tabom "
            f"{results.stage} without a checkpoint for each, or give the runs of one base model at a time."
        )
    accuracy = statistics.mean(bases)
    means = mean_gains(points, accuracy, metric)
    single = list(means["method"].drop_duplicates(keep=False))
    texts = [
        "Methods are compared at equal KL from the base, never at one learning rate: at one learning rate they differ "
        "in how far they went as well as in what they learnt.",
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
        for method, rate, num_seeds, kl, gain, _ in means.itertuples(index=False)
    )
    words = [
        f"{method}: " + ", ".join(f"{row[4]} at KL {row[3]}" for row in own)
        for method, own in grouped(rows[1:], lambda row: row[0]).items()
    ]
    plot = Plot(
        "frontier",
        f"Points gained over the base ({100 * accuracy:.1f} %) in {title_of(metric)}, against KL.",
        f"Accuracy points gained over the base against KL from it. {'; '.join(words)}.",
        plot_frontiers(points, accuracy, metric),
        rows,
    )
    tables = []
    if len(compared):
        caption = f"Accuracy at matched forgetting: {title_of(metric)} in %, KL(base || model) in nats per token"
        if baseline in set(compared["method"]):
            caption += f"; in brackets the difference to {baseline} with the same seed ± its standard error"
        rows = frontier_rows(compared, accuracy, metric, levels or matched_levels(compared), baseline)
        tables = [Table(f"{caption}; {MISSING}: not every seed goes so far", rows)]
    return Section("Gain against forgetting", texts, [plot], tables)


def _table(results: Results) -> Section:
    rows = results.rows()
    names = {name for name in rows.columns[3:] if not name.endswith("_error") or "calibration" in name}
    accuracies = sorted(name for name in names if re.fullmatch(r"accuracy_\d+_per_step", name))
    main = [*map(column_of, accuracies), *(column for column in MAIN if column.metric in names)]
    others = [column_of(name) for name in sorted(names - {column.metric for column in main})]
    replicates = "bases" if results.has_bases else "seeds"
    cells = comparison_rows(rows, main, replicates)
    best = _best(rows, cells, main)
    for name in reversed(accuracies):
        place = cells[0].index(column_of(name).heading) + 1
        gains = _gain_cells(results, name)
        if gains:
            cells = [
                [*row[:place], new, *row[place:]] for row, new in zip(cells, ["gain, points ↑", *gains], strict=True)
            ]
            best = frozenset((i, j + (j >= place)) for i, j in best)
    tables = [Table("After post-training", cells, best)]
    if others:
        cells = comparison_rows(rows, others, replicates)
        if len(cells) < len(cells[0]):
            cells = list(map(list, zip(*cells, strict=True)))
        tables.append(Table("All else that was measured", cells, is_folded=True))
    return Section("Results", [_MEASURES], tables=tables)


def _best(rows: Frame, cells: Sequence[Sequence[str]], columns: Sequence[Column]) -> frozenset[tuple[int, int]]:
    """Cells of the best mean in each column that has a better direction, among several that are not the base."""
    groups = rows.groupby(["method", "learning_rate"], sort=False, dropna=False)
    found: set[tuple[int, int]] = set()
    for column in columns:
        means = groups[column.metric].mean().to_numpy()
        numbered = [
            (mean, number) for number, mean in enumerate(means, 1) if mean == mean and cells[number][0] != "base"
        ]
        if column.better and len(numbered) > 1:
            value = (max if column.better == "↑" else min)(numbered)[0]
            found |= {(i, cells[0].index(column.heading)) for mean, i in numbered if mean == value}
    return frozenset(found)


def _gain_cells(results: Results, metric: str) -> list[str]:
    """Points over the base, one cell a row of the results; empty where a base has no such accuracy."""

    def row(model: Model) -> tuple[object, ...]:
        return model.method, model.rate, model.interpolation

    gains: dict[tuple[object, ...], list[tuple[float, float]]] = {row(model): [] for model in results.compared}
    for own in results.by_base().values() if results.has_bases else [results]:
        base = score_of("", own.base, metric)
        if base is None:
            return []
        for place, models in grouped(own.models, row).items():
            if score := score_of("", models, metric):
                gains[place].append(score.less(base))
    return [_gain_cell(cells) for cells in gains.values()]


def _gain_cell(gains: Sequence[tuple[float, float]]) -> str:
    """One gain and its error, or the mean of several bases' and its error over them."""
    if len(gains) < 2:
        return POINTS.with_error(*gains[0]) if gains else MISSING
    differences = [difference for difference, _ in gains]
    return POINTS.with_error(statistics.mean(differences), statistics.stdev(differences) / len(gains) ** 0.5)


def _before_and_after(results: Results, metric: str) -> Section | str:
    """One question that the base answered wrong, and as many of the models right as there are for any."""
    shown = {name: models[0].record.samples for name, models in results.shown(metric).items()}
    before = shown.pop("base", [])
    num = min(map(len, shown.values()), default=0)
    if not before or not num:
        return "No answers before and after: the tests did not keep any, or there is none of the base."

    def gained(number: int) -> int:
        return sum(rows[number].is_correct for rows in shown.values()) * (1 - before[number].is_correct)

    number = max(range(min(num, len(before))), key=gained)
    question = before[number]
    same = {name: rows[number] for name, rows in shown.items() if rows[number].prompt == question.prompt}
    rows = table_rows(
        {"model": name, "answer": answer.response, "verdict": "right" if answer.is_correct else "wrong"}
        for name, answer in {"base": question, **same}.items()
    )
    texts = [f"Question: {question.prompt}", f"A right answer: {question.reference}"]
    caption = "One question before and after post-training, of the first seed of each method"
    return Section("An answer before and after", texts, tables=[Table(caption, rows)])


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
        other = (f"Cross-entropy of held-out {answers} answers", "mask ratio", "nats per masked token")
        plots.append(_lines(f"{stage}_{name}", by_method, *CURVES.get(name, other)))
    if not plots:
        return "No curves by step or mask ratio: the runs recorded none."
    text = f"Lines are means over the seeds. {_AT_THEIR_BEST.format(metric=title_of(metric))}"
    return Section("By denoising step and mask ratio", [text], plots)


def _lines(name: str, lines: Mapping[str, pd.Series], title: str, xlabel: str, ylabel: str) -> Plot:
    """A figure of one line per method, with its text and its numbers."""
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
    text = f"{title}: {ylabel} against {xlabel}, one line per method. {'; '.join(ends)}."
    return Plot(name, f"{title}: {ylabel} against {xlabel}.", text, figure, [[xlabel, *lines], *rows])


def _training(shown: Mapping[str, list[Model]], metric: str) -> Section | str:
    """Checks on validation over the trainings, and what was logged of the training itself."""
    column = column_of(metric)
    kinds = [
        ("validate", "kl", "Forgetting", 1.0, "KL (nats per token)"),
        ("validate", metric, "Accuracy", column.scale, column.title),
        ("train", "loss", "Loss", 1.0, "loss of each method's own objective"),
        ("train", "learning_rate", "Learning rate", 1.0, "learning rate"),
        ("train", "gradient_norm", "Gradient", 1.0, "norm of the gradient"),
    ]
    plots = []
    for stage, name, title, scale, ylabel in kinds:
        lines = {method: scale * _over_training(models, stage, name) for method, models in shown.items()}
        lines = {method: line for method, line in lines.items() if len(line)}
        if lines:
            plots.append(_lines(f"training_{name}", lines, f"{title} over training", "optimizer step", ylabel))
    if not plots:
        return "No curves over training: no training with its checks on validation is among the runs."
    text = f"Means over the seeds. {_AT_THEIR_BEST.format(metric=title_of(metric))}"
    return Section("Over training", [text], plots)


def _over_training(models: Sequence[Model], stage: str, name: str) -> pd.Series:
    """Mean over the seeds at each step that all of them have; what was resumed is one training."""
    by_seed = [
        {
            check.step: check.values[name]
            for training in model.trainings
            for check in training.checks
            if check.stage == stage and name in check.values
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
        varied = " and ".join(map(human_name, short_names(list(settings[0].values)).values()))
        method = human_name(label)
        text = (
            f"{column.title} of {method} by {varied}. Best: {', '.join(map(': '.join, zip(*rows[:2], strict=True)))}."
        )
        name = f"sensitivity_{re.sub(r'[^A-Za-z0-9]+', '_', label)}"
        figure = plot_sensitivity(settings, f"{method}: {varied}", column)
        plots.append(Plot(name, f"{method}: {column.title} by {varied}.", text, figure, rows))
        tables.append(Table(f"{method} by {varied}, the best first", rows))
    if not plots:
        return "No sensitivity: within no label do settings vary beside learning rate, interpolation and seed."
    text = (
        "What varies within a method, beside the seed. In a figure ± is the standard deviation over the seeds. With "
        "more than two settings a panel averages over the others, which hides how they depend on each other."
    )
    return Section("Sensitivity", [text], plots, tables)
