"""Base model, trajectories, four trainings, one table and one figure."""

import dataclasses
import datetime
import json
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from tabom.reporting.comparison import Column, MethodResult, comparison_rows, markdown_table, rich_table

OUTPUT_DIR = Path("runs/demo")
METHODS = {
    "SFT-GT": "sft_gt",
    "SFT-SD": "sft_sd",
    "trajectory masking": "trajectory_masking",
    "TABOM": "tabom",
}
BASE = "base"
COLUMNS = (
    Column("accuracy_1_per_step", "full %", scale=100),
    Column("accuracy_2_per_step", "2 a step %", scale=100),
    Column("nelbo_change", "NELBO change", digits=3, is_signed=True),
    Column("kl", "KL", digits=3),
    Column("tds", "TDS", digits=3),
    Column("order_agreement", "order", digits=2),
)
PUBLIC_COLUMNS = (
    Column("public_accuracy_1_per_step", "public, full %", scale=100),
    Column("public_accuracy_2_per_step", "public, 2 a step %", scale=100),
)
LEGEND = """full %, 2 a step %: Sudoku test puzzles solved, decoding one or two tokens a step.
NELBO change, KL(base || model): forgetting on held-out Python text, nats a token.
TDS: trajectory discrimination score. order: share of held-out trajectory pairs whose entropies stand in decoding order.
Mean ± standard deviation over seeds."""


@dataclass
class Demo:
    """Runs the stages in order, in one process.

    Attributes:
        configs: Directory with ``pretrain.yaml``, ``distill.yaml`` and one file a method.
        seeds: Of the post-trainings.
        public_test: CSV of public Sudoku puzzles to be tested on as well.
        overrides: Further options of every command, by verb; the tests make the stages small with them.
        seconds: Time by stage.
    """

    configs: Path
    seeds: Sequence[int]
    public_test: Path | None = None
    overrides: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    output_dir: ClassVar[Path] = OUTPUT_DIR
    console: Console = field(default_factory=lambda: Console(width=max(Console().width, 150)))

    def run(self) -> list[MethodResult]:
        """Train, test, and write ``results.json``, ``table.md`` and ``figure.png`` under ``runs/demo``."""
        from tabom.reporting.figures import plot_gain_against_forgetting

        self._command("pretraining", "fit", "pretrain")
        self._command("distillation", "predict", "distill")
        results = [MethodResult(BASE, 0, self._test(BASE, "tabom", f"{BASE}-seed0"))]
        for seed in self.seeds:
            for method, config in METHODS.items():
                name = f"{config}-seed{seed}"
                checkpoint = self._train(method, config, name, f"--seed_everything={seed}")
                results.append(MethodResult(method, seed, self._test(method, config, name, "--ckpt_path", checkpoint)))
                self._save({"results": results})

        base_accuracy = results[0].metrics["accuracy_1_per_step"]
        plot_gain_against_forgetting(results[1:], base_accuracy).savefig(OUTPUT_DIR / "figure.png", dpi=150)
        self._write_table(results)
        self.console.print(self._timings())
        self.console.print(f"Table, figure and runs are under {OUTPUT_DIR}/; wandb sync uploads the runs.")
        return results

    def _write_table(self, results: Sequence[MethodResult]) -> None:
        rows = comparison_rows(results, COLUMNS + (PUBLIC_COLUMNS if self.public_test else ()))
        (self.output_dir / "table.md").write_text(markdown_table(rows))
        self.console.print(rich_table(rows, "4x4 Sudoku after post-training of one base model"))
        self.console.print(LEGEND)

    def _train(self, method: str, config: str, name: str, *options: str) -> str:
        """Train one model; returns the checkpoint that did best on validation."""
        return self._command(f"{method}, training", "fit", config, f"--trainer.logger.name={name}", *options)

    def _test(self, method: str, config: str, name: str, *options: str) -> dict[str, float]:
        self._command(f"{method}, test", "test", config, f"--trainer.logger.name={name}-test", *options)
        metrics = dict(self._last_metrics)
        if self.public_test is not None:
            task = f"--data.task.test_file={self.public_test.resolve()}"
            public = ("--data.validation.num_test_prompts=500", task, "--trainer.logger=false")
            self._command(f"{method}, public test", "test", config, *options, *public)
            metrics |= {f"public_{name}": value for name, value in self._last_metrics.items()}
        return metrics

    def _command(self, stage: str, verb: str, config: str, *options: str) -> str:
        """Run one command as the shell would; returns the best checkpoint's path, if it wrote one."""
        from lightning.pytorch.callbacks import ModelCheckpoint

        from tabom.cli.lightning_cli import run

        words = [verb, "--config", str(self.configs / f"{config}.yaml"), *options, *self.overrides.get(verb, [])]
        self.console.rule(f"{stage}: tabom {' '.join(words)}", align="left")
        start = time.perf_counter()
        trainer = run(words).trainer
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        self._last_metrics = {
            name.partition("/")[2]: float(value)
            for name, value in trainer.callback_metrics.items()
            if name.startswith("test/")
        }
        chosen = [
            c.best_model_path for c in trainer.checkpoint_callbacks if isinstance(c, ModelCheckpoint) and c.monitor
        ]
        return next(filter(None, chosen), "")

    def _timings(self) -> Table:
        table = Table("stage", "seconds", title="Time, all seeds together")
        for stage, seconds in self.seconds.items():
            table.add_row(stage, f"{seconds:.0f}")
        table.add_row("total", f"{sum(self.seconds.values()):.0f}")
        return table

    def _save(self, content: dict[str, Any]) -> None:
        """Write ``results.json``, whole or not at all: what was run where, and the results."""
        import torch

        record = {
            "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "python": platform.python_version()},
            "torch": torch.__version__,
            "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
            "seconds": self.seconds,
            **content,
            "results": [dataclasses.asdict(result) for result in content["results"]],
        }
        partial = self.output_dir / "results.json.partial"
        partial.write_text(json.dumps(record, indent=2) + "\n")
        partial.replace(self.output_dir / "results.json")


def keep_earlier_results() -> None:
    """Move an earlier demo aside; nothing is overwritten."""
    if OUTPUT_DIR.exists():
        stamp = datetime.datetime.fromtimestamp(OUTPUT_DIR.stat().st_mtime, tz=datetime.UTC)
        aside = OUTPUT_DIR.with_name(f"{OUTPUT_DIR.name}-{stamp:%Y%m%d-%H%M%S}")
        OUTPUT_DIR.rename(aside)
        print(f"Earlier results are kept in {aside}")
