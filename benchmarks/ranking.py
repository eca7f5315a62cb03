"""What the ranking costs: time and peak memory of a training step with it, over the same step without it.

The step is LoRA training of a LLaDA of few layers with a real vocabulary: forward, statistics at the targets, loss,
backward, optimizer. Three kinds of steps take turns in one process, so that a changing speed of the machine hits all;
memory is the median over some processes of its own for each.

* ``tabom``: reconstruction and ranking;
* ``masking``: the same objective with ``rank_weight: 0``, which logs order agreement;
* ``cross_entropy``: torch's cross-entropy of the same targets, no entropies at all.

    python benchmarks/ranking.py --json benchmarks/results/FILE.json
"""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from tabom.backbones.llada import LladaBackbone
from tabom.backbones.lora import Lora
from tabom.backbones.target_pass import TargetPass
from tabom.objectives import TabomObjective
from tabom.types import NEVER, TrajectoryBatch

KINDS = ("tabom", "masking", "cross_entropy")
RATIOS = (("tabom", "masking"), ("tabom", "cross_entropy"))


def make_step(arguments: argparse.Namespace, kind: str) -> Callable[[], None]:
    """One training step of a kind, on the same weights and data for all kinds."""
    torch.manual_seed(0)
    config = {
        "model_type": "llada",
        "activation_type": "silu",
        "block_type": "llama",
        "d_model": arguments.hidden,
        "embedding_size": arguments.vocabulary,
        "vocab_size": arguments.vocabulary,
        "layer_norm_type": "rms",
        "mask_token_id": arguments.vocabulary - 1,
        "max_sequence_length": arguments.length,
        "mlp_hidden_size": 4 * arguments.hidden,
        "n_heads": arguments.hidden // 64,
        "n_kv_heads": arguments.hidden // 64,
        "n_layers": arguments.layers,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 500000.0,
    }
    backbone = LladaBackbone.from_config(config)
    backbone.add_adapter(Lora(r=16, alpha=16, target_modules=("q_proj", "v_proj")), "benchmark")
    backbone = backbone.to(arguments.device).train()
    optimizer = torch.optim.AdamW([p for p in backbone.parameters() if p.requires_grad], lr=2e-5)
    batch = make_batch(arguments).to(arguments.device)
    objective = TabomObjective(window=arguments.window, rank_weight=0.0 if kind == "masking" else 1.0)
    generator = torch.Generator(arguments.device).manual_seed(0)

    def loss() -> Tensor:
        corrupted = objective.corrupt(batch, backbone.mask_token_id, generator)
        seen = TargetPass(backbone, corrupted)
        if kind == "cross_entropy":
            return torch.nn.functional.cross_entropy(seen.logits.float(), corrupted.clean_ids[corrupted.is_target])
        return objective.terms(seen.statistics(), corrupted)["loss"]

    def step() -> None:
        loss().backward()
        optimizer.step()
        optimizer.zero_grad()
        if arguments.device == "cuda":
            torch.cuda.synchronize()

    return step


def make_batch(arguments: argparse.Namespace) -> TrajectoryBatch:
    """Half prompt, half response, decoded one token a step in a random order."""
    shape, half = (arguments.batch, arguments.length), arguments.length // 2
    is_response = torch.zeros(shape, dtype=torch.bool)
    is_response[:, half:] = True
    unmask_step = torch.full(shape, NEVER)
    unmask_step[:, half:] = torch.rand(arguments.batch, half).argsort(1)
    return TrajectoryBatch(
        clean_ids=torch.randint(0, arguments.vocabulary - 1, shape),
        attention_mask=torch.ones(shape, dtype=torch.bool),
        is_response=is_response,
        is_filler=torch.zeros(shape, dtype=torch.bool),
        unmask_step=unmask_step,
        unmask_entropy=torch.full(shape, torch.nan),
        query_ids=tuple(map(str, range(arguments.batch))),
    )


def seconds(arguments: argparse.Namespace) -> dict[str, list[float]]:
    """Time of each kind's steps, by turns; the first round warms up."""
    steps = {kind: make_step(arguments, kind) for kind in KINDS}
    taken: dict[str, list[float]] = {kind: [] for kind in KINDS}
    for round_number in range(arguments.rounds + 1):
        order = KINDS if round_number % 2 else KINDS[::-1]
        for kind in order:
            start = time.perf_counter()
            steps[kind]()
            if round_number:
                taken[kind].append(time.perf_counter() - start)
    return taken


def peak_bytes(arguments: argparse.Namespace) -> int:
    """Largest memory of this process after three steps."""
    step = make_step(arguments, arguments.peak_of)
    for _ in range(3):
        step()
    if arguments.device == "cuda":
        return torch.cuda.max_memory_allocated()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status["VmHWM"].split()[0])


def peak_of_processes(kind: str, num_runs: int) -> int:
    """Median of several processes, since the allocator's share varies by some percent."""
    command = [sys.executable, __file__, *sys.argv[1:], "--peak_of", kind]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(num_runs)]
    return int(statistics.median(int(run.stdout.split()[-1]) for run in runs))


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=152064)
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument(
        "--peak_runs", type=int, default=5, help="processes whose peak memory is measured, of each kind"
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--peak_of", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak_of:
        print(peak_bytes(arguments))
        return
    peaks = {kind: peak_of_processes(kind, arguments.peak_runs) for kind in KINDS}
    taken = seconds(arguments)
    record = {
        "benchmark": "ranking",
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()},
        "torch": torch.__version__,
        "settings": {name: value for name, value in vars(arguments).items() if name not in ("json", "peak_of")},
        "median_seconds": {kind: statistics.median(times) for kind, times in taken.items()},
        "peak_bytes": peaks,
        "ratios": {},
    }
    print(f"{'ratio':28} {'time':>7} {'quartiles':>15} {'peak memory':>12}")
    for above, below in RATIOS:
        pairs = [a / b for a, b in zip(taken[above], taken[below], strict=True)]
        low, middle, high = statistics.quantiles(pairs, n=4)
        record["ratios"][f"{above} / {below}"] = {
            "time": middle,
            "time_quartiles": [low, high],
            "peak_memory": peaks[above] / peaks[below],
        }
        memory = peaks[above] / peaks[below]
        print(f"{above + ' / ' + below:28} {middle:7.3f} {low:7.3f} {high:7.3f} {memory:12.3f}")
    if arguments.json:
        arguments.json.write_text(json.dumps(record, indent=2) + "\n")


if __name__ == "__main__":
    main()
