"""Time and peak memory of a whole training step: what the released code does over ours, and what the ranking costs.

The step is LoRA training of a LLaDA of few layers with a real vocabulary: forward, statistics at the targets, loss,
backward, optimizer.

* ``released``: eager attention, float32 logits of the whole canvas, softmax and its logarithm, a loop over the samples
  with a matrix of all pairs for each (written afresh; tokenisation is left out);
* ``cross_entropy``: our backbone and torch's cross-entropy of the targets, no entropies at all;
* ``masking``: our step with ``rank_weight: 0``, which logs order agreement;
* ``tabom``: our step, reconstruction and ranking;
* ``compiled``: the same with ``torch.compile`` of each block of the backbone;
* ``fused``: the same with torch's fused AdamW;
* ``replay``: the same with as many rows of replay;
* ``plain_rows``: the same with as many rows of uniformly masked cross-entropy in its place;
* ``base_pass``: what the base has to say about these rows, without a gradient.

A replay needs the passes of plain rows and that of the base: ``extra`` is the time that it adds to ``tabom`` over the
time that these add.

Time is taken by turns in one process; peak memory, beyond weights and inputs, in a process of its own for each. Model
FLOP utilisation: operations that the step needs (frozen weights: forward, and backward to the activations), over its
time, over what a large matrix product reaches on this machine.

    python benchmarks/train_step.py --json benchmarks/results/FILE.json
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import common
import torch
import torch.distributed
from token_statistics import Inputs, released
from torch import Tensor
from transformers.modeling_layers import GradientCheckpointingLayer

from tabom.backbones import Denoiser
from tabom.backbones.decoder import DecoderBackbone
from tabom.backbones.lora import Lora
from tabom.backbones.target_pass import TargetPass
from tabom.corruption import UniformMasking
from tabom.objectives import Replay, TabomObjective
from tabom.seeding import RowDraws
from tabom.types import TrajectoryBatch

KINDS = ("released", "cross_entropy", "masking", "tabom", "compiled", "fused", "replay", "plain_rows", "base_pass")
RATIOS = (
    ("released", "tabom"),
    ("tabom", "masking"),
    ("tabom", "cross_entropy"),
    ("compiled", "tabom"),
    ("fused", "tabom"),
    ("replay", "plain_rows"),
)


def make_backbone(arguments: argparse.Namespace, kind: str) -> DecoderBackbone:
    """The same random weights for all kinds."""
    attention = "eager" if kind == "released" else "sdpa"
    backbone = common.random_backbone(arguments, length=arguments.length, attention=attention)
    if arguments.gradient_checkpointing:
        backbone.transformer.activation_checkpointing_enable({"use_reentrant": False})
    backbone.add_adapter(Lora(r=16, alpha=16, target_modules=("q_proj", "v_proj")), "benchmark")
    if kind == "compiled":
        for block in backbone.modules():
            if isinstance(block, GradientCheckpointingLayer):
                block.compile()
    return backbone.to(arguments.device).train()


def make_batch(arguments: argparse.Namespace) -> TrajectoryBatch:
    """The same rows for all kinds."""
    return common.make_batch(
        rows=arguments.batch, length=arguments.length, vocabulary=arguments.vocabulary, device=arguments.device
    )


def make_step(arguments: argparse.Namespace, kind: str, *, num_processes: int = 1) -> Callable[[], None]:
    """One training step of a kind, on the same weights, data and masks for all kinds.

    Several processes average the gradients.
    """
    if kind == "base_pass":
        return make_base_pass(arguments)
    backbone = make_backbone(arguments, kind)
    trained = [p for p in backbone.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=2e-5, fused=True if kind == "fused" else None)
    batch = make_batch(arguments)
    objective = TabomObjective(window=arguments.window, rank_weight=0.0 if kind == "masking" else 1.0)
    numbers = iter(range(10**9))
    base = backbone.reference()

    def loss() -> Tensor:
        draws = RowDraws.of_numbers(next(numbers), batch.row_numbers)
        corrupted = objective.corrupt(batch, backbone.mask_token_id, draws)
        if kind == "released":
            hidden = backbone(corrupted.noisy_ids, corrupted.attention_mask)
            return released(Inputs(hidden, backbone.head.weight, corrupted, objective))
        seen = TargetPass(backbone, corrupted)
        if kind == "cross_entropy":
            logits = seen.head.logits(seen.hidden).float()
            return torch.nn.functional.cross_entropy(logits, corrupted.clean_ids[corrupted.is_target])
        return objective.terms(seen.statistics(), corrupted)["loss"] + further_loss(kind, backbone, base, batch, draws)

    def step() -> None:
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            value = loss()
        value.backward()
        if num_processes > 1:
            gradients = torch.cat([p.grad.flatten() for p in trained])
            torch.distributed.all_reduce(gradients)
            for parameter, gradient in zip(trained, gradients.split([p.numel() for p in trained]), strict=True):
                parameter.grad.copy_(gradient.view_as(parameter) / num_processes)
        optimizer.step()
        optimizer.zero_grad()

    return step


def make_base_pass(arguments: argparse.Namespace) -> Callable[[], None]:
    """What the base has to say about uniformly masked rows."""
    backbone = make_backbone(arguments, "base_pass")
    base, batch = backbone.reference(), make_batch(arguments)
    numbers = iter(range(10**9))

    @torch.no_grad()
    def step() -> None:
        draws = RowDraws.of_numbers(next(numbers), batch.row_numbers)
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            TargetPass(base, UniformMasking()(batch, base.mask_token_id, draws)).statistics()

    return step


def further_loss(
    kind: str, backbone: DecoderBackbone, base: Denoiser, batch: TrajectoryBatch, draws: RowDraws
) -> Tensor | float:
    """Of the rows that go beside those of the step."""
    if kind == "replay":
        nothing = torch.zeros((), device=batch.clean_ids.device)
        return Replay().terms(nothing, batch, backbone=backbone, base=base, step=0, draws=draws)["loss"]
    if kind == "plain_rows":
        corrupted = UniformMasking()(batch, backbone.mask_token_id, draws)
        return TargetPass(backbone, corrupted).statistics().nll[corrupted.is_target].mean()
    return 0.0


def num_operations(arguments: argparse.Namespace) -> int:
    """Multiplications and additions of a step: layers and attention, and the head at the targets."""
    num_positions = arguments.batch * arguments.length
    on_no_device = argparse.Namespace(**{**vars(arguments), "device": "meta"})
    weights = common.num_layer_weights(common.random_backbone(on_no_device, length=arguments.length))
    attention = arguments.layers * 2 * arguments.length * arguments.hidden
    head = arguments.batch * arguments.window * arguments.hidden * arguments.vocabulary
    return 2 * 2 * (num_positions * (weights + attention) + head)


def extra_of_replay(taken: dict[str, list[float]]) -> dict[str, Any]:
    """What the replay adds to a step over what the passes that it needs add, round by round."""
    rounds = zip(*(taken[kind] for kind in ("tabom", "replay", "plain_rows", "base_pass")), strict=True)
    pairs = [(replay - step, plain - step + base) for step, replay, plain, base in rounds]
    return common.ratio_of(*map(list, zip(*pairs, strict=True)))


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Options that say how large the step is."""
    common.add_shape(parser, hidden=512, layers=4)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--gradient_checkpointing", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    add_sizes(parser)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=list(KINDS))
    parser.add_argument("--peak_of", choices=KINDS, help=argparse.SUPPRESS)
    arguments = common.take_shape(parser.parse_args())
    if arguments.peak_of:
        print(common.peak_bytes_of(make_step(arguments, arguments.peak_of), arguments.device))
        return
    record = common.record("train_step", arguments)
    peaks = {kind: common.peak_of_process(kind) for kind in arguments.kinds}
    taken = common.seconds_by_turns(
        {kind: make_step(arguments, kind) for kind in arguments.kinds}, rounds=arguments.rounds, device=arguments.device
    )
    seconds = {kind: statistics.median(times) for kind, times in taken.items()}
    peak = common.matrix_peak(arguments.device, getattr(torch, arguments.dtype))
    record |= {
        "median_seconds": seconds,
        "peak_bytes": peaks,
        "matrix_peak": peak,
        "model_flop_utilisation": num_operations(arguments) / seconds["tabom"] / peak,
        "ratios": {},
    }
    print(f"{'ratio':28} {'time':>7} {'lowest':>8} {'highest':>8} {'peak memory':>12}")
    for above, below in RATIOS:
        if above in seconds and below in seconds:
            ratio = {**common.ratio_of(taken[above], taken[below]), "peak_memory": peaks[above] / peaks[below]}
            record["ratios"][f"{above} / {below}"] = ratio
            low, high = ratio["time_range"]
            name = f"{above} / {below}"
            print(f"{name:28} {ratio['time']:7.3f} {low:8.3f} {high:8.3f} {ratio['peak_memory']:12.3f}")
    if {"tabom", "replay", "plain_rows", "base_pass"} <= set(seconds):
        record["ratios"]["extra"] = extra_of_replay(taken)
        low, high = record["ratios"]["extra"]["time_range"]
        print(f"{'extra of replay / passes':28} {record['ratios']['extra']['time']:7.3f} {low:8.3f} {high:8.3f}")
    print(f"model FLOP utilisation {record['model_flop_utilisation']:.1%}, {seconds['tabom']:.3f} s a step")
    common.save(record, arguments)


if __name__ == "__main__":
    main()
