"""The paper's numbers beside those of runs with its configs."""

import functools
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import PurePath
from typing import Any, NamedTuple

from tabom.reporting.comparison import MISSING, Column, Rows, grouped, table_rows
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
    for table in _read()["scores"]:
        if (
            table["base"].lower() in base_model.lower()
            and trained_on in (table["trained_on"], None)
            and tokens_per_step == table["tokens_per_step"]
        ):
            scores = list(_scores(table).items())
            return PaperScores(_source(table), dict(scores if trained_on else scores[:1]))
    return None


def paper_section(results: Results, column: Column) -> Section | None:
    """Tables of the paper that the runs' configs belong to, with what the runs reached; None if there is none.

    Args:
        results: Of the runs.
        column: The metric that is shown beside.
    """
    tables = []
    for table in [*_read()["scores"], *_read()["sweeps"]]:
        own = [model for model in results.compared if _folders(model) & set(table["folders"])]
        varied = {key.rpartition(".")[2] for model in own for key in model.settings}
        if own and set(table.get("keys", ())) <= varied:
            tables.append(Table(_source(table), table.get("rows") or _beside(table, own, column)))
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


def _scores(table: dict[str, Any]) -> dict[str, dict[str, str]]:
    """By method and benchmark."""
    rows = zip(_read()["methods"].values(), *table["benchmarks"].values(), strict=True)
    return {method: dict(zip(table["benchmarks"], cells, strict=True)) for method, *cells in rows}


def _beside(table: dict[str, Any], own: Sequence[Model], column: Column) -> Rows:
    """The paper's rows with what each method reached here, then what it does not have."""
    groups = grouped(own, lambda model: model.label.rpartition("/")[2])
    names = {**_read()["methods"], **{config: config for config in sorted(groups) if config not in _read()["methods"]}}
    scores, dashes = _scores(table), dict.fromkeys(table["benchmarks"], MISSING)
    return table_rows(
        {"method": name, **scores.get(name, dashes), f"here: {column.title}": _reached(groups.get(config, ()), column)}
        for config, name in names.items()
    )


def _reached(models: Sequence[Model], column: Column) -> str:
    """One cell: the mean over the seeds, at each learning rate if there are several."""
    measured = [model for model in models if model.interpolation == 1 and column.metric in model.values]
    groups = grouped(measured, lambda model: (model.method, model.rate)).values()
    return "; ".join(column.show(model.values[column.metric] for model in group) for group in groups) or MISSING


def _folders(model: Model) -> set[str]:
    return {PurePath(file).parent.name for file in model.source.config_files}
