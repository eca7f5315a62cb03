"""Every method at several learning rates, compared at equal forgetting."""

import dataclasses
import hashlib
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tabom.demo.stages import BASE, METHODS, OUTPUT_DIR, Demo
from tabom.errors import TabomError, require
from tabom.reporting.comparison import MethodResult, markdown_table, rich_table
from tabom.reporting.frontier import frontier_rows, matched_levels, seed_curves

FULL_OUTPUT_DIR = Path("runs/demo-full")
BASE_DIR = OUTPUT_DIR / "base"  # the directories that the configs name
TRAJECTORIES_DIR = OUTPUT_DIR / "trajectories"
FULL_METHODS = METHODS | {
    "TABOM, global": "tabom_global",
    "dInfer": "dinfer",
    "T3D": "t3d",
    "logistic": "logistic",
    "Plackett-Luce": "plackett_luce",
    "Boltzmann KL": "boltzmann_kl",
    "shuffled order": "shuffled_order",
}
BASELINE = "SFT-SD"
# Its answers are laid out in another way, so that it forgets a hundred times more than the others: between the base and
# its models there is nothing to be interpolated.
OFF_FRONTIER = "SFT-GT"
LEARNING_RATES = (3e-4, 1e-3, 2e-3)
INTERPOLATIONS = {f"{BASELINE} x {weight:g}": weight for weight in (0.25, 0.5, 0.75)}
TOWARDS_BASE = f"{BASELINE}, towards the base"
ACCURACIES = {"accuracy_1_per_step": "full decoding", "accuracy_2_per_step": "two tokens a step"}
PUBLIC_ACCURACIES = {f"public_{metric}": f"public puzzles, {title}" for metric, title in ACCURACIES.items()}
FRONTIER_LEGEND = f"""Sudoku test puzzles solved, %, at equal forgetting: KL(base || model) on held-out Python text.
Mean over seeds; in brackets the difference to {BASELINE} with the same seed, ± its standard error. Each method's curve
runs from the base through its learning rates, linear in the root of the KL; -: the method does not go so far with
every seed. KL in nats a token. "{TOWARDS_BASE}": the weights of its largest learning rate, averaged with the base's."""


@dataclass(frozen=True)
class Training:
    """One run of the full demo.

    Attributes:
        method: Row of the tables.
        config: Its file in the directory of configs, without the ending.
        seed: Of the post-training.
        learning_rate: Of the optimizer.
    """

    method: str
    config: str
    seed: int
    learning_rate: float


@dataclass
class FullDemo(Demo):
    """Every method at several learning rates, compared at equal forgetting.

    Base and trajectories are those under ``runs/demo``; what is missing there is made first. Each tested model is kept
    in ``results.json``, so that the same command goes on after an interruption.

    Attributes:
        learning_rates: Of every method but SFT-GT, which forgets so much that it is no part of the comparison and is
            trained at the middle one alone.
        kl_levels: Where the methods are compared, nats a token; None divides what all of them reach.
    """

    learning_rates: Sequence[float] = LEARNING_RATES
    kl_levels: Sequence[float] | None = None
    output_dir: ClassVar[Path] = FULL_OUTPUT_DIR

    def __post_init__(self) -> None:
        for name in ("seeds", "learning_rates"):
            values = getattr(self, name)
            require(len(set(values)) == len(values) > 0, f"{name}: expected different values, got {list(values)}")
        require(min(self.learning_rates) > 0, f"learning_rates: expected values above 0, got {self.learning_rates}")

    def run(self) -> list[MethodResult]:
        """Train, test, and write ``results.json``, ``table.md``, ``frontier.md`` and ``frontier.png``.

        Raises:
            TabomError: If results under ``runs/demo-full`` were made with other options, configs or trajectories.
        """
        settings = self._settings()
        results = self._earlier_results(settings)
        self._make_what_is_missing()
        settings["trajectories"] = _sha256(TRAJECTORIES_DIR / "manifest.json")
        self._earlier_results(settings)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        if not results:
            directories = self._directories(BASE)
            results.append(MethodResult(BASE, 0, self._test(BASE, "tabom", BASE, *directories)))
            self._save({"settings": settings, "results": results})

        trainings = self._trainings()
        finished = {(result.method, result.seed, result.learning_rate) for result in results}
        waiting = [t for t in trainings if (t.method, t.seed, t.learning_rate) not in finished]
        start = time.perf_counter()
        for index, training in enumerate(waiting, 1):
            results += self._run(training)
            self._save({"settings": settings, "results": results})
            minutes = (time.perf_counter() - start) / 60
            num_done, num_left = len(trainings) - len(waiting) + index, len(waiting) - index
            speed = f"{index / minutes:.1f} a minute, {num_left * minutes / index:.0f} minutes left"
            self.console.print(f"[bold]{num_done} of {len(trainings)} runs done, {speed}")
        self._report(results)
        return results

    def _trainings(self) -> list[Training]:
        """Seed by seed, so that an interrupted demo has whole curves."""
        rates = sorted(self.learning_rates)
        return [
            Training(method, config, seed, rate)
            for seed in self.seeds
            for method, config in FULL_METHODS.items()
            for rate in ([rates[len(rates) // 2]] if method == OFF_FRONTIER else rates)
        ]

    def _settings(self) -> dict[str, Any]:
        """What the results depend on."""
        configs = ("pretrain", "distill", *FULL_METHODS.values())
        return {
            "seeds": list(self.seeds),
            "learning_rates": sorted(self.learning_rates),
            "public_test": self.public_test and _sha256(self.public_test),
            **{f"{name}.yaml": _sha256(self.configs / f"{name}.yaml") for name in configs},
        }

    def _earlier_results(self, settings: dict[str, Any]) -> list[MethodResult]:
        """Read what an interrupted demo left, if it was the same one."""
        path = self.output_dir / "results.json"
        if not path.is_file():
            return []
        record = json.loads(path.read_text())
        for name, now in settings.items():
            before = record["settings"].get(name)
            if before != now:
                raise TabomError(
                    f"{path}: {name} was {before} when these results were made, got {now}; "
                    f"give what was given before, or move {self.output_dir} away to start afresh"
                )
        self.seconds = record["seconds"]
        return [MethodResult(**result) for result in record["results"]]

    def _make_what_is_missing(self) -> None:
        if not list(BASE_DIR.glob("*.safetensors")):
            self._command("pretraining", "fit", "pretrain")
        if not (TRAJECTORIES_DIR / "manifest.json").is_file():
            self._command("distillation", "predict", "distill")

    def _run(self, training: Training) -> list[MethodResult]:
        """One trained model; of the baseline's largest learning rate also what lies between it and the base."""
        method, config, seed, rate = dataclasses.astuple(training)
        name = f"{config}-lr{rate:g}-seed{seed}"
        directories = self._directories(name)
        options = (f"--seed_everything={seed}", f"--model.optimizer.lr={rate}")
        checkpoint = ("--ckpt_path", self._train(method, config, name, *options, *directories))
        results = [MethodResult(method, seed, self._test(method, config, name, *checkpoint, *directories), rate)]
        if method == BASELINE and rate == max(self.learning_rates):
            for part, weight in INTERPOLATIONS.items():
                halfway = (f"--model.interpolation={weight}", *checkpoint, *directories)
                metrics = self._test(part, config, f"{name}-x{weight:g}", *halfway)
                results.append(MethodResult(part, seed, metrics, rate))
        return results

    def _directories(self, name: str) -> list[str]:
        return [f"--run_dir={self.output_dir / name}", "--trainer.logger.group=demo-full"]

    def _report(self, results: list[MethodResult]) -> None:
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
        self.console.print(self._timings())
        self.console.print(f"Tables, figure and runs are under {self.output_dir}/; wandb sync uploads the runs.")


def _sha256(path: Path) -> str:
    require(path.is_file(), f"{path}: expected a file, found none")
    return hashlib.sha256(path.read_bytes()).hexdigest()
