"""Base model, trajectories, trainings with their tests, tables and figures."""

import dataclasses
import datetime
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from rich.console import Console

from tabom.callbacks.environment import environment
from tabom.errors import require
from tabom.reporting.comparison import Column, MethodResult, comparison_rows, markdown_table, rich_table
from tabom.storage.files import file_sha256, whole_file
from tabom.storage.settings import check_same

OUTPUT_DIR = Path("runs/demo")
BASE_DIR = OUTPUT_DIR / "base"  # the directories that the configs name
TRAJECTORIES_DIR = OUTPUT_DIR / "trajectories"
METHODS = {
    "SFT-GT": "sft_gt",
    "SFT-SD": "sft_sd",
    "trajectory masking": "trajectory_masking",
    "TABOM": "tabom",
}
BASE = "base"
BASELINE = "SFT-SD"
OFF_FRONTIER = "SFT-GT"
"""Its answers are laid out in another way, so that it forgets a hundred times more than the others."""
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


class Training(NamedTuple):
    """Row of the tables, name of the config, seed, and learning rate (None leaves it to the config)."""

    method: str
    config: str
    seed: int
    learning_rate: float | None

    @property
    def name(self) -> str:
        """Of its directory."""
        rate = "" if self.learning_rate is None else f"-lr{self.learning_rate:g}"
        return f"{self.config}{rate}-seed{self.seed}"


@dataclass
class Demo:
    """Runs the stages in order, in one process.

    Base and trajectories are those under ``runs/demo``; what is missing there is made first. Each tested model is kept
    in ``results.json``, and is not trained again while that is there.

    Attributes:
        configs: Directory with ``pretrain.yaml``, ``distill.yaml`` and one file a method.
        seeds: Of the post-trainings.
        public_test: CSV of public Sudoku puzzles to be tested on as well.
        overrides: Further options of every command, by verb; the tests make the stages small with them.
        seconds: Time by stage.
        learning_rates: Of the methods; None is the one of the config.
    """

    configs: Path
    seeds: Sequence[int]
    public_test: Path | None = None
    overrides: dict[str, list[str]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    learning_rates: Sequence[Any] = (None,)
    console: Console = field(default_factory=lambda: Console(width=max(Console().width, 150)))
    output_dir: ClassVar[Path] = OUTPUT_DIR
    methods: ClassVar[Mapping[str, str]] = METHODS
    interpolations: ClassVar[Mapping[str, float]] = {}

    def run(self) -> list[MethodResult]:
        """Train, test, and write ``results.json``, ``table.md`` and figures under ``output_dir``.

        Raises:
            TabomError: If results there were made with other options, configs or trajectories.
        """
        settings = self._settings()
        results = self._earlier_results(settings)
        if not list(BASE_DIR.glob("*.safetensors")):
            self._command("pretraining", "fit", "pretrain")
        if not (TRAJECTORIES_DIR / "manifest.json").is_file():
            self._command("distillation", "predict", "distill")
        settings["trajectories"] = file_sha256(TRAJECTORIES_DIR / "manifest.json")
        self._earlier_results(settings)
        if not results:
            results.append(MethodResult(BASE, 0, self._test(BASE, "tabom", BASE)))
            self._save(settings, results)
        trainings = self._trainings()
        finished = {(result.method, result.seed, result.learning_rate) for result in results}
        waiting = [t for t in trainings if (t.method, t.seed, t.learning_rate) not in finished]
        start = time.perf_counter()
        for num_left, training in reversed(list(enumerate(reversed(waiting)))):
            results += self._run(training)
            self._save(settings, results)
            minutes = (time.perf_counter() - start) / 60 / (len(waiting) - num_left)
            done = f"{len(trainings) - num_left} of {len(trainings)} runs done"
            self.console.print(f"[bold]{done}, {minutes:.1f} minutes each, {num_left * minutes:.0f} minutes left")
        self._report(results)
        total = ["total", f"{sum(self.seconds.values()):.0f}"]
        times = [["stage", "seconds"], *([stage, f"{value:.0f}"] for stage, value in self.seconds.items()), total]
        self.console.print(rich_table(times, "Time, all seeds together"))
        self.console.print(f"Tables, figure and runs are under {self.output_dir}/; wandb sync uploads the runs.")
        return results

    def _trainings(self) -> list[Training]:
        """Seed by seed, so that an interrupted demo has whole curves."""
        rates = sorted(self.learning_rates)
        return [
            Training(method, config, seed, rate)
            for seed in self.seeds
            for method, config in self.methods.items()
            for rate in ([rates[len(rates) // 2]] if method == OFF_FRONTIER else rates)
        ]

    def _settings(self) -> dict[str, Any]:
        """What the results depend on."""
        files = [self.configs / f"{name}.yaml" for name in ("pretrain", "distill", *self.methods.values())]
        for path in files:
            require(path.is_file(), f"{path}: expected a file, found none")
        files += sorted((self.configs.parent / "parts").glob("demo_*.yaml"))
        return {
            "seeds": list(self.seeds),
            "learning_rates": sorted(self.learning_rates),
            "public_test": self.public_test and file_sha256(self.public_test),
            **{path.name: file_sha256(path) for path in files},
        }

    def _earlier_results(self, settings: dict[str, Any]) -> list[MethodResult]:
        """Read what an interrupted demo left, if it was the same one."""
        path = self.output_dir / "results.json"
        if not path.is_file():
            return []
        record = json.loads(path.read_text())
        there = {name: record["settings"].get(name) for name in settings}
        advice = f"give what was given before, or move {self.output_dir} away to start afresh"
        check_same(path, there, settings, "the results that are there", advice)
        self.seconds = record["seconds"]
        return [MethodResult(**result) for result in record["results"]]

    def _save(self, settings: dict[str, Any], results: Sequence[MethodResult]) -> None:
        """Write ``results.json``: what was run where, and the results."""
        record = {
            "environment": environment(num_processes=1),
            "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
            "seconds": self.seconds,
            "settings": settings,
            "results": [dataclasses.asdict(result) for result in results],
        }
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with whole_file(self.output_dir / "results.json") as file:
            file.write(json.dumps(record, indent=2).encode() + b"\n")

    def _report(self, results: Sequence[MethodResult]) -> None:
        """Write tables and figures."""
        from tabom.reporting.figures import plot_gain_against_forgetting

        base, *trained = results
        figure = plot_gain_against_forgetting(trained, base.metrics["accuracy_1_per_step"])
        figure.savefig(self.output_dir / "figure.png", dpi=150)
        self._write_table(results)

    def _write_table(self, results: Sequence[MethodResult]) -> None:
        rows = comparison_rows(results, COLUMNS + (PUBLIC_COLUMNS if self.public_test else ()))
        (self.output_dir / "table.md").write_text(markdown_table(rows))
        self.console.print(rich_table(rows, "4x4 Sudoku after post-training of one base model"))
        self.console.print(LEGEND)

    def _run(self, training: Training) -> list[MethodResult]:
        """Train and test one model; of the baseline's largest learning rate also what lies between it and the base."""
        method, config, seed, rate = training
        options = [f"--run_dir={self.output_dir / training.name}", f"--seed_everything={seed}"]
        options += [] if rate is None else [f"--model.optimizer.lr={rate}"]
        goes_on = "--ckpt_path=last"  # a training that was stopped
        checkpoint = self._command(f"{method}, training", "fit", config, *options, goes_on)
        tests: dict[str, tuple[str, ...]] = {method: (training.name, f"--ckpt_path={checkpoint}")}
        if method == BASELINE and rate == max(self.learning_rates):
            for part, weight in self.interpolations.items():
                halfway = (f"{training.name}-x{weight:g}", f"--model.interpolation={weight}")
                tests[part] = (*halfway, f"--ckpt_path={checkpoint}")
        return [MethodResult(row, seed, self._test(row, config, *words), rate) for row, words in tests.items()]

    def _test(self, method: str, config: str, name: str, *options: str) -> dict[str, float]:
        words = [config, f"--run_dir={self.output_dir / name}-test", *options]
        self._command(f"{method}, test", "test", *words)
        metrics = dict(self._last_metrics)
        if self.public_test is not None:
            task = f"--data.task.test_file={self.public_test.resolve()}"
            public = ("--data.validation.num_test_prompts=500", task, "--trainer.logger=false")
            self._command(f"{method}, public test", "test", *words, *public)
            metrics |= {f"public_{name}": value for name, value in self._last_metrics.items()}
        return metrics

    def _command(self, stage: str, verb: str, config: str, *options: str) -> str:
        """Run one command as the shell would; returns the best checkpoint's path, if it wrote one."""
        from tabom.callbacks.run_recorder import logged
        from tabom.cli.lightning_cli import run

        words = [verb, "--config", str(self.configs / f"{config}.yaml"), *options, *self.overrides.get(verb, [])]
        self.console.rule(f"{stage}: tabom {' '.join(words)}", align="left")
        start = time.perf_counter()
        trainer = run(words).trainer
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.perf_counter() - start
        self._last_metrics = logged(trainer, "test")
        savers: list[Any] = trainer.checkpoint_callbacks
        return next((saver.best_model_path for saver in savers if getattr(saver, "monitor", None)), "")


def keep_earlier_results() -> None:
    """Move an earlier demo aside; nothing is overwritten."""
    if OUTPUT_DIR.exists():
        stamp = datetime.datetime.fromtimestamp(OUTPUT_DIR.stat().st_mtime, tz=datetime.UTC)
        aside = OUTPUT_DIR.with_name(f"{OUTPUT_DIR.name}-{stamp:%Y%m%d-%H%M%S}")
        OUTPUT_DIR.rename(aside)
        print(f"Earlier results are kept in {aside}")
