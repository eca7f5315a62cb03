"""How much a metric depends on what was varied: a table and a figure over the settings of finished runs."""

import statistics
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tabom.reporting.comparison import Column, Rows, Value, grouped, short_names, show_value
from tabom.reporting.curves import COLORS
from tabom.reporting.names import human_name

_MAX_TICKS = 6  # up to which every value is written below the axis
_LOG_RATIO = 30  # from which on positive values are drawn on a logarithmic scale
Groups = dict[tuple[Value, ...], list[float]]


class Setting(NamedTuple):
    """One finished run.

    Attributes:
        values: Of the varied keys, by key; the same keys in every run. The seed is none of them.
        metric: What it reached.
        error: Its standard error over the questions; None where it is unknown.
    """

    values: dict[str, Value]
    metric: float
    error: float | None = None


def sensitivity_rows(
    settings: Sequence[Setting], column: Column, goal: Literal["maximize", "minimize"] = "maximize"
) -> Rows:
    """Head, then one row a combination of values, the best mean first and marked.

    Args:
        settings: At least one.
        column: How the metric is shown.
        goal: Which mean is the best.

    Returns:
        The values, number of seeds, and the metric as :meth:`Column.measured` shows it.
    """
    keys = list(settings[0].values)
    groups = _by_values(settings, keys)
    errors = grouped(settings, lambda setting: tuple(setting.values[key] for key in keys))
    best_first = sorted(groups, key=lambda values: statistics.mean(groups[values]), reverse=goal == "maximize")
    rows = [
        [*map(show_value, key), str(len(groups[key])), column.measured(groups[key], (one.error for one in errors[key]))]
        for key in best_first
    ]
    if len(rows) > 1:
        rows[0][-1] += " (best)"
    return [[*map(human_name, short_names(keys).values()), "seeds", column.heading], *rows]


def plot_sensitivity(settings: Sequence[Setting], title: str, column: Column) -> Figure:
    """One varied key: mean and spread over the seeds. Two that form a grid: a heat map. Else one panel a key.

    A panel shows every run as a point, and the mean over the other keys as a line where they share a value.

    Args:
        settings: At least one.
        title: Of the figure.
        column: How the metric is shown.
    """
    keys = list(settings[0].values)
    levels = [[value for (value,) in _by_values(settings, [key])] for key in keys]
    groups = _by_values(settings, keys)
    if len(keys) == 2 and 2 * len(groups) >= len(levels[0]) * len(levels[1]):
        figure, axes = _heat_map(groups, levels[0], levels[1], column)
        columns, rows = (human_name(short_names(keys)[key]) for key in reversed(keys))
        axes.set(xlabel=columns, ylabel=rows, title=title)
        return figure
    num_columns = min(2, len(keys))
    num_rows = -(-len(keys) // num_columns)
    figure = Figure(figsize=(6, 3.2 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).ravel()
    for key, name, axes in zip(keys, short_names(keys).values(), panels, strict=False):
        groups = _by_values(settings, [key])
        _panel(axes, groups, column.scale, is_joined=len(keys) == 1 or len(groups) < len(settings))
        axes.set_xlabel(human_name(name))
        axes.grid(alpha=0.3)
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    for axes in panels[::num_columns]:
        axes.set_ylabel(column.title)
    figure.suptitle(title)
    return figure


def _by_values(settings: Sequence[Setting], keys: Sequence[str]) -> Groups:
    """Metrics of the runs that share the values of some keys, in the order of the values: numbers before words."""
    groups = grouped(settings, lambda setting: tuple(setting.values[key] for key in keys))
    order = sorted(groups, key=lambda values: [(isinstance(value, str), value) for value in values])
    return {values: [setting.metric for setting in groups[values]] for values in order}


def _panel(axes: Axes, groups: Groups, scale: float, *, is_joined: bool) -> None:
    values: list[Any] = [value for (value,) in groups]
    if any(isinstance(value, str) for value in values):
        values = list(map(show_value, values))  # an axis of words
    elif min(values) > 0 and max(values) / min(values) >= _LOG_RATIO:
        axes.set_xscale("log")
    elif len(values) <= _MAX_TICKS:
        axes.set_xticks(values, map(show_value, values))
    runs = [(value, scale * metric) for value, group in zip(values, groups.values(), strict=True) for metric in group]
    axes.scatter(*zip(*runs, strict=True), s=14, color=COLORS[1], alpha=0.5)
    if is_joined:
        metrics = [scale * np.array(group) for group in groups.values()]
        spread = [group.std(ddof=1) if len(group) > 1 else 0.0 for group in metrics]
        means = [group.mean() for group in metrics]
        axes.errorbar(values, means, spread, color=COLORS[2], marker="D", markersize=5, capsize=3, linewidth=1.3)


def _heat_map(groups: Groups, rows: Sequence[Value], columns: Sequence[Value], shown: Column) -> tuple[Figure, Axes]:
    """Means as colours, and in words in each cell that has runs."""
    means = np.array([[shown.scale * np.mean(groups.get((row, column), np.nan)) for column in columns] for row in rows])
    figure = Figure(figsize=(2.2 + 1.1 * len(columns), 1.6 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(means, cmap="cividis", aspect="auto")
    figure.colorbar(image, label=shown.title)
    for (row, column), group in groups.items():
        i, j = rows.index(row), columns.index(column)
        red, green, blue, _ = image.to_rgba(means[i, j])
        color = "#111111" if 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45 else "#ffffff"
        text = shown.show(group).replace(" ± ", "\n± ")
        axes.text(j, i, text, ha="center", va="center", color=color, fontsize="small")
    axes.set_xticks(range(len(columns)), map(show_value, columns))
    axes.set_yticks(range(len(rows)), map(show_value, rows))
    return figure, axes
