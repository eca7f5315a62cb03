"""The paper's numbers beside those of runs with its configs."""

import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import PurePath

from tabom.reporting.comparison import MISSING, Column
from tabom.reporting.page import Section, Table
from tabom.reporting.results import BASE, Model, Results


def paper_section(results: Results, column: Column) -> Section | None:
    """Tables of the paper that the runs' configs belong to, with what the runs reached; None if there is none.

    Args:
        results: Of the runs.
        column: The metric that is shown beside.
    """
    paper = json.loads(files("tabom.reporting").joinpath("paper.json").read_text())
    tables = []
    for table in paper["tables"]:
        own = [model for model in (*results.base, *results.models) if _folders(model) & set(table["folders"])]
        varied = {key.rpartition(".")[2] for model in own for key in model.settings}
        if own and set(table["keys"]) <= varied:
            caption = f"{paper['source']}, Table {table['number']}: {table['title']}"
            tables.append(Table(caption, _rows(table, own, column)))
    if not tables:
        return None
    text = (
        f"Numbers of the paper are in %. It measures public benchmarks, with its own harness; {column.title} of these "
        "runs is of their own task, so the order of the methods may be compared, not the numbers."
    )
    return Section("The paper's numbers", [text], tables=tables)


def _rows(table: dict, own: Sequence[Model], column: Column) -> list[list[str]]:
    """The paper's rows; where they are methods, with what each reached here at its best learning rate."""
    if not table["configs"]:
        return [table["head"], *table["rows"]]
    shown = [_reached(config, own, column) for config in table["configs"]]
    others = sorted({_stem(model) for model in own} - set(table["configs"]))
    return [
        [*table["head"], f"here: {column.title}"],
        *([*row, cell] for row, cell in zip(table["rows"], shown, strict=True)),
        *([name, *[MISSING] * (len(table["head"]) - 1), _reached(name, own, column)] for name in others),
    ]


def _reached(config: str, own: Sequence[Model], column: Column) -> str:
    """One cell: the mean over the seeds, at each learning rate if there are several."""
    groups: dict[str, list[float]] = {}
    for model in own:
        if _stem(model) == config and model.interpolation == 1 and column.metric in model.values:
            groups.setdefault(f"{model.method} {model.rate}", []).append(model.values[column.metric])
    return "; ".join(map(column.show, groups.values())) or MISSING


def _folders(model: Model) -> set[str]:
    return {PurePath(file).parent.name for file in (model.trainings or [model.record])[-1].config_files}


def _stem(model: Model) -> str:
    return BASE if model.label == BASE else model.label.rpartition("/")[2]
