"""How the time of a training step grows with the batch, the window, the length, and the number of processes.

The step is that of ``train_step.py``. Each row of the table changes one size and keeps the others; ``growth`` is the
time over that of the row before, ``linear`` what it would be if it were proportional to the size. With several
processes, each takes a batch of its own and the adapter's gradients are averaged once a step, as data-parallel training
does; every process has one thread, and linear means no growth.

    python benchmarks/scaling.py --json benchmarks/results/FILE.json
"""

import argparse
import os
import statistics
import tempfile
import time
from pathlib import Path

import common
import torch
import torch.distributed
import torch.multiprocessing
from train_step import add_sizes, make_step

SIZES = {"batch": [1, 2, 4, 8], "window": [8, 16, 32, 64, 128], "length": [128, 256, 512, 1024]}


def seconds_of(arguments: argparse.Namespace, *, num_processes: int = 1) -> float:
    """Median time of a step."""
    step = make_step(arguments, "tabom", num_processes=num_processes)
    times = []
    for number in range(arguments.rounds + 1):
        common.synchronise(arguments.device)
        start = time.perf_counter()
        step()
        common.synchronise(arguments.device)
        if number:
            times.append(time.perf_counter() - start)
    return statistics.median(times)


def work(rank: int, num_processes: int, folder: str, arguments: argparse.Namespace) -> None:
    """One of several processes; the first writes its time."""
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=num_processes
    )
    seconds = seconds_of(arguments, num_processes=num_processes)
    if rank == 0:
        (Path(folder) / "seconds").write_text(str(seconds))
    torch.distributed.destroy_process_group()


def seconds_of_processes(arguments: argparse.Namespace, num_processes: int) -> float:
    """Median time of a step of several processes."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (num_processes, folder, arguments), nprocs=num_processes)
        return float((Path(folder) / "seconds").read_text())


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    add_sizes(parser)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="on a CPU alone")
    arguments = common.take_shape(parser.parse_args())
    record = common.record("scaling", arguments)
    record["seconds"] = {}
    print(f"{'size':10} {'value':>6} {'seconds':>8} {'growth':>7} {'linear':>7}")
    for name, values in SIZES.items():
        taken = {
            value: seconds_of(argparse.Namespace(**{**vars(arguments), name: value}))
            for value in values
            if name != "window" or value <= arguments.length // 2
        }
        report(record, name, taken)
    if arguments.device == "cpu":
        numbers = [number for number in arguments.processes if number <= (os.cpu_count() or 1)]
        taken = {number: seconds_of_processes(arguments, number) for number in numbers}
        report(record, "processes", taken)
    common.save(record, arguments)


def report(record: dict, name: str, taken: dict[int, float]) -> None:
    """Print the rows of one size."""
    record["seconds"][name] = taken
    before = None
    for value, seconds in taken.items():
        growth, linear = "", ""
        if before is not None:
            growth = f"{seconds / taken[before]:.2f}"
            linear = "1.00" if name == "processes" else f"{value / before:.2f}"
        print(f"{name:10} {value:6} {seconds:8.3f} {growth:>7} {linear:>7}", flush=True)
        before = value


if __name__ == "__main__":
    main()
