"""The demo's commands: base model, trajectories, trainings with their tests, reports."""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from rich.console import Console

from tabom.errors import require
from tabom.storage.files import file_sha256, whole_file
from tabom.storage.run_record import DIRECTORY, read_record
from tabom.storage.settings import check_same

OUTPUT_DIR = Path("runs/demo")
BASE_DIR = OUTPUT_DIR / "base"  # the directories that the configs name
TRAJECTORIES_DIR = OUTPUT_DIR / "trajectories"
FULL_OUTPUT_DIR = Path("runs/demo-full")
METHODS = ("sft_gt", "sft_sd", "trajectory_masking", "tabom")
FULL_METHODS = (
    *METHODS,
    *("tabom_global", "dinfer", "t3d", "logistic", "plackett_luce", "boltzmann_kl", "shuffled_order"),
)
BASELINE = "sft_sd"
OFF_FRONTIER = "sft_gt"
"""Its answers are laid out in another way, so that it forgets a hundred times more than the others."""
LEARNING_RATES = (3e-4, 1e-3, 2e-3)
_PUBLIC = ("--data.validation.num_test_prompts=500", "--trainer.logger=false")
_SHOWN = ("Gain against forgetting", "Results", "Cost")


class Training(NamedTuple):
    """Name of the config, seed, and learning rate (None leaves it to the config)."""

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
    """Runs the commands in order, in one process; goes on after an interruption, and makes what is missing.

    Base and trajectories are those under ``runs/demo``.

    Attributes:
        configs: Directory with ``pretrain.yaml``, ``distill.yaml`` and one file a method.
        seeds: Of the post-trainings.
        public_test: CSV of public Sudoku puzzles to be tested on as well.
        overrides: Further options of every command, by verb; the tests make the stages small with them.
        learning_rates: Of the methods; None is the one of the config.
    """

    configs: Path
    seeds: Sequence[int]
    public_test: Path | None = None
    overrides: dict[str, list[str]] = field(default_factory=dict)
    learning_rates: Sequence[Any] = (None,)
    console: Console = field(default_factory=lambda: Console(width=max(Console().width, 150)))
    output_dir: ClassVar[Path] = OUTPUT_DIR
    methods: ClassVar[Sequence[str]] = METHODS
    interpolations: ClassVar[Sequence[float]] = ()
    metrics: ClassVar[Mapping[str, str]] = {"": "accuracy_1_per_step"}

    def run(self) -> None:
        """Train, test, and write pages and figures under ``output_dir``.

        Raises:
            TabomError: If what is there was made with other options, configs or trajectories.
        """
        settings = self._settings()
        self._check(settings)
        if not list(BASE_DIR.glob("*.safetensors")):
            self._command("fit", "pretrain")
        if not (TRAJECTORIES_DIR / "manifest.json").is_file():
            self._command("predict", "distill")
        settings["trajectories"] = file_sha256(TRAJECTORIES_DIR / "manifest.json")
        self._check(settings)
        self.output_dir.mkdir(parents=True, exist_ok=True)
        with whole_file(self.output_dir / "settings.json") as file:
            file.write(json.dumps(settings, indent=2).encode())
        tested = self._test("tabom", {"base": ()})
        trainings = self._trainings()
        start = time.perf_counter()
        for number, training in enumerate(trainings, 1):
            tested += self._run(training)
            num_left, minutes = len(trainings) - number, (time.perf_counter() - start) / 60 / number
            done = f"{number} of {len(trainings)} runs done"
            self.console.print(f"[bold]{done}, {minutes:.1f} minutes each, {num_left * minutes:.0f} minutes left")
        self._report([self.output_dir / training.name for training in trainings], tested)

    def _trainings(self) -> list[Training]:
        """Seed by seed, so that an interrupted demo has whole curves."""
        rates = sorted(self.learning_rates)
        return [
            Training(config, seed, rate)
            for seed in self.seeds
            for config in self.methods
            for rate in ([rates[len(rates) // 2]] if config == OFF_FRONTIER else rates)
        ]

    def _settings(self) -> dict[str, Any]:
        """What the results depend on."""
        files = [self.configs / f"{name}.yaml" for name in ("pretrain", "distill", *self.methods)]
        for path in files:
            require(path.is_file(), f"{path}: expected a file, found none")
        files += sorted((self.configs.parent / "parts").glob("demo_*.yaml"))
        return {
            "seeds": list(self.seeds),
            "learning_rates": sorted(self.learning_rates),
            "public_test": self.public_test and file_sha256(self.public_test),
            **{path.name: file_sha256(path) for path in files},
        }

    def _check(self, settings: Mapping[str, Any]) -> None:
        """See that what an interrupted demo left is of the same one."""
        path = self.output_dir / "settings.json"
        if path.is_file():
            there = json.loads(path.read_text())
            advice = f"give what was given before, or move {self.output_dir} away to start afresh"
            known = {name: there.get(name) for name in settings}
            check_same(path, known, settings, "the results that are there", advice)

    def _run(self, training: Training) -> list[str]:
        """Train and test one model; of the baseline's largest learning rate also what lies between it and the base."""
        config, seed, rate = training
        tests = {training.name: ()}
        if config == BASELINE and rate == max(self.learning_rates):
            tests |= {f"{training.name}-x{x:g}": (f"--model.interpolation={x}",) for x in self.interpolations}
        if all(_has_finished(place) for name in tests for place, _ in self._places(name)):
            return list(tests)
        options = [f"--run_dir={self.output_dir / training.name}", f"--seed_everything={seed}"]
        options += [] if rate is None else [f"--model.optimizer.lr={rate}"]
        checkpoint = self._command("fit", config, *options, "--ckpt_path=last")  # goes on if it was stopped
        return self._test(config, {name: (*words, f"--ckpt_path={checkpoint}") for name, words in tests.items()})

    def _test(self, config: str, tests: Mapping[str, Sequence[str]]) -> list[str]:
        """Make the tests that are missing, given their options by the model's name; returns the names."""
        for name, options in tests.items():
            for place, further in self._places(name):
                if not _has_finished(place):
                    self._command("test", config, f"--run_dir={place}", *options, *further)
        return list(tests)

    def _places(self, name: str) -> list[tuple[Path, Sequence[str]]]:
        """Where a model's tests are kept, the one on public puzzles last, with their further options."""
        places: list[tuple[Path, Sequence[str]]] = [(self.output_dir / f"{name}-test", ())]
        if self.public_test is not None:
            file = f"--data.task.test_file={self.public_test.resolve()}"
            places.append((self.output_dir / f"{name}-public", (*_PUBLIC, file)))
        return places

    def _report(self, trained: Sequence[Path], tested: Sequence[str]) -> None:
        """Write a page of the tests, and one of those on public puzzles, for each metric; print their main tables."""
        from tabom.cli.verbs.report import write_pages
        from tabom.reporting.comparison import rich_table

        for kind, *places in zip(("test", "public"), *map(self._places, tested), strict=False):
            for suffix, metric in self.metrics.items():
                name = f"{kind}{suffix}"
                outputs = [self.output_dir / f"{name}.html", self.output_dir / f"{name}.md"]
                paths = [*trained, *(place for place, _ in places)]
                sections = write_pages(
                    paths, outputs, figures=self.output_dir / f"figures-{name}", stage="test", metric=metric,
                    title=f"4x4 Sudoku after post-training of one base model: {name}",
                )  # fmt: skip
                for table in (table for section in sections if section.title in _SHOWN for table in section.tables):
                    self.console.print(rich_table(table.rows, table.caption))
        self.console.print(f"Pages, figures and runs are under {self.output_dir}/; wandb sync uploads the runs.")

    def _command(self, verb: str, config: str, *options: str) -> str:
        """Run one command as the shell would; returns the best checkpoint's path, if it wrote one."""
        from tabom.cli.lightning_cli import run

        words = [verb, "--config", str(self.configs / f"{config}.yaml"), *options, *self.overrides.get(verb, [])]
        self.console.rule(f"tabom {' '.join(words)}", align="left")
        savers: list[Any] = run(words).trainer.checkpoint_callbacks
        return next((saver.best_model_path for saver in savers if getattr(saver, "monitor", None)), "")


@dataclass
class FullDemo(Demo):
    """Every method at several learning rates, compared at equal forgetting.

    SFT-GT, which is no part of the comparison, is trained at the middle learning rate alone.
    """

    learning_rates: Sequence[float] = LEARNING_RATES
    output_dir: ClassVar[Path] = FULL_OUTPUT_DIR
    methods: ClassVar[Sequence[str]] = FULL_METHODS
    interpolations: ClassVar[Sequence[float]] = (0.25, 0.5, 0.75)
    metrics: ClassVar[Mapping[str, str]] = {"": "accuracy_1_per_step", "-two-a-step": "accuracy_2_per_step"}

    def __post_init__(self) -> None:
        for name in ("seeds", "learning_rates"):
            values = getattr(self, name)
            require(len(set(values)) == len(values) > 0, f"{name}: expected different values, got {list(values)}")
        require(min(self.learning_rates) > 0, f"learning_rates: expected values above 0, got {self.learning_rates}")


def _has_finished(directory: Path) -> bool:
    """Whether a test in it has come to its end."""
    return any(read_record(path).state == "finished" for path in (directory / DIRECTORY).glob("test-*.jsonl"))
