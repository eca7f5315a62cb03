"""The loss part of a training step: head, token statistics, ranking and backward, over two other ways.

* ``released``: what the released code does, written afresh: float32 logits of the whole canvas, softmax and its
  logarithm, cross-entropy, and a loop over the samples with a matrix of all pairs for each;
* ``sliced``: plain PyTorch on the logits of the targets alone;
* ``tabom``: our function, which holds a chunk of logits.

The masks are those of a segment of ``--window`` tokens with a frozen head (``segment``), or half of the response is
masked at random, with a frozen (``random``) and a trained head (``random, head trained``). All ways get the same hidden
states and give the same loss. Time is taken by turns in one process; peak memory, beyond weights and inputs, in a
process of its own for each. The floor is the time that the machine's measured matrix peak or bandwidth allows at least
for the two or three matrix products and one pass over weights and logits.

    python benchmarks/token_statistics.py --json benchmarks/results/FILE.json
"""

import argparse
import statistics
from collections.abc import Callable
from typing import NamedTuple

import common
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from tabom.functional.head import Head
from tabom.functional.token_statistics import linear_token_statistics
from tabom.objectives import TabomObjective
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics

KINDS = ("released", "sliced", "tabom")
CASES = {"segment": ("segment", False), "random": ("random", False), "random, head trained": ("random", True)}
MARGIN = 0.1


class Inputs(NamedTuple):
    """What every way starts from."""

    hidden: Tensor
    weight: Tensor
    corrupted: CorruptedBatch
    objective: TabomObjective


def make_inputs(arguments: argparse.Namespace, case: str) -> Inputs:
    """Hidden states (B, L, D) and the head's weight (V, D) of a case."""
    masking, is_trained = CASES[case]
    torch.manual_seed(0)
    device, dtype = arguments.device, getattr(torch, arguments.dtype)
    batch = common.make_batch(
        rows=arguments.batch, length=arguments.length, vocabulary=arguments.vocabulary, device=device
    )
    window = arguments.window if masking == "segment" else arguments.length // 4
    objective = TabomObjective(window=window, margin=MARGIN)
    draws = RowDraws.of_numbers(0, batch.row_numbers)
    corrupted = objective.corrupt(batch, arguments.vocabulary - 1, draws)
    hidden = torch.randn(arguments.batch, arguments.length, arguments.hidden, device=device).to(dtype)
    weight = torch.empty(arguments.vocabulary, arguments.hidden, device=device, dtype=dtype)
    weight.normal_(std=arguments.hidden**-0.5).requires_grad_(is_trained)
    return Inputs(hidden.requires_grad_(), weight, corrupted, objective)


def released(inputs: Inputs) -> Tensor:
    """Whole canvas, several copies in float32, a loop over the samples."""
    corrupted = inputs.corrupted
    logits = (inputs.hidden @ inputs.weight.t()).float()
    probabilities = F.softmax(logits, dim=-1)
    entropies = -(probabilities * torch.log(probabilities + 1e-10)).sum(-1)
    labels = corrupted.clean_ids.masked_fill(~corrupted.is_target, -100)
    reconstruction = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
    rankings = []
    for row in range(len(logits)):
        places = corrupted.is_target[row].nonzero().squeeze(1)
        places = places[corrupted.order[row, places].argsort()]
        entropy = entropies[row, places]
        violation = F.relu(entropy[:, None] - entropy[None, :] + MARGIN)
        is_pair = torch.ones_like(violation, dtype=torch.bool).triu(1)
        rankings.append(violation[is_pair].mean())
    return reconstruction + torch.stack(rankings).mean()


def sliced(inputs: Inputs) -> Tensor:
    """The logits of the targets, and torch's own functions."""
    where = inputs.corrupted.is_target
    log_probs = (inputs.hidden[where] @ inputs.weight.t()).float().log_softmax(-1)
    nll = -log_probs.gather(1, inputs.corrupted.clean_ids[where][:, None]).squeeze(1)
    entropy = -(log_probs.exp() * log_probs).sum(-1)
    return loss_of(inputs, nll, entropy)


def tabom(inputs: Inputs) -> Tensor:
    """Ours."""
    where = inputs.corrupted.is_target
    found = linear_token_statistics(inputs.hidden[where], Head(inputs.weight), inputs.corrupted.clean_ids[where])
    return loss_of(inputs, found.nll, found.entropy)


def loss_of(inputs: Inputs, nll: Tensor, entropy: Tensor) -> Tensor:
    """Reconstruction and ranking."""
    where = inputs.corrupted.is_target
    canvas = [torch.zeros_like(where, dtype=nll.dtype).masked_scatter(where, values) for values in (nll, entropy)]
    found = TokenStatistics(*canvas, confidence=canvas[0], is_correct=where)
    return inputs.objective.terms(found, inputs.corrupted)["loss"]


WAYS: dict[str, Callable[[Inputs], Tensor]] = {"released": released, "sliced": sliced, "tabom": tabom}


def step_of(kind: str, inputs: Inputs) -> Callable[[], None]:
    """Forward and backward."""

    def step() -> None:
        WAYS[kind](inputs).backward()
        inputs.hidden.grad = inputs.weight.grad = None

    return step


def largest_error(inputs: Inputs) -> dict[str, float]:
    """Of the gradients of the hidden states, relative to the largest number of those of ``released``."""
    gradients = {}
    for kind, way in WAYS.items():
        (gradients[kind],) = torch.autograd.grad(way(inputs), [inputs.hidden])
    scale = gradients["released"].abs().max()
    return {kind: ((gradients[kind] - gradients["released"]).abs().max() / scale).item() for kind in KINDS[1:]}


def floor_seconds(inputs: Inputs, *, peak: float, bandwidth: float) -> float:
    """The least time for the matrix products, or for reading the weight for each and writing and reading the logits."""
    num_rows, (vocabulary, width) = int(inputs.corrupted.is_target.sum()), inputs.weight.shape
    num_products = 3 if inputs.weight.requires_grad else 2
    operations = 2 * num_products * num_rows * vocabulary * width
    num_bytes = num_products * inputs.weight.nbytes + 4 * 2 * num_rows * vocabulary
    return max(operations / peak, num_bytes / bandwidth)


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    parser.add_argument("--vocabulary", type=int, nargs="+", default=[32000, 126464, 152064])
    parser.add_argument("--hidden", type=int, default=512)
    parser.add_argument("--batch", type=int, nargs="+", default=[4])
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--window", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--peak_of", choices=KINDS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    settings = [
        argparse.Namespace(**{**vars(arguments), "vocabulary": vocabulary, "batch": batch, "case": case})
        for vocabulary in arguments.vocabulary
        for batch in arguments.batch
        for case in arguments.case
    ]
    if arguments.peak_of:
        (setting,) = settings
        print(common.peak_bytes_of(step_of(arguments.peak_of, make_inputs(setting, setting.case)), arguments.device))
        return
    record = common.record("token_statistics", arguments)
    record["matrix_peak"] = common.matrix_peak(arguments.device, getattr(torch, arguments.dtype))
    record["bandwidth"] = common.bandwidth(arguments.device)
    record["cases"] = []
    print(
        f"{'vocabulary':>10} {'batch':>5} {'case':22} {'ours, s':>8} {'of floor':>8}"
        f" {'released':>9} {'memory':>7} {'sliced':>7} {'memory':>7} {'error':>8}"
    )
    for setting in settings:
        record["cases"].append(measure(setting, record))
    common.save(record, arguments)


def measure(setting: argparse.Namespace, machine: dict) -> dict:
    """One row of the table: times and memories of the others over ours."""
    options = ("--vocabulary", str(setting.vocabulary), "--batch", str(setting.batch), "--case", setting.case)
    peaks = {kind: common.peak_of_process(kind, *options) for kind in KINDS}
    inputs = make_inputs(setting, setting.case)
    error = largest_error(inputs)
    taken = common.seconds_by_turns(
        {kind: step_of(kind, inputs) for kind in KINDS}, rounds=setting.rounds, device=setting.device
    )
    ratios = {
        kind: {**common.ratio_of(taken[kind], taken["tabom"]), "peak_memory": peaks[kind] / peaks["tabom"]}
        for kind in KINDS[:-1]
    }
    seconds = statistics.median(taken["tabom"])
    floor = floor_seconds(inputs, peak=machine["matrix_peak"], bandwidth=machine["bandwidth"])
    print(
        f"{setting.vocabulary:10} {setting.batch:5} {setting.case:22} {seconds:8.3f} {seconds / floor:8.2f}"
        f" {ratios['released']['time']:9.1f} {ratios['released']['peak_memory']:7.1f}"
        f" {ratios['sliced']['time']:7.2f} {ratios['sliced']['peak_memory']:7.1f} {error['tabom']:8.1e}",
        flush=True,
    )
    return {
        "vocabulary": setting.vocabulary,
        "batch": setting.batch,
        "case": setting.case,
        "median_seconds": {kind: statistics.median(times) for kind, times in taken.items()},
        "peak_bytes": peaks,
        "over_tabom": ratios,
        "floor_seconds": floor,
        "gradient_error": error,
    }


if __name__ == "__main__":
    main()
