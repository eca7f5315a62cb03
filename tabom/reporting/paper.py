"""The paper's numbers."""

import json
from importlib.resources import files
from typing import NamedTuple


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
    paper = json.loads(files("tabom.reporting").joinpath("paper.json").read_text())
    for table in paper["scores"]:
        if (
            table["base"].lower() in base_model.lower()
            and trained_on in (table["trained_on"], None)
            and tokens_per_step == table["tokens_per_step"]
        ):
            rows = zip(paper["methods"], *table["benchmarks"].values(), strict=True)
            scores = {method: dict(zip(table["benchmarks"], cells, strict=True)) for method, *cells in rows}
            base, *_ = paper["methods"]
            source = f"{paper['source']}, Table {table['number']}: {table['title']}"
            return PaperScores(source, scores if trained_on else {base: scores[base]})
    return None
