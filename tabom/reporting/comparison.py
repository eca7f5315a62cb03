"""The table that compares methods over seeds."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table


@dataclass(frozen=True)
class MethodResult:
    """One trained and tested model.

    Attributes:
        method: Row of the table.
        seed: Of its post-training.
        metrics: Test results by name.
    """

    method: str
    seed: int
    metrics: dict[str, float]


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


def comparison_cells(results: Sequence[MethodResult], columns: Sequence[Column]) -> list[list[str]]:
    """One row a method, in order of first appearance: name, number of seeds, then the columns."""
    cells = []
    for method in dict.fromkeys(result.method for result in results):
        group = [result for result in results if result.method == method]
        shown = [column.show([result.metrics[column.metric] for result in group]) for column in columns]
        cells.append([method, str(len(group)), *shown])
    return cells


def rich_table(results: Sequence[MethodResult], columns: Sequence[Column], title: str) -> Table:
    """The comparison for a terminal."""
    table = Table(title=title)
    table.add_column("method", no_wrap=True)
    table.add_column("seeds", justify="right")
    for column in columns:
        table.add_column(column.title, justify="right")
    for row in comparison_cells(results, columns):
        table.add_row(*row)
    return table


def markdown_table(results: Sequence[MethodResult], columns: Sequence[Column]) -> str:
    """The comparison for a README."""
    head = ["method", "seeds", *(column.title for column in columns)]
    rows = [head, ["---"] * len(head), *comparison_cells(results, columns)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"
