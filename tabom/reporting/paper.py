"""The paper's numbers."""

from importlib.resources import files
from typing import NamedTuple

import pandas as pd

from tabom.reporting.comparison import Frame

_KEYS = ["table", "model", "trained_on", "tokens_per_step"]


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
    paper: Frame = pd.read_csv(str(files("tabom.reporting") / "paper.csv"), dtype=str)
    for (number, model, domain, speed), table in paper.groupby(_KEYS, sort=False):
        is_base = model.partition("-")[0].lower() in base_model.lower()
        if is_base and trained_on in (domain, None) and tokens_per_step == int(speed):
            scores = table.set_index("benchmark").drop(columns=_KEYS)
            title = f"{model}, post-trained on {domain}" + (f", {speed} tokens a step" if speed != "1" else "")
            shown = scores if trained_on else scores.iloc[:, :1]
            return PaperScores(f"arXiv 2605.11854, Table {number}: {title}", shown.to_dict())
    return None
