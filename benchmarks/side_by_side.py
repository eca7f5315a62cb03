"""Trainings side by side: how much more of them two cores finish in an hour than one core does.

The same pipeline of equal trainings, the demo's TABOM on a base of the demo's size, runs with one job and with two, one
thread each, by turns, each time from its start to its end in a directory of its own.

    python benchmarks/side_by_side.py --json benchmarks/results/FILE.json
"""

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import common
import start
import yaml

from tabom.backbones import NewTinyDLM

GOAL = 1.7


def write_pipeline(folder: Path, num_trainings: int, num_steps: int) -> None:
    """Write a pipeline of trainings that differ in their seeds alone."""
    options = {
        "run_dir": "out/seed${seed}",
        "seed_everything": "${seed}",
        "model.backbone.path": "base",
        "data.path": "trajectories",
        "trainer.max_steps": num_steps,
        "trainer.limit_val_batches": 0,
    }
    step = {"name": "fit seed ${seed}", "verb": "fit", "config": str(start.ROOT / "configs/demo/tabom.yaml")}
    loop = {"for": {"seed": list(range(1, num_trainings + 1))}, "steps": [{**step, "options": options}]}
    (folder / "trainings.yaml").write_text(yaml.safe_dump({"output_dir": "out", "steps": [loop]}, sort_keys=False))


def seconds_of(folder: Path, num_jobs: int) -> float:
    """Time from the start of the pipeline to its end; what it wrote is removed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(start.ROOT)}
    command = [sys.executable, "-m", "tabom", "pipeline", "trainings.yaml", f"--jobs={num_jobs}"]
    began = time.perf_counter()
    subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
    seconds = time.perf_counter() - began
    shutil.rmtree(folder / "out")
    return seconds


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trainings", type=int, default=6)
    parser.add_argument("--steps", type=int, default=150, help="of each training")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    arguments.device = "cpu"
    figures = common.record("side_by_side", arguments)
    ways = (1, arguments.jobs)
    taken: dict[int, list[float]] = {way: [] for way in ways}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        start.make_inputs(folder, NewTinyDLM())
        write_pipeline(folder, arguments.trainings, arguments.steps)
        for _ in range(arguments.rounds):
            for way in ways:
                taken[way].append(seconds_of(folder, way))
    medians = {way: statistics.median(seconds) for way, seconds in taken.items()}
    figures["seconds"] = taken
    figures["ratio"] = medians[1] / medians[arguments.jobs]
    print(f"{'jobs':>5} {'seconds':>8} {'throughput':>11} {'goal':>5}")
    for way, seconds in medians.items():
        goal = f"{GOAL:5.1f}" if way == 2 else ""
        print(f"{way:5} {seconds:8.1f} {medians[1] / seconds:11.2f} {goal}")
    common.save(figures, arguments)


if __name__ == "__main__":
    main()
