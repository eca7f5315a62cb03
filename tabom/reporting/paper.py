"""The paper's numbers."""

from importlib.resources import files
from typing import NamedTuple

import pandas as pd

from tabom.reporting.comparison import Frame

BENCHMARKS = {
    "gsm8k": ("GSM8K", 1319),
    "math500": ("MATH500", 500),
    "humaneval": ("HumanEval", 164),
    "mbpp": ("MBPP", 500),
    "ifeval": ("IFEval", 541),
}
"""Title and number of questions, in the paper's order."""

LM_EVAL = "lm_eval"
"""Variant of a benchmark that says none."""

_LENGTH = "Length as in the paper's Table 8; the released script decodes {}."
_KEPT = "The release leaves special tokens such as the end of turn in the text; they are removed here."
_PROGRAM = "Programs run in the sandbox, for up to 15 seconds of the processor; the release gives 3 seconds."
DIFFERENCES = {
    LM_EVAL: {
        "gsm8k": f"Prompt, stop strings and number are the release's. {_LENGTH.format('LLaDA into 256 tokens')}",
        "math500": "Prompt and stop string are the release's. Answers are compared with the whole reference solution; "
        "the release compares with its bare answer, of which math-verify reads no LaTeX (2\\sqrt{3} as 2, \\sqrt{3} "
        f"not at all), and so marks right answers wrong. {_KEPT}",
        "humaneval": "Another prompt: the question's code block is closed. The program is the prompt with the response "
        "up to the first fence; the release takes the longest stretch of it that is Python, without functions that "
        f"return nothing. {_KEPT} {_PROGRAM}",
        "mbpp": "Another prompt. The program is the first closed code block, and empty without one; the release takes "
        f"all up to the first fence. {_LENGTH.format('Dream into 512 tokens')} {_KEPT} {_PROGRAM}",
        "ifeval": "The strict number; the release's script reads the loose one, in which a response may lose its first "
        f"line, its last line and its asterisks. {_KEPT}",
    },
    "released": {
        "gsm8k": f"Prompt, text and scoring are the release's. {_LENGTH.format('LLaDA into 256 tokens')}",
        "math500": "Prompt, text and scoring are the release's, which does not say its version of math-verify.",
        "humaneval": f"Prompt, text and extraction are the release's. {_PROGRAM}",
        "mbpp": f"Prompt, text and extraction are the release's. {_LENGTH.format('Dream into 512 tokens')} {_PROGRAM}",
        "ifeval": "Prompt, text and number are the release's. Where a prompt asks for so many of a sign, the checker's "
        "random letter is the same every time here.",
    },
}
"""In what our scores differ from the paper's, by variant and benchmark."""

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
    for (number, model, domain, speed), table in _read("paper.csv").groupby(_KEYS, sort=False):
        if _is_base(model, base_model) and trained_on in (domain, None) and tokens_per_step == int(speed):
            scores = table.set_index("benchmark").drop(columns=_KEYS)
            title = f"{model}, post-trained on {domain}" + (f", {speed} tokens per step" if speed != "1" else "")
            shown = scores if trained_on else scores.iloc[:, :1]
            return PaperScores(f"arXiv 2605.11854, Table {number}: {title}", shown.to_dict())
    return None


def paper_discrimination(base_model: str, tokens_per_step: float | None) -> dict[str, dict[str, str]]:
    """The paper's Table 6 for a base: trajectory discrimination scores as printed, by method and benchmark's title.

    Args:
        base_model: As for :func:`paper_scores`.
        tokens_per_step: Of the decoding; the paper's is one.
    """
    paper = _read("paper_tds.csv")
    is_own = [tokens_per_step == 1 and _is_base(model, base_model) for model in paper["model"]]
    return paper[is_own].drop(columns="model").set_index("method").T.to_dict()


def _read(name: str) -> Frame:
    return pd.read_csv(str(files("tabom.reporting") / name), dtype=str)


def _is_base(model: str, path: str) -> bool:
    return model.partition("-")[0].lower() in path.lower()
