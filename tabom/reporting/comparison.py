"""What is measured of models, and how it is shown: groups, means with their errors, tables."""

import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from rich import table

MISSING = "-"
Rows = list[list[str]]
Value = float | str
_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class MethodResult:
    """One trained and tested model.

    Attributes:
        method: Row of the table.
        seed: Of its post-training.
        metrics: Test results by name.
        learning_rate: Of its post-training, where it is not the one of the method's config.
    """

    method: str
    seed: int
    metrics: dict[str, float]
    learning_rate: float | None = None


@dataclass(frozen=True)
class Column:
    """How one metric is shown.

    Attributes:
        metric: Key in :attr:`MethodResult.metrics`.
        title: Heading.
        scale: Factor before rounding.
        digits: After the decimal point.
        is_signed: Whether a plus sign is shown.
    """

    metric: str
    title: str
    scale: float = 1.0
    digits: int = 1
    is_signed: bool = False

    def with_error(self, value: float, error: float | None) -> str:
        """A value, and its error where there is one.

        >>> Column("gain", "points gained", scale=100, is_signed=True).with_error(0.125, 0.01)
        '+12.5 ± 1.0'
        """
        text = f"{self.scale * value:{'+' if self.is_signed else ''}.{self.digits}f}"
        return text if error is None else f"{text} ± {self.scale * error:.{self.digits}f}"

    def show(self, values: Iterable[float]) -> str:
        """Mean, and standard deviation over seeds where there are several; a dash where there is no value."""
        values = list(values)
        if not values:
            return MISSING
        return self.with_error(statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None)

    def show_of(self, measured: Iterable[Mapping[str, float]]) -> str:
        """The same for the metric of models, as far as they have it."""
        return self.show(metrics[self.metric] for metrics in measured if self.metric in metrics)


PERCENT = Column("", "", scale=100)
POINTS = Column("", "", scale=100, is_signed=True)


def show_value(value: Value | None) -> str:
    """Six significant digits of a number; a dash for nothing.

    >>> [show_value(value) for value in (0.001, 8, "logistic", None)]
    ['0.001', '8', 'logistic', '-']
    """
    if value is None:
        return MISSING
    return value if isinstance(value, str) else f"{value:g}"


def short_names(keys: Sequence[str]) -> dict[str, str]:
    """The last part of each dotted key, and as many more as tell it from the others.

    >>> short_names(["a.ranking.margin", "a.window", "b.window"])
    {'a.ranking.margin': 'margin', 'a.window': 'a.window', 'b.window': 'b.window'}
    """
    ends = {key: [".".join(key.split(".")[-n:]) for n in range(1, key.count(".") + 2)] for key in keys}
    return {
        key: next((end for end in own if sum(end in others for others in ends.values()) == 1), key)
        for key, own in ends.items()
    }


def grouped(items: Iterable[_Item], key: Callable[[_Item], _Key]) -> dict[_Key, list[_Item]]:
    """Items by what they share, in order of first appearance.

    >>> grouped([1, 2, 3], lambda number: number % 2)
    {1: [1, 3], 0: [2]}
    """
    groups: dict[_Key, list[_Item]] = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups


def comparison_rows(results: Iterable[MethodResult], columns: Sequence[Column]) -> Rows:
    """Head, then one row a method and learning rate, in order of first appearance.

    Returns:
        Method, learning rate (only if a result has one), number of seeds, then the columns; a dash where no seed has
        the metric.
    """
    groups = grouped(results, lambda result: (result.method, result.learning_rate))
    has_rates = any(rate is not None for _, rate in groups)
    return table_rows(
        {"method": method}
        | ({"learning rate": show_value(rate)} if has_rates else {})
        | {"seeds": str(len(group))}
        | {column.title: column.show_of(result.metrics for result in group) for column in columns}
        for (method, rate), group in groups.items()
    )


def table_rows(rows: Iterable[Mapping[str, str]]) -> Rows:
    """Head and rows of a table whose cells are given by column."""
    first, *others = rows
    return [[*first], *([*row.values()] for row in (first, *others))]


def rich_table(rows: Rows, title: str) -> table.Table:
    """A head and rows for a terminal."""
    first, *others = rows[0]
    columns = [table.Column(first, no_wrap=True), *(table.Column(name, justify="right") for name in others)]
    shown = table.Table(*columns, title=title)
    for row in rows[1:]:
        shown.add_row(*row)
    return shown


def markdown_table(rows: Rows) -> str:
    """A head and rows for a README."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
