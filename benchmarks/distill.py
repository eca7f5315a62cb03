"""Queries decoded a second: our engine over a straightforward loop, in the same process on the same model.

The reference is what the official samplers do: a batch goes through all steps together, the head is applied to the
whole canvas, and no row makes room for another. Both decode the same queries, most confident first, in four blocks;
entropies are recorded by ours alone. Where a response ends is written into the model, for both in the same way:

* ``half``: responses end evenly spread over the canvas, so that half of it lies after the end;
* ``none``: nothing ends early.

``--ways compiled`` also decodes with the backbone under ``torch.compile``; compiling is not in its time.

Model FLOP utilisation (MFU): operations of all forward passes, over the time, over what a large matrix product reaches
on this machine.

    python benchmarks/distill.py --json benchmarks/results/FILE.json
"""

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any, ClassVar

import common
import torch
from torch import Tensor

from tabom.functional.head import Head
from tabom.samplers import Sampler
from tabom.samplers.denoiser import Denoiser
from tabom.samplers.static_shapes import StaticShapes
from tabom.types import Example, PromptBatch

EOS = 0


class CountedHead(Head):
    """A head that counts its operations: two for a multiplication and an addition."""

    num_operations: ClassVar[int] = 0

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head."""
        CountedHead.num_operations += 2 * hidden.numel() * len(self.weight)
        return super().logits(hidden)


class EndingModel:
    """A random model whose response ends where the first token of the prompt says, counted in response tokens.

    The head has one input for the end of sequence alone; from the end on it is the only one that is not 0. Its other
    weights are scaled up, so that the distributions have a peak, as those of a trained model. Operations are counted as
    the matrices are applied, two for a multiplication and an addition.
    """

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.length = arguments.response
        backbone = common.random_backbone(arguments, length=arguments.prompt + arguments.response)
        self.backbone = backbone.eval().requires_grad_(False)
        self.run: Denoiser = self.backbone
        self.compiled: Denoiser | None = None
        head = self.backbone.transformer.get_output_embeddings().weight
        head *= 15
        head[:, -1] = 0.0
        head[EOS] = 0.0
        head[EOS, -1] = 30.0  # more, and the CPU computes with denormal numbers
        self.mask_token_id = self.backbone.mask_token_id
        self.unused_ids, self.block_size = (), None
        self.num_weights = common.num_layer_weights(self.backbone)
        self.num_operations = 0

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states."""
        num_rows, width = input_ids.shape
        hidden = self.run(input_ids, attention_mask).clone()
        end = input_ids[:, 0] - 1  # no prompt is padded here
        is_after = torch.arange(width, device=hidden.device) - (width - self.length) >= end[:, None]
        hidden[..., -1] = 0.0
        only_end = torch.zeros_like(hidden[0, 0])
        only_end[-1] = 1.0
        config = self.backbone.transformer.config
        attention = 4 * width * config.hidden_size * config.num_hidden_layers
        self.num_operations += num_rows * width * (2 * self.num_weights + attention)
        return torch.where(is_after[..., None], only_end, hidden)

    @property
    def head(self) -> "CountedHead":
        """Its operations are counted."""
        return CountedHead(*self.backbone.head)


def make_queries(arguments: argparse.Namespace, kind: str) -> PromptBatch:
    """As many prompts of one length as are asked for; ends in a random order."""
    generator = torch.Generator().manual_seed(0)
    number, length = arguments.queries, arguments.response
    ends = torch.full((number,), length)
    if kind == "half":
        ends = torch.linspace(1, length, number).round().long()[torch.randperm(number, generator=generator)]
    prompt = torch.randint(length + 2, arguments.vocabulary - 1, (number, arguments.prompt), generator=generator)
    prompt[:, 0] = ends + 1
    response = torch.full((number, length), arguments.vocabulary - 1)
    ids = torch.cat([prompt, response], 1)
    is_response = torch.zeros_like(ids, dtype=torch.bool)
    is_response[:, arguments.prompt :] = True
    examples = tuple(Example(str(row), "", "") for row in range(number))
    return PromptBatch(ids, torch.ones_like(is_response), is_response, examples).to(arguments.device)


@torch.inference_mode()
def reference(
    arguments: argparse.Namespace, model: EndingModel, queries: PromptBatch, *, precision: torch.dtype = torch.float32
) -> Tensor:
    """Responses of all queries, one batch after the other, every batch to its last step.

    Probabilities are computed in ``precision``.
    """
    responses = []
    for start in range(0, arguments.queries, arguments.batch):
        canvas = queries.noisy_ids[start : start + arguments.batch].clone()
        is_there = queries.attention_mask[start : start + arguments.batch]
        for block_end in range(arguments.block, arguments.response + 1, arguments.block):
            last = arguments.prompt + block_end
            for _ in range(arguments.block):
                is_masked = canvas == model.mask_token_id
                logits = model.head.logits(model(canvas, is_there)).float()
                logits[..., model.mask_token_id] = -torch.inf
                tokens = logits.argmax(-1)
                confidence = logits.to(precision).softmax(-1).gather(-1, tokens[..., None])[..., 0]
                confidence = confidence.masked_fill(~is_masked, -torch.inf)
                confidence[:, last:] = -torch.inf
                chosen = confidence.topk(1, dim=1).indices
                canvas.scatter_(1, chosen, tokens.gather(1, chosen))
        responses.append(canvas[:, arguments.prompt :])
    return torch.cat(responses)


def ours(arguments: argparse.Namespace, model: EndingModel, queries: PromptBatch) -> Tensor:
    """The same through the engine."""
    sampler = Sampler("confidence", block_length=arguments.block)
    return sampler.decode(model, queries, num_slots=arguments.batch, eos_token_id=EOS).response_ids


def compiled(arguments: argparse.Namespace, model: EndingModel, queries: PromptBatch) -> Tensor:
    """The same with a compiled backbone."""
    if model.compiled is None:
        shapes = StaticShapes(model.backbone, arguments.batch)
        model.compiled = shapes.for_canvases(arguments.prompt + arguments.response)
    model.run = model.compiled
    responses = ours(arguments, model, queries)
    model.run = model.backbone
    return responses


WAYS = {"ours": ours, "compiled": compiled}


def seconds(arguments: argparse.Namespace, call: Callable[..., Tensor], *inputs: EndingModel | PromptBatch) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call(arguments, *inputs)
    common.synchronise(arguments.device)
    return time.perf_counter() - start


def text_of(responses: Tensor) -> Tensor:
    """Responses with everything after the first end of sequence made equal."""
    is_after = (responses == EOS).cumsum(1) > 0
    return responses.masked_fill(is_after, EOS)


def measure(arguments: argparse.Namespace, model: EndingModel, kind: str, peak: float) -> dict[str, Any]:
    """Both ways on the queries of a kind, by turns."""
    queries = make_queries(arguments, kind)
    calls = {"reference": reference} | {way: WAYS[way] for way in arguments.ways}
    # the first round warms up, and its responses are compared
    texts = {way: text_of(call(arguments, model, queries)) for way, call in calls.items()}
    taken: dict[str, list[float]] = {way: [] for way in calls}
    num_operations = {}
    for _ in range(arguments.rounds):
        for way, call in calls.items():
            model.num_operations = CountedHead.num_operations = 0
            taken[way].append(seconds(arguments, call, model, queries))
            num_operations[way] = model.num_operations + CountedHead.num_operations
    case: dict[str, Any] = {"seconds": taken, "ways": {}}
    for way, times in taken.items():
        rate = arguments.queries / statistics.median(times)
        case["ways"][way] = {
            "queries_per_second": rate,
            "ratio": common.ratio_of(taken["reference"], times),
            "same_text": (texts[way] == texts["reference"]).all(1).float().mean().item(),
            "model_flop_utilisation": num_operations[way] * rate / arguments.queries / peak,
        }
    return case


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Options that say how large the model is, and how much it decodes."""
    common.add_shape(parser, hidden=128, layers=2)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--response", type=int, default=48)
    parser.add_argument("--block", type=int, default=12, help="block length; has to divide the response")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--queries", type=int, default=16)


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    add_sizes(parser)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--cases", choices=("half", "none"), nargs="+", default=["half", "none"])
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=["ours"])
    arguments = common.take_shape(parser.parse_args())
    with torch.inference_mode():
        model = EndingModel(arguments)
    peak = common.matrix_peak(arguments.device, getattr(torch, arguments.dtype))
    record = common.record("distill", arguments) | {"matrix_peak": peak, "cases": {}}
    print(f"{'canvas after the end':22}{'way':12}{'queries/s':>10}{'ratio':>7}{'same text':>11}{'MFU':>7}")
    for kind in arguments.cases:
        record["cases"][kind] = case = measure(arguments, model, kind, peak)
        for way, found in case["ways"].items():
            print(
                f"{kind:22}{way:12}{found['queries_per_second']:10.2f}{found['ratio']['time']:7.2f}"
                f"{found['same_text']:11.1%}{found['model_flop_utilisation']:7.1%}",
                flush=True,
            )
    common.save(record, arguments)


if __name__ == "__main__":
    main()
