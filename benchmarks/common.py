"""What the benchmarks share: the model's shape, timing by turns, peak memory, the machine's limits, and the record."""

import argparse
import datetime
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from tabom.backbones.decoder import DecoderBackbone
from tabom.backbones.llada import LladaBackbone
from tabom.backbones.stock import A2DQwen3Backbone
from tabom.backbones.transformer import Attention
from tabom.types import NEVER, TrajectoryBatch

SHAPES = {
    "llada-8b": {"vocabulary": 126464, "hidden": 4096, "head_size": 128, "mlp": 12288, "layers": 32},
    "qwen3-0.6b": {"vocabulary": 151936, "hidden": 1024, "head_size": 128, "mlp": 3072, "layers": 28},
}
"""Sizes of published models; for Qwen3 with its 16 heads, which share 8 pairs of keys and values."""


def parser(description: str | None) -> argparse.ArgumentParser:
    """A parser with the options of every benchmark."""
    result = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    result.add_argument("--device", default="cpu")
    result.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    result.add_argument("--json", type=Path, help="file for the figures")
    return result


def record(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Date, machine and settings of a run."""
    machine = {"platform": platform.platform(), "cpus": os.cpu_count(), "threads": torch.get_num_threads()}
    if arguments.device == "cuda":
        machine["gpu"] = torch.cuda.get_device_name()
    return {
        "benchmark": name,
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "torch": torch.__version__,
        "settings": {key: value for key, value in vars(arguments).items() if key not in ("json", "peak_of")},
    }


def save(figures: Mapping[str, Any], arguments: argparse.Namespace) -> None:
    """Write the figures, if a file is given."""
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


def add_shape(parser: argparse.ArgumentParser, *, hidden: int, layers: int) -> None:
    """Options that say how large the model is; ``--model`` takes a published shape instead."""
    parser.add_argument("--model", choices=SHAPES, help="shape of a published model, in place of the options below")
    parser.add_argument("--vocabulary", type=int, default=152064)
    parser.add_argument("--hidden", type=int, default=hidden)
    parser.add_argument("--head_size", type=int, default=64)
    parser.add_argument("--mlp", type=int, help="width of the inner layers (4 times the hidden size)")
    parser.add_argument("--layers", type=int, default=layers)


def take_shape(arguments: argparse.Namespace) -> argparse.Namespace:
    """The same options with the sizes of ``--model``."""
    if arguments.model is None:
        return arguments
    return argparse.Namespace(**{**vars(arguments), **SHAPES[arguments.model]})


def random_backbone(arguments: argparse.Namespace, *, length: int, attention: Attention = "sdpa") -> DecoderBackbone:
    """A model of the given shape with the same random weights each time, on the device that was asked for."""
    torch.manual_seed(0)
    torch.set_default_dtype(getattr(torch, arguments.dtype))
    try:
        with torch.device(arguments.device):
            if arguments.model == "qwen3-0.6b":
                return A2DQwen3Backbone.from_config(_qwen3_config(arguments, length), attn_implementation=attention)
            return LladaBackbone.from_config(_llada_config(arguments, length), attn_implementation=attention)
    finally:
        torch.set_default_dtype(torch.float32)


def num_layer_weights(backbone: DecoderBackbone) -> int:
    """Weights that every position is multiplied with, without embeddings, head and adapter."""
    return sum(
        value.numel() for name, value in backbone.named_parameters() if ".layers." in name and "lora_" not in name
    )


def _llada_config(arguments: argparse.Namespace, length: int) -> dict[str, Any]:
    num_heads = arguments.hidden // arguments.head_size
    return {
        "model_type": "llada",
        "d_model": arguments.hidden,
        "embedding_size": arguments.vocabulary,
        "vocab_size": arguments.vocabulary,
        "mask_token_id": arguments.vocabulary - 1,
        "max_sequence_length": length,
        "mlp_hidden_size": arguments.mlp or 4 * arguments.hidden,
        "n_heads": num_heads,
        "n_kv_heads": num_heads,
        "n_layers": arguments.layers,
        "rms_norm_eps": 1e-5,
        "rope_theta": 500000.0,
    }


def _qwen3_config(arguments: argparse.Namespace, length: int) -> dict[str, Any]:
    return {
        "model_type": "a2d-qwen3",
        "vocab_size": arguments.vocabulary,
        "mask_token_id": arguments.vocabulary - 1,
        "max_position_embeddings": length,
        "hidden_size": arguments.hidden,
        "intermediate_size": arguments.mlp,
        "num_hidden_layers": arguments.layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 8,
        "head_dim": arguments.head_size,
        "tie_word_embeddings": False,
    }


def make_batch(*, rows: int, length: int, vocabulary: int, device: str = "cpu") -> TrajectoryBatch:
    """Half prompt, half response, decoded one token per step in a random order."""
    generator = torch.Generator().manual_seed(0)
    shape, half = (rows, length), length // 2
    is_response = torch.zeros(shape, dtype=torch.bool)
    is_response[:, half:] = True
    unmask_step = torch.full(shape, NEVER)
    unmask_step[:, half:] = torch.rand(rows, half, generator=generator).argsort(1)
    return TrajectoryBatch(
        clean_ids=torch.randint(0, vocabulary - 1, shape, generator=generator),
        attention_mask=torch.ones(shape, dtype=torch.bool),
        is_response=is_response,
        is_filler=torch.zeros(shape, dtype=torch.bool),
        unmask_step=unmask_step,
        unmask_entropy=torch.full(shape, torch.nan),
        query_ids=tuple(map(str, range(rows))),
        row_numbers=torch.arange(rows),
    ).to(device)


def synchronise(device: str) -> None:
    """Wait for the device."""
    if device == "cuda":
        torch.cuda.synchronize()


def seconds_by_turns(steps: Mapping[str, Callable[[], None]], *, rounds: int, device: str) -> dict[str, list[float]]:
    """Time of each kind of step, by turns, as the machine's speed may change; the first round warms up."""
    taken: dict[str, list[float]] = {kind: [] for kind in steps}
    for number in range(rounds + 1):
        order = list(steps) if number % 2 else list(steps)[::-1]
        for kind in order:
            synchronise(device)
            start = time.perf_counter()
            steps[kind]()
            synchronise(device)
            if number:
                taken[kind].append(time.perf_counter() - start)
    return taken


def ratio_of(above: list[float], below: list[float]) -> dict[str, Any]:
    """Median and range of the ratio, round by round."""
    ratios = sorted(a / b for a, b in zip(above, below, strict=True))
    return {"time": statistics.median(ratios), "time_range": [ratios[0], ratios[-1]]}


def peak_bytes_of(step: Callable[[], None], device: str) -> int:
    """Largest memory while a step runs, beyond what lies there before it: inputs, weights, libraries.

    A first step warms up, as libraries make their buffers in it. On a CPU: in a process of :func:`peak_of_process`.
    """
    step()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = _memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    step()
    return _memory("VmHWM") - before


def peak_of_process(kind: str, *options: str) -> int:
    """What this benchmark prints with ``--peak_of``, in a process of its own, whose allocator keeps nothing back."""
    command = [sys.executable, sys.argv[0], *sys.argv[1:], *options, "--peak_of", kind]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": str(2**16), "MALLOC_TRIM_THRESHOLD_": "0"}
    run = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    return int(run.stdout.split()[-1])


def matrix_peak(device: str, dtype: torch.dtype) -> float:
    """Operations a second of a large matrix product: the best of some."""
    size = 8192 if device == "cuda" else 2048
    matrix = torch.randn(size, size, device=device, dtype=dtype)
    return 2 * size**3 / _best_seconds(lambda: matrix @ matrix, device)


def bandwidth(device: str) -> float:
    """Bytes a second that a large copy reads and writes: the best of some."""
    source = torch.zeros(2**27 if device == "cuda" else 2**25)
    source = source.to(device)
    target = torch.zeros_like(source)
    return 2 * source.nbytes / _best_seconds(lambda: target.copy_(source), device)


def _best_seconds(call: Callable[[], Any], device: str) -> float:
    times = []
    number = 5 if device == "cuda" else 1  # a GPU works on while the next ones are asked for
    for _ in range(10):
        start = time.perf_counter()
        for _ in range(number):
            call()
        synchronise(device)
        times.append((time.perf_counter() - start) / number)
    return min(times)


def _memory(name: str) -> int:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return 1024 * int(status[name].split()[0])
