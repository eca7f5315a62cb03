"""Every method at several learning rates, compared at equal forgetting."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tabom.demo.stages import BASELINE, METHODS, OFF_FRONTIER, Demo
from tabom.errors import require
from tabom.reporting.comparison import MethodResult, markdown_table, rich_table
from tabom.reporting.frontier import frontier_rows, matched_levels, seed_curves

FULL_OUTPUT_DIR = Path("runs/demo-full")
FULL_METHODS = METHODS | {
    "TABOM, global": "tabom_global",
    "dInfer": "dinfer",
    "T3D": "t3d",
    "logistic": "logistic",
    "Plackett-Luce": "plackett_luce",
    "Boltzmann KL": "boltzmann_kl",
    "shuffled order": "shuffled_order",
}
LEARNING_RATES = (3e-4, 1e-3, 2e-3)
INTERPOLATIONS = {f"{BASELINE} x {weight:g}": weight for weight in (0.25, 0.5, 0.75)}
TOWARDS_BASE = f"{BASELINE}, towards the base"
ACCURACIES = {"accuracy_1_per_step": "full decoding", "accuracy_2_per_step": "two tokens a step"}
PUBLIC_ACCURACIES = {f"public_{metric}": f"public puzzles, {title}" for metric, title in ACCURACIES.items()}
FRONTIER_LEGEND = f"""Sudoku test puzzles solved, %, at equal forgetting: KL(base || model) on held-out Python text.
Mean over seeds; in brackets the difference to {BASELINE} with the same seed, ± its standard error. Each method's curve
runs from the base through its learning rates, linear in the root of the KL; -: the method does not go so far with
every seed. KL in nats a token. "{TOWARDS_BASE}": the weights of its largest learning rate, averaged with the base's."""


@dataclass
class FullDemo(Demo):
    """Every method at several learning rates, compared at equal forgetting; goes on after an interruption.

    Attributes:
        learning_rates: SFT-GT, which is no part of the comparison, is trained at the middle one alone.
        kl_levels: Where the methods are compared, nats a token; None divides what all of them reach.
    """

    learning_rates: Sequence[float] = LEARNING_RATES
    kl_levels: Sequence[float] | None = None
    output_dir: ClassVar[Path] = FULL_OUTPUT_DIR
    methods: ClassVar[Mapping[str, str]] = FULL_METHODS
    interpolations: ClassVar[Mapping[str, float]] = INTERPOLATIONS

    def __post_init__(self) -> None:
        for name in ("seeds", "learning_rates"):
            values = getattr(self, name)
            require(len(set(values)) == len(values) > 0, f"{name}: expected different values, got {list(values)}")
        require(min(self.learning_rates) > 0, f"learning_rates: expected values above 0, got {self.learning_rates}")

    def _report(self, results: Sequence[MethodResult]) -> None:
        from tabom.reporting.figures import plot_frontiers

        base, *trained = results
        compared = [r for r in trained if r.method != OFF_FRONTIER and r.method not in INTERPOLATIONS]
        ends = {BASELINE: max(self.learning_rates)}
        compared += [
            dataclasses.replace(r, method=TOWARDS_BASE, learning_rate=INTERPOLATIONS.get(r.method, 1.0))
            for r in trained
            if r.method in INTERPOLATIONS or ends.get(r.method) == r.learning_rate
        ]  # its points are told apart by the weight, as the others' by the rate
        plot_frontiers(compared, base).savefig(self.output_dir / "frontier.png", dpi=150)
        self._write_table(results)
        text = f"{FRONTIER_LEGEND}\n"
        for metric, title in (ACCURACIES | (PUBLIC_ACCURACIES if self.public_test else {})).items():
            curves = seed_curves(compared, base, metric)
            rows = frontier_rows(curves, self.kl_levels or matched_levels(curves), BASELINE)
            text += f"\n**{title}** (base: {100 * base.metrics[metric]:.1f})\n\n{markdown_table(rows)}"
            self.console.print(rich_table(rows, f"At equal forgetting, {title}"))
        (self.output_dir / "frontier.md").write_text(text)
        self.console.print(FRONTIER_LEGEND)
