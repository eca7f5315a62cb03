"""What is measured of models, and how it is shown: groups, means with their errors, tables."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pandas as pd
from rich import table

MISSING = "-"
Rows = list[list[str]]
Frame = Any
"""A ``pandas.DataFrame``, whose own annotations lose their way behind a ``groupby``."""
Value = float | str
_Item = TypeVar("_Item")
_Key = TypeVar("_Key", bound=Hashable)


@dataclass(frozen=True)
class Column:
    """How one metric is shown.

    Attributes:
        metric: Name of what was measured.
        title: Heading.
        scale: Factor before rounding.
        digits: After the decimal point.
        is_signed: Whether a plus sign is shown.
        better: ``↑`` or ``↓`` where higher or lower values are better, else empty.
    """

    metric: str
    title: str
    scale: float = 1.0
    digits: int = 1
    is_signed: bool = False
    better: str = ""

    @property
    def heading(self) -> str:
        """Title and arrow."""
        return f"{self.title} {self.better}".rstrip()

    def with_error(self, value: float, error: float | None) -> str:
        """A value, and its error where there is one, neither None nor NaN.

        >>> Column("gain", "points gained", scale=100, is_signed=True).with_error(0.125, 0.01)
        '+12.5 ± 1.0'
        """
        text = f"{self.scale * value:{'+' if self.is_signed else ''}.{self.digits}f}"
        return text if error is None or math.isnan(error) else f"{text} ± {self.scale * error:.{self.digits}f}"

    def show(self, values: Iterable[float | None]) -> str:
        """Mean, and standard deviation over seeds where there are several; a dash where there is no value."""
        known: Any = pd.Series(list(values), dtype=float).dropna()
        return self.with_error(known.mean(), known.std()) if len(known) else MISSING

    def measured(
        self, values: Iterable[float | None], errors: Iterable[float | None] = (), replicates: str = "seeds"
    ) -> str:
        """Mean over the replicates ± its standard error over the questions, and their standard deviation.

        >>> Column("accuracy", "accuracy, %", scale=100).measured([0.4, 0.6], [0.02, 0.02])
        '50.0 ± 2.0 (seeds ± 14.1)'
        """
        known, error = (cast("Any", pd.Series(list(part), dtype=float).dropna()) for part in (values, errors))
        if not len(known):
            return MISSING
        spread = f" ({replicates} ± {self.scale * known.std():.{self.digits}f})" if len(known) > 1 else ""
        return self.with_error(known.mean(), error.mean()) + spread


PERCENT = Column("", "", scale=100)
POINTS = Column("", "", scale=100, is_signed=True)


def show_value(value: Value | None) -> str:
    """Six significant digits of a number; a dash for None and NaN.

    >>> [show_value(value) for value in (0.001, 8, "logistic", None)]
    ['0.001', '8', 'logistic', '-']
    """
    if isinstance(value, str):
        return value
    return MISSING if value is None or math.isnan(value) else f"{value:g}"


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


def measurements(models: Iterable[tuple[str, int, float | None, Mapping[str, float]]]) -> Frame:
    """One row a model, from method, seed, learning rate (None leaves it to the method) and values by metric.

    Returns:
        Columns ``method``, ``seed``, ``learning_rate``, and the metrics; NaN where there is no value.
    """
    rows = list(models)
    names = pd.DataFrame([row[:3] for row in rows], columns=["method", "seed", "learning_rate"])
    return names.astype({"learning_rate": float}).join(pd.DataFrame([row[3] for row in rows], dtype=float))


def comparison_rows(results: Frame, columns: Sequence[Column], replicates: str = "seeds") -> Rows:
    """Head, then one row a method and learning rate, in order of first appearance.

    Args:
        results: As :func:`measurements` makes them; standard errors of ``NAME`` are in ``NAME_error``.
        columns: That are shown.
        replicates: What the column ``seed`` counts.

    Returns:
        Method, learning rate (only if they differ), number of replicates, then the columns as :meth:`Column.measured`
        shows them; a dash where no seed has the metric.
    """
    has_rates = len(set(results["learning_rate"].dropna())) > 1
    return table_rows(
        {"method": str(method)}
        | ({"learning rate": show_value(rate)} if has_rates else {})
        | {replicates: str(len(group))}
        | {
            column.heading: column.measured(
                group.get(column.metric, ()), group.get(f"{column.metric}_error", ()), replicates
            )
            for column in columns
        }
        for (method, rate), group in results.groupby(["method", "learning_rate"], sort=False, dropna=False)
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
