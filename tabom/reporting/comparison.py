"""The table that compares methods over seeds, and how tables are written."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table

MISSING = "-"


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

    def show(self, values: Sequence[float]) -> str:
        """Mean, and standard deviation over seeds where there are several."""
        scaled = [self.scale * value for value in values]
        sign = "+" if self.is_signed else ""
        mean = f"{statistics.mean(scaled):{sign}.{self.digits}f}"
        return f"{mean} ± {statistics.stdev(scaled):.{self.digits}f}" if len(scaled) > 1 else mean


def comparison_rows(results: Sequence[MethodResult], columns: Sequence[Column]) -> list[list[str]]:
    """Head, then one row a method and learning rate, in order of first appearance.

    Returns:
        Method, learning rate (only if a result has one), number of seeds, then the columns; a dash where no seed has
        the metric.
    """
    has_rates = any(result.learning_rate is not None for result in results)
    rows = [["method", *(["learning rate"] if has_rates else []), "seeds", *(column.title for column in columns)]]
    for method, rate in dict.fromkeys((result.method, result.learning_rate) for result in results):
        group = [result for result in results if (result.method, result.learning_rate) == (method, rate)]
        shown = [_cell(group, column) for column in columns]
        rate_cell = [MISSING if rate is None else f"{rate:g}"] if has_rates else []
        rows.append([method, *rate_cell, str(len(group)), *shown])
    return rows


def _cell(group: Sequence[MethodResult], column: Column) -> str:
    values = [result.metrics[column.metric] for result in group if column.metric in result.metrics]
    return column.show(values) if values else MISSING


def rich_table(rows: Sequence[Sequence[str]], title: str) -> Table:
    """A head and rows for a terminal."""
    table = Table(title=title)
    first, *others = rows[0]
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(name, justify="right")
    for row in rows[1:]:
        table.add_row(*row)
    return table


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """A head and rows for a README."""
    lines = [rows[0], ["---"] * len(rows[0]), *rows[1:]]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"
