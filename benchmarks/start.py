"""What a start costs: processor time of whole processes, over that of ``import lightning.pytorch``.

Each way is started by turns, ``rounds`` times, on one thread; what counts is user and system time, which other work on
the machine changes little. ``first step`` is the demo's TABOM with a tiny base, from the start of the process to the
end of its first optimizer step.

    python benchmarks/start.py --json benchmarks/results/FILE.json
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import torch
from lightning import Callback

from tabom.backbones import NewTinyDLM
from tabom.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from tabom.tasks import Sudoku4x4
from tabom.trajectories import Origin, TrajectoryStore
from tabom.types import TrajectoryRow

ROOT = Path(__file__).parents[1]
FIT = ["-m", "tabom", "fit"]
DEMO = [*FIT, "--config", str(ROOT / "configs" / "demo" / "tabom.yaml")]
REFERENCE = "import lightning.pytorch"
STEP = "first step"
WAYS = {
    REFERENCE: ["-c", REFERENCE],
    "help": [*FIT, "--help"],
    "help of chat": ["-m", "tabom", "chat", "--help"],
    "typo": [*DEMO, "--trainer.max_stepz=3"],
    "missing base": DEMO,
    STEP: [
        *DEMO,
        "--model.backbone.path=base",
        "--data.path=trajectories",
        "--data.tokenizer=base",
        "--data.batch_size=4",
        "--trainer.max_steps=1",
        "--model.lr_scheduler.num_warmup_steps=0",
        "--trainer.limit_val_batches=0",
        "--trainer.default_root_dir=out",
        "--trainer.callbacks+=start.SayTime",
    ],
}
GOALS = {"help": 1.3, "help of chat": 0.25, "typo": 1.3, "missing base": 1.3, STEP: 2.0}
LENGTH = 19


class SayTime(Callback):
    """Says after the first step how much processor time its process has taken, in seconds."""

    def on_train_batch_end(self, *args: Any) -> None:
        """Print."""
        del args
        print(f"seconds {time.process_time()}")


def seconds_of(name: str, folder: str) -> float:
    """Processor time of one start, with what it starts itself."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    paths = [str(ROOT), str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, *WAYS[name]]
    run = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if name == STEP:
        lines = [line for line in run.stdout.splitlines() if line.startswith("seconds ")]
        if not lines:
            raise RuntimeError(f"no step was made: {run.stderr}")
        return float(lines[0].split()[1])
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def make_inputs(folder: Path, source: NewTinyDLM) -> None:
    """Write a base with random weights and 64 trajectories of its length."""
    tokenizer = load_tokenizer("characters")
    backbone = source.load(tokenizer)
    backbone.save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    rows = [
        TrajectoryRow(
            query_id=example.query_id,
            sample=0,
            is_verified=True,
            prompt_ids=tokenizer(example.prompt)["input_ids"],
            response_ids=(tokenizer(example.reference)["input_ids"] + [tokenizer.eos_token_id] * LENGTH)[:LENGTH],
            unmask_step=torch.randperm(LENGTH).tolist(),
            unmask_entropy=torch.rand(LENGTH).tolist(),
            prompt=example.prompt,
            response=example.reference,
            reference=example.reference,
        )
        for example in Sudoku4x4(answer_layout="rows").examples("train", 64)
    ]
    store = TrajectoryStore(folder / "trajectories")
    fingerprint = tokenizer_fingerprint(tokenizer)
    store.open(Origin(LENGTH, tokenizer.mask_token_id, fingerprint, "0" * 64, "1" * 64, 1, {}))
    store.write(0, rows, num_queries=len(rows), num_tokens=LENGTH * len(rows), rejected={})
    store.finish()


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, help="file for the figures")
    arguments = parser.parse_args()
    arguments.device = "cpu"
    record = common.record("start", arguments)
    taken: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        make_inputs(Path(folder), NewTinyDLM(hidden_size=16, num_layers=2, num_heads=2, intermediate_size=32))
        for _ in range(arguments.rounds):
            for name in WAYS:
                taken[name].append(seconds_of(name, folder))
                shutil.rmtree(Path(folder) / "out", ignore_errors=True)  # the next start is a first one as well
    medians = {name: statistics.median(seconds) for name, seconds in taken.items()}
    record["seconds"] = taken
    record["ratio"] = {name: medians[name] / medians[REFERENCE] for name in GOALS}
    print(f"{'start':25} {'seconds':>8} {'ratio':>6} {'goal':>5}")
    for name, seconds in medians.items():
        ratio = f"{seconds / medians[REFERENCE]:6.2f} {GOALS[name]:5.1f}" if name in GOALS else ""
        print(f"{name:25} {seconds:8.2f} {ratio}", flush=True)
    common.save(record, arguments)


if __name__ == "__main__":
    main()
