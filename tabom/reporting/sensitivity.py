"""How much a metric depends on what was varied: a table and a figure over the settings of finished runs."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tabom.reporting.comparison import MISSING, Column
from tabom.reporting.figures import COLORS

Value = float | str
_MAX_TICKS = 6  # up to which every value is written below the axis
_LOG_RATIO = 30  # from which on positive values are drawn on a logarithmic scale


@dataclass(frozen=True)
class Setting:
    """One finished run.

    Attributes:
        values: Of the varied keys, by key; the same keys in every run. The seed is none of them.
        seed: Of the run.
        metric: What it reached.
    """

    values: dict[str, Value]
    seed: int
    metric: float


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, and as many more as tell it from the others.

    >>> short_names(["a.ranking.margin", "a.window", "b.window"])
    {'a.ranking.margin': 'margin', 'a.window': 'a.window', 'b.window': 'b.window'}
    """

    def end(key: str, num_parts: int) -> str:
        return ".".join(key.split(".")[-num_parts:])

    longest = max((key.count(".") + 1 for key in keys), default=0)
    lengths = {
        key: next(n for n in range(1, longest + 1) if [end(other, n) for other in keys].count(end(key, n)) == 1)
        for key in keys
    }
    return {key: end(key, length) for key, length in lengths.items()}


def sensitivity_rows(
    settings: Sequence[Setting],
    title: str,
    scale: float = 1.0,
    digits: int = 1,
    goal: Literal["maximize", "minimize"] = "maximize",
) -> list[list[str]]:
    """Head, then one row a combination of values, the best mean first and marked.

    Args:
        settings: At least one.
        title: Of the metric.
        scale: Factor before rounding.
        digits: After the decimal point.
        goal: Which mean is the best.

    Returns:
        The values, number of seeds, and mean ± standard deviation over the seeds.
    """
    keys = list(settings[0].values)
    names = short_names(keys)
    column = Column("", title, scale, digits)
    groups = sorted(
        _by_values(settings, keys).items(),
        key=lambda item: statistics.mean(item[1]),
        reverse=goal == "maximize",
    )
    rows = [[*names.values(), "seeds", title]]
    for index, (values, metrics) in enumerate(groups):
        mark = " (best)" if index == 0 and len(groups) > 1 else ""
        rows.append([*map(show_value, values), str(len(metrics)), column.show(metrics) + mark])
    return rows


def show_value(value: Value | None) -> str:
    """Six significant digits of a number; a dash for nothing.

    >>> [show_value(value) for value in (0.001, 8, "logistic", None)]
    ['0.001', '8', 'logistic', '-']
    """
    if value is None:
        return MISSING
    return value if isinstance(value, str) else f"{value:g}"


def plot_sensitivity(
    settings: Sequence[Setting], title: str, ylabel: str, scale: float = 1.0, digits: int = 1
) -> Figure:
    """One varied key: mean and spread over the seeds. Two that form a grid: a heat map. Else one panel a key.

    A panel shows every run as a point, and the mean over the other keys as a line where they share a value.

    Args:
        settings: At least one.
        title: Of the figure.
        ylabel: The metric, with its unit.
        scale: Factor of the metric.
        digits: After the point, in the cells of a heat map.
    """
    keys = list(settings[0].values)
    if len(keys) == 2 and _is_grid(settings, keys):
        return _heat_map(settings, keys, title, ylabel, Column("", "", scale, digits))
    num_columns = min(2, len(keys))
    num_rows = -(-len(keys) // num_columns)
    figure = Figure(figsize=(6, 3.2 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False, sharey=True).ravel()
    for key, name, axes in zip(keys, short_names(keys).values(), panels, strict=False):
        groups = _by_values(settings, [key])
        _panel(axes, groups, scale, is_joined=len(keys) == 1 or len(groups) < len(settings))
        axes.set_xlabel(name)
        axes.grid(alpha=0.3)
    for axes in panels[len(keys) :]:
        axes.set_axis_off()
    for axes in panels[::num_columns]:
        axes.set_ylabel(ylabel)
    figure.suptitle(title)
    return figure


def _by_values(settings: Sequence[Setting], keys: Sequence[str]) -> dict[tuple[Value, ...], list[float]]:
    """Metrics of the runs that share the values of some keys, in the order of the values."""
    groups: dict[tuple[Value, ...], list[float]] = {}
    for setting in settings:
        groups.setdefault(tuple(setting.values[key] for key in keys), []).append(setting.metric)
    return dict(sorted(groups.items(), key=lambda item: tuple(map(_order, item[0]))))


def _order(value: Value) -> tuple[bool, float, str]:
    """Numbers before words."""
    return (True, 0.0, value) if isinstance(value, str) else (False, value, "")


def _values(settings: Sequence[Setting], key: str) -> list[Value]:
    return sorted({setting.values[key] for setting in settings}, key=_order)


def _is_grid(settings: Sequence[Setting], keys: Sequence[str]) -> bool:
    """Whether the runs fill at least half of the combinations of their values."""
    num_cells = int(np.prod([len(_values(settings, key)) for key in keys]))
    return 2 * len(_by_values(settings, keys)) >= num_cells


def _panel(axes: Axes, groups: Mapping[tuple[Value, ...], list[float]], scale: float, *, is_joined: bool) -> None:
    values = [value for (value,) in groups]
    is_numeric = not any(isinstance(value, str) for value in values)
    positions = np.array(values if is_numeric else range(len(values)), dtype=float)
    if is_numeric and positions.min() > 0 and positions.max() / positions.min() >= _LOG_RATIO:
        axes.set_xscale("log")
    elif not is_numeric or len(values) <= _MAX_TICKS:
        axes.set_xticks(positions, [show_value(value) for value in values])
    metrics = [[scale * metric for metric in group] for group in groups.values()]
    points = np.repeat(positions, [len(group) for group in metrics])
    axes.scatter(points, np.concatenate(metrics), s=14, color=COLORS[1], alpha=0.5)
    if is_joined:
        spread = [statistics.stdev(group) if len(group) > 1 else 0.0 for group in metrics]
        means = [statistics.mean(group) for group in metrics]
        axes.errorbar(positions, means, spread, color=COLORS[2], marker="D", markersize=5, capsize=3, linewidth=1.3)


def _heat_map(settings: Sequence[Setting], keys: Sequence[str], title: str, label: str, shown: Column) -> Figure:
    rows, columns = (_values(settings, key) for key in keys)
    groups = _by_values(settings, keys)
    means = np.array(
        [[shown.scale * statistics.mean(groups.get((row, column), [np.nan])) for column in columns] for row in rows]
    )
    figure = Figure(figsize=(2.2 + 1.1 * len(columns), 1.6 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(means, cmap="cividis", aspect="auto")
    figure.colorbar(image, label=label)
    for (i, row), (j, other) in ((r, c) for r in enumerate(rows) for c in enumerate(columns)):
        if (row, other) in groups:
            red, green, blue, _ = image.to_rgba(means[i, j])
            is_light = 0.2126 * red + 0.7152 * green + 0.0722 * blue > 0.45
            color = "#111111" if is_light else "#ffffff"
            text = shown.show(groups[row, other]).replace(" ± ", "\n± ")
            axes.text(j, i, text, ha="center", va="center", color=color, fontsize="small")
    names = short_names(keys)
    axes.set_xticks(range(len(columns)), [show_value(value) for value in columns])
    axes.set_yticks(range(len(rows)), [show_value(value) for value in rows])
    axes.set(xlabel=names[keys[1]], ylabel=names[keys[0]], title=title)
    return figure
