"""The paper's numbers beside those of runs with its configs."""

import functools
import itertools
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import PurePath
from typing import Any, NamedTuple

from tabom.reporting.comparison import MISSING, Column, Rows, grouped
from tabom.reporting.page import Section, Table
from tabom.reporting.results import Model, Results


class PaperScores(NamedTuple):
    """One of the paper's tables of scores.

    Attributes:
        source: Paper, number and title of the table.
        scores: In %, as printed, by method and benchmark.
    """

    source: str
    scores: dict[str, dict[str, str]]


def paper_scores(base_model: str, trained_on: str | None, tokens_per_step: float | None) -> PaperScores | None:
    """What the paper has of models from the same base, post-trained on the same domain, and decoded as fast.

    Args:
        base_model: Path; LLaDA and Dream are known by their names in it.
        trained_on: ``maths`` or ``code``; None for the base alone.
        tokens_per_step: Of the decoding.
    """
    for table in _read()["tables"]:
        if (
            "base" in table
            and table["base"].lower() in base_model.lower()
            and trained_on in (table["trained_on"], None)
            and tokens_per_step == table["tokens_per_step"]
        ):
            rows = table["rows"] if trained_on else table["rows"][:1]
            benchmarks = table["head"][1:]
            scores = {method: dict(zip(benchmarks, cells, strict=True)) for method, *cells in rows}
            return PaperScores(_source(table), scores)
    return None


def paper_section(results: Results, column: Column) -> Section | None:
    """Tables of the paper that the runs' configs belong to, with what the runs reached; None if there is none.

    Args:
        results: Of the runs.
        column: The metric that is shown beside.
    """
    tables = []
    for table in _read()["tables"]:
        own = [model for model in results.compared if _folders(model) & set(table["folders"])]
        varied = {key.rpartition(".")[2] for model in own for key in model.settings}
        if own and set(table["keys"]) <= varied:
            tables.append(Table(_source(table), _rows(table, own, column)))
    if not tables:
        return None
    text = (
        f"Numbers of the paper are in %. It measures public benchmarks, with its own harness; {column.title} of these "
        "runs is of their own task, so the order of the methods may be compared, not the numbers."
    )
    return Section("The paper's numbers", [text], tables=tables)


@functools.cache
def _read() -> dict[str, Any]:
    return json.loads(files("tabom.reporting").joinpath("paper.json").read_text())


def _source(table: dict[str, Any]) -> str:
    return f"{_read()['source']}, Table {table['number']}: {table['title']}"


def _rows(table: dict, own: Sequence[Model], column: Column) -> Rows:
    """The paper's rows; where they are methods, with what each reached here at its best learning rate."""
    if not table["configs"]:
        return [table["head"], *table["rows"]]
    models = grouped(own, lambda model: model.label.rpartition("/")[2])
    cells = {config: _reached(models.get(config, []), column) for config in (*table["configs"], *sorted(models))}
    dashes = [MISSING] * (len(table["head"]) - 1)
    rows = itertools.zip_longest(cells, table["rows"])
    return [
        [*table["head"], f"here: {column.title}"],
        *([*(row or (config, *dashes)), cells[config]] for config, row in rows),
    ]


def _reached(models: Sequence[Model], column: Column) -> str:
    """One cell: the mean over the seeds, at each learning rate if there are several."""
    measured = [model for model in models if model.interpolation == 1 and column.metric in model.values]
    groups = grouped(measured, lambda model: (model.method, model.rate)).values()
    return "; ".join(column.show_of(model.values for model in group) for group in groups) or MISSING


def _folders(model: Model) -> set[str]:
    return {PurePath(file).parent.name for file in model.source.config_files}
