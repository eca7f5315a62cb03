"""Trajectories a second: what the loader delivers over what a training step of the tiny model consumes.

Trajectories lie in a table, as they do after the shards are read; a step is corruption, forward, statistics, loss,
backward and optimizer. Loader and steps take turns in one process.

* ``long``: 512 positions, half of them response;
* ``demo``: the lengths and the batch size of the demo.

With ``--prompts``, also the share of padding in batches of real prompts, with and without ``group_by_length``.

    python benchmarks/data.py --prompts gsm8k/train.jsonl --tokenizer DIRECTORY --json benchmarks/results/FILE.json
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import common
import numpy as np
import torch

from tabom.backbones import NewTinyDLM
from tabom.backbones.target_pass import TargetPass
from tabom.data.encoding import NumberedRows, collate_rows
from tabom.data.loading import ResumableLoader
from tabom.data.tokenizer import load_tokenizer
from tabom.data.trajectories import TrajectoryRows
from tabom.objectives import TabomObjective
from tabom.seeding import RowDraws
from tabom.trajectories import Manifest, Origin, TrajectoryTable
from tabom.types import SpecialIds, TrajectoryBatch


class Workload(NamedTuple):
    """Lengths in tokens; the batch size of the step."""

    prompt_length: int
    response_length: int
    batch_size: int
    window: int


WORKLOADS = {"long": Workload(256, 256, 8, 32), "demo": Workload(24, 19, 48, 8)}
NUM_DEVICES = 4
"""Among which the padded batches are shared out."""


def make_table(work: Workload, num_rows: int) -> TrajectoryTable:
    """Random characters, decoded one a step in a random order."""
    random = np.random.default_rng(0)
    shape = (num_rows, work.response_length)
    return TrajectoryTable(
        manifest=Manifest(Origin(work.response_length, 1, "", "", "", 0, {}), {}, ()),
        query_ids=[f"query/{row}" for row in range(num_rows)],
        samples=np.zeros(num_rows, np.int16),
        is_verified=np.ones(num_rows, np.bool_),
        prompt_ids=random.integers(3, 99, (num_rows, work.prompt_length)).tolist(),
        response_ids=random.integers(3, 99, shape, dtype=np.int32),
        unmask_step=random.random(shape).argsort(1).astype(np.int16),
        unmask_entropy=random.random(shape, dtype=np.float32),
        references=[""] * num_rows,
    )


def make_loader(table: TrajectoryTable, batch_size: int, num_workers: int) -> ResumableLoader:
    """As the data module makes it."""
    ids = SpecialIds.of(load_tokenizer("characters"))
    return ResumableLoader(
        NumberedRows(TrajectoryRows(table, range(len(table.query_ids)))),
        batch_size=batch_size,
        accumulation=1,
        seed=0,
        rank=0,
        world_size=1,
        collate_fn=partial(collate_rows, pad_token_id=ids.pad, eos_token_id=ids.eos),
        num_workers=num_workers,
    )


def make_step(work: Workload, batch: TrajectoryBatch) -> Callable[[], None]:
    """One training step of the tiny model on a batch that is there already."""
    torch.manual_seed(0)
    backbone = NewTinyDLM().load(load_tokenizer("characters")).train()
    optimizer = torch.optim.AdamW(backbone.parameters(), lr=1e-3)
    objective = TabomObjective(window=work.window, truncated_windows=True)
    keys: Iterator[int] = iter(range(10**9))

    def step() -> None:
        draws = RowDraws.of_numbers(next(keys), torch.arange(work.batch_size))
        corrupted = objective.corrupt(batch, backbone.mask_token_id, draws)
        objective.terms(TargetPass(backbone, corrupted).statistics(), corrupted)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def rates(work: Workload, arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Trajectories a second of the step and of the loaders, by turns; the first round warms up."""
    table = make_table(work, arguments.rows)
    loaders = {f"{num_workers} workers": make_loader(table, work.batch_size, num_workers) for num_workers in (0, 2)}
    step = make_step(work, next(iter(loaders["0 workers"])))
    found: dict[str, list[float]] = {name: [] for name in ("step", *loaders)}
    for round_number in range(arguments.rounds + 1):
        for name in found:
            start = time.perf_counter()
            if name == "step":
                for _ in range(arguments.steps):
                    step()
                num_rows = arguments.steps * work.batch_size
            else:
                num_rows = sum(len(batch.query_ids) for batch in loaders[name])
            if round_number:
                found[name].append(num_rows / (time.perf_counter() - start))
    return found


def padding(arguments: argparse.Namespace, *, grouped: bool) -> dict[str, float]:
    """Share of padding in the prompts and in the canvas of one device's batches, over three epochs."""
    tokenizer = load_tokenizer(arguments.tokenizer)
    questions = [json.loads(line)["question"] for line in Path(arguments.prompts).read_text().splitlines()]
    lengths = [len(ids) for ids in tokenizer(questions, add_special_tokens=False)["input_ids"]]
    work = WORKLOADS["long"]
    loader = ResumableLoader(
        lengths,
        batch_size=work.batch_size,
        accumulation=1,
        seed=0,
        rank=0,
        world_size=NUM_DEVICES,
        collate_fn=list,
        lengths=lengths if grouped else None,
    )
    num_tokens = num_padded = num_rows = 0
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)  # pyright: ignore[reportAttributeAccessIssue]
        for batch in loader:
            num_rows += len(batch)
            num_tokens += sum(batch)
            num_padded += max(batch) * len(batch) - sum(batch)
    num_response_tokens = num_rows * work.response_length
    return {
        "prompts": num_padded / (num_tokens + num_padded),
        "canvas": num_padded / (num_tokens + num_padded + num_response_tokens),
    }


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    parser.add_argument("--rows", type=int, default=2048, help="trajectories in the table")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="training steps in a round")
    parser.add_argument("--prompts", help="JSON Lines with the key question")
    parser.add_argument("--tokenizer", help="directory of the tokenizer of --prompts")
    arguments = parser.parse_args()
    record: dict[str, Any] = {**common.record("data", arguments), "trajectories_per_second": {}, "ratios": {}}
    print(f"{'trajectories a second':28} {'loader':>9} {'step':>9} {'ratio':>8} {'lowest':>8} {'highest':>8}")
    for workload, work in WORKLOADS.items():
        found = rates(work, arguments)
        record["trajectories_per_second"][workload] = {n: statistics.median(values) for n, values in found.items()}
        middle = record["trajectories_per_second"][workload]
        for name in list(found)[1:]:
            ratio = common.ratio_of(found[name], found["step"])
            low, high = ratio["time_range"]
            record["ratios"][f"{workload}: {name} / step"] = {"rate": ratio["time"], "rate_range": [low, high]}
            print(
                f"{workload + ', ' + name:28} {middle[name]:9.0f} {middle['step']:9.1f} "
                f"{ratio['time']:8.1f} {low:8.1f} {high:8.1f}"
            )
    if arguments.prompts:
        record["padding"] = {
            name: padding(arguments, grouped=grouped) for name, grouped in (("shuffled", False), ("grouped", True))
        }
        for name, shares in record["padding"].items():
            print(f"padding, {name}: {shares['prompts']:.1%} of the prompts, {shares['canvas']:.1%} of the canvas")
    common.save(record, arguments)


if __name__ == "__main__":
    main()
