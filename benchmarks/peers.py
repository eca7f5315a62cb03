"""Training steps and samplers of other projects beside ours, on one model, in one process, with the same threads.

What the others do is stated here once more, plainly, from what they publish; none of their code is stored here:

* ``mdlm``, the step of dLLM's MDLM trainer: every row draws a share t, each response token is masked with probability
  t, the head is applied to the whole canvas, cross-entropy at masked tokens counts 1 / t. Ours: ``NelboObjective``.
* ``released``, the step of TABOM's authors (:mod:`train_step`). Ours: ``TabomObjective``.
* ``llada``, LLaDA's ``generate``: block by block, head and softmax on the whole canvas, in each row the most confident
  masked token of the block.
* ``dream``, Dream's ``diffusion_generate`` (``maskgit_plus``): head on the whole canvas, softmax at the masked
  positions, the most confident ones of the whole response.
* ``dllm``, dLLM's sampler for masked diffusion: as ``llada``, and the logits are copied to float64 for the softmax.

All decode one token per step. ``--take llada=module:function`` puts a function of your own, which calls the code that
you have fetched, in the place of a sampler above: it gets this script's arguments, the model and a ``PromptBatch``, and
returns the response ids (rows, tokens).

    python benchmarks/peers.py --json benchmarks/results/FILE.json
"""

import argparse
import importlib
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
import torch
import train_step
from distill import EOS, EndingModel, add_sizes, make_queries, reference, text_of
from torch import Tensor

from tabom.backbones.target_pass import TargetPass
from tabom.objectives import NelboObjective
from tabom.samplers import Sampler
from tabom.seeding import RowDraws
from tabom.types import PromptBatch

Decode = Callable[[argparse.Namespace, EndingModel, PromptBatch], Tensor]


def mdlm_step(arguments: argparse.Namespace) -> Callable[[], None]:
    """A step of dLLM's MDLM trainer."""
    backbone, batch = train_step.make_backbone(arguments, "mdlm"), train_step.make_batch(arguments)
    optimizer = torch.optim.AdamW([p for p in backbone.parameters() if p.requires_grad], lr=2e-5)
    generator = torch.Generator(arguments.device).manual_seed(0)
    is_response, smallest = batch.is_response, 1e-3

    def step() -> None:
        share = torch.rand(len(is_response), 1, generator=generator, device=arguments.device)
        share = smallest + (1 - smallest) * share
        is_masked = is_response & (torch.rand(is_response.shape, generator=generator, device=arguments.device) < share)
        noisy_ids = batch.clean_ids.masked_fill(is_masked, backbone.mask_token_id)
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            logits = backbone.logits(backbone(noisy_ids, batch.attention_mask)).float()
        nll = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.clean_ids, reduction="none")
        ((nll * is_masked / share).sum() / is_response.sum()).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def our_nelbo_step(arguments: argparse.Namespace) -> Callable[[], None]:
    """The same objective through ours."""
    backbone, batch = train_step.make_backbone(arguments, "nelbo"), train_step.make_batch(arguments)
    optimizer = torch.optim.AdamW([p for p in backbone.parameters() if p.requires_grad], lr=2e-5)
    objective, numbers = NelboObjective(), iter(range(10**9))

    def step() -> None:
        draws = RowDraws.of_numbers(next(numbers), batch.row_numbers)
        corrupted = objective.corrupt(batch, backbone.mask_token_id, draws)
        with torch.autocast(arguments.device, dtype=torch.bfloat16, enabled=arguments.dtype == "bfloat16"):
            found = TargetPass(backbone, corrupted).statistics()
        objective.terms(found, corrupted)["loss"].backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


@torch.inference_mode()
def dream(arguments: argparse.Namespace, model: EndingModel, queries: PromptBatch) -> Tensor:
    """Responses as Dream's ``diffusion_generate`` gives them."""
    responses = []
    for start in range(0, arguments.queries, arguments.batch):
        canvas = queries.noisy_ids[start : start + arguments.batch].clone()
        is_there = queries.attention_mask[start : start + arguments.batch]
        for _ in range(arguments.response):
            is_masked = canvas == model.mask_token_id
            logits = model.head.logits(model(canvas, is_there))[is_masked].float()
            logits[..., model.mask_token_id] = -torch.inf
            confidence, tokens = logits.softmax(-1).max(-1)
            everywhere = torch.full(canvas.shape, -torch.inf, device=canvas.device)
            everywhere[is_masked] = confidence
            filled = torch.full_like(canvas, model.mask_token_id)
            filled[is_masked] = tokens
            chosen = everywhere.topk(1, dim=1).indices
            canvas.scatter_(1, chosen, filled.gather(1, chosen))
        responses.append(canvas[:, arguments.prompt :])
    return torch.cat(responses)


@torch.inference_mode()
def dllm(arguments: argparse.Namespace, model: EndingModel, queries: PromptBatch) -> Tensor:
    """Responses as dLLM's sampler gives them."""
    return reference(arguments, model, queries, precision=torch.float64)


SAMPLERS: dict[str, Decode] = {"llada": reference, "dream": dream, "dllm": dllm}


def ours(arguments: argparse.Namespace, model: EndingModel, queries: PromptBatch, *, in_blocks: bool) -> Tensor:
    """The same through the engine."""
    sampler = Sampler("confidence", block_length=arguments.block if in_blocks else None)
    return sampler.decode(model, queries, num_slots=arguments.batch, eos_token_id=EOS).response_ids


def compare(name: str, calls: dict[str, Callable[[], Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Time of two ways by turns, and a line of the table; the first way is the peer's."""
    taken = common.seconds_by_turns(calls, rounds=arguments.rounds, device=arguments.device)
    peer, own = taken.values()
    ratio = common.ratio_of(peer, own)
    print(f"{name:10}{statistics.median(peer):12.3f}{statistics.median(own):12.3f}{ratio['time']:9.2f}", flush=True)
    return {"seconds": taken, "ratio": ratio}


def taken_in(text: str) -> tuple[str, Decode]:
    """A name and the function that takes its place: ``llada=module:function``."""
    name, _, place = text.partition("=")
    module, _, function = place.partition(":")
    if name not in SAMPLERS or not function:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(SAMPLERS)}=MODULE:FUNCTION, got {text}")
    sys.path.insert(0, str(Path.cwd()))  # a script's own directory is there alone
    return name, getattr(importlib.import_module(module), function)


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    add_sizes(parser)
    parser.add_argument("--window", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--take", type=taken_in, action="append", default=[], metavar="SAMPLER=MODULE:FUNCTION")
    arguments = common.take_shape(parser.parse_args())
    arguments.length, arguments.gradient_checkpointing = arguments.prompt + arguments.response, False
    samplers, arguments.take = SAMPLERS | dict(arguments.take), [name for name, _ in arguments.take]
    record = common.record("peers", arguments)
    print(f"{'':10}{'theirs, s':>12}{'ours, s':>12}{'ratio':>9}")
    steps = {
        "mdlm": {"mdlm": mdlm_step(arguments), "ours": our_nelbo_step(arguments)},
        "released": {name: train_step.make_step(arguments, name) for name in ("released", "tabom")},
    }
    record["steps"] = {name: compare(name, calls, arguments) for name, calls in steps.items()}
    with torch.inference_mode():
        model = EndingModel(arguments)
    queries = make_queries(arguments, "none")
    record["samplers"] = {}
    for name, decode in samplers.items():
        in_blocks = name != "dream"
        calls = {
            name: lambda decode=decode: decode(arguments, model, queries),
            "ours": lambda in_blocks=in_blocks: ours(arguments, model, queries, in_blocks=in_blocks),
        }
        texts = [text_of(call()) for call in calls.values()]
        same = (texts[0] == texts[1]).all(1).float().mean().item()
        record["samplers"][name] = compare(name, calls, arguments) | {"same_text": same}
    common.save(record, arguments)


if __name__ == "__main__":
    main()
