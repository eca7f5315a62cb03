"""``tabom demo``: base model, trajectories, four trainings, one table and one figure.

The same command goes on after an interruption. ``--full`` trains every method at several learning rates and compares
the methods at equal forgetting.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from tabom.demo.stages import FULL_OUTPUT_DIR, LEARNING_RATES, Demo, FullDemo
from tabom.errors import require


def run(words: Sequence[str]) -> None:
    """``tabom demo``."""
    parser = argparse.ArgumentParser("tabom demo", description=__doc__)
    parser.add_argument("verb", help=argparse.SUPPRESS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2], help="seeds of the post-trainings (1 2)")
    parser.add_argument("--configs", type=Path, default=Path("configs/demo"), help="directory of the stages' configs")
    parser.add_argument("--public_test", type=Path, help="CSV of public 4x4 Sudoku puzzles to be tested on as well")
    parser.add_argument("--full", action="store_true", help=f"all methods, at equal forgetting: {FULL_OUTPUT_DIR}/")
    parser.add_argument("--learning_rates", type=float, nargs="+", help="of each method with --full (3e-4 1e-3 2e-3)")
    arguments = parser.parse_args(words)
    require(
        (arguments.configs / "pretrain.yaml").is_file(),
        f"{arguments.configs}/pretrain.yaml: expected the demo's configs, found no such file; "
        "run from the repository's root or give --configs",
    )
    shared = (arguments.configs, arguments.seeds, arguments.public_test)
    if arguments.full:
        FullDemo(*shared, learning_rates=arguments.learning_rates or LEARNING_RATES).run()
        return
    is_one_rate = arguments.learning_rates is None
    require(is_one_rate, "learning_rates: expected --full beside it, which compares learning rates")
    Demo(*shared).run()
