"""What methods and metrics are called where people read them."""

import re

from tabom.reporting.comparison import Column

BASE = "base"
METRIC = "accuracy_1_per_step"
BASELINE = "sft_sd"
_METHODS = {
    "sft_gt": "SFT-GT",
    "sft_sd": "SFT-SD",
    "tabom": "TABOM",
    "tabom_global": "TABOM (global)",
    "dinfer": "dInfer",
    "t3d": "T3D",
    "papl": "PAPL",
    "dparallel": "dParallel",
    "logistic": "TABOM (logistic)",
    "plackett_luce": "TABOM (Plackett-Luce)",
    "boltzmann_kl": "TABOM (Boltzmann KL)",
    "shuffled_order": "TABOM (shuffled order)",
    "demo_replay": "replay",
    "demo_replay_own": "replay of own text",
}
MAIN = (
    Column("kl", "KL(base ‖ model)", digits=3, better="↓"),
    Column("nelbo_change", "NELBO change", digits=3, is_signed=True, better="↓"),
    Column("tds", "TDS", digits=3),
    Column("order_agreement", "order agreement", digits=2, better="↑"),
)
"""What is shown of every method beside its accuracies."""


def human_name(name: str) -> str:
    """A method's or setting's name, as it is written in a text; names that are so already stay as they are.

    >>> human_name("sft_sd, rank_weight 2")
    'SFT-SD, rank weight 2'
    """
    return re.sub(r"\w+", lambda word: _METHODS.get(word[0], word[0].replace("_", " ")), name)


def column_of(metric: str) -> Column:
    """How a metric is shown: shares in %, known ones with their titles, others with three digits."""
    known = {column.metric: column for column in MAIN}
    if match := re.fullmatch(r"accuracy_(\d+)_per_step", metric):
        tokens = "1 token" if match[1] == "1" else f"{match[1]} tokens"
        return Column(metric, f"accuracy at {tokens} per step, %", scale=100, better="↑")
    if re.match(r"accuracy(?!_minus)|base_accuracy|pass_at", metric):
        return Column(metric, f"{metric.replace('_', ' ')}, %", scale=100, better="↑")
    better = "↓" if re.search(r"error|nelbo|reconstruction|ranking|inverted", metric) else ""
    return known.get(metric, Column(metric, metric.replace("_", " "), digits=3, better=better))


def title_of(metric: str) -> str:
    """A metric's name within a sentence."""
    return column_of(metric).title.removesuffix(", %")
