"""How far bfloat16 moves what decoding records, on a model with random weights.

* ``batches``: the same queries are decoded in batches of several sizes; the share of rows with the same tokens, and
  with the same tokens and steps, as in batches of the first size. In float32 every row is the same.
* ``entropies``: one forward pass of the same weights in bfloat16 and in float32, on masked responses: differences of
  the entropies in nats, and the share of pairs of positions whose order is the other one.

    python benchmarks/exactness.py --json benchmarks/results/FILE.json
"""

import argparse
from typing import Any

import common
import torch
from distill import EOS, EndingModel, make_queries
from torch import Tensor

from tabom.functional.token_statistics import linear_token_statistics
from tabom.samplers import Sampler
from tabom.types import DecodedBatch, PromptBatch


def decoded(arguments: argparse.Namespace, model: EndingModel, queries: PromptBatch, batch_size: int) -> DecodedBatch:
    """All queries, so many rows at a time."""
    sampler = Sampler("confidence", block_length=arguments.block)
    return sampler.decode(model, queries, num_slots=batch_size, eos_token_id=EOS)


def compare_batches(arguments: argparse.Namespace, model: EndingModel) -> dict[str, Any]:
    """Shares of rows that do not depend on the batch size."""
    queries = make_queries(arguments, "none")
    first, *others = arguments.batches
    expected = decoded(arguments, model, queries, first)
    shares = {}
    for size in others:
        found = decoded(arguments, model, queries, size)
        same_tokens = (found.response_ids == expected.response_ids).all(1)
        same_steps = (found.unmask_step == expected.unmask_step).all(1)
        shares[size] = {
            "same_tokens": same_tokens.float().mean().item(),
            "same_tokens_and_steps": (same_tokens & same_steps).float().mean().item(),
        }
        print(f"batch {size:3} against {first}: same tokens {shares[size]['same_tokens']:.1%}", flush=True)
    return shares


def entropies(arguments: argparse.Namespace, model: EndingModel, queries: PromptBatch) -> Tensor:
    """Of every masked position, (B, N), before the first step."""
    length = arguments.response
    hidden = model(queries.noisy_ids, queries.attention_mask)[:, -length:].flatten(0, 1)
    ids = torch.zeros(len(hidden), dtype=torch.long, device=hidden.device)
    found = linear_token_statistics(hidden, model.backbone.head, ids)
    return found.entropy.view(-1, length).double().cpu()


def compare_entropies(arguments: argparse.Namespace, model: EndingModel) -> dict[str, float]:
    """Of the model as it is, against the same weights in float32."""
    queries = make_queries(arguments, "none")
    here = entropies(arguments, model, queries)
    model.backbone.float()
    exact = entropies(arguments, model, queries)
    error = (here - exact).abs().flatten()
    order, expected = (values[:, :, None] < values[:, None, :] for values in (here, exact))
    is_pair = torch.ones_like(order[0]).triu(1).expand_as(order)
    found = {
        "median": error.median().item(),
        "quantile_99": error.quantile(0.99).item(),
        "largest": error.max().item(),
        "other_order": (order != expected)[is_pair].double().mean().item(),
    }
    print(", ".join(f"{name} {value:.2g}" for name, value in found.items()))
    return found


@torch.inference_mode()
def main() -> None:
    """Measure, print, and write the figures."""
    parser = common.parser(__doc__)
    common.add_shape(parser, hidden=128, layers=2)
    parser.add_argument("--prompt", type=int, default=32)
    parser.add_argument("--response", type=int, default=48)
    parser.add_argument("--block", type=int, default=12)
    parser.add_argument("--queries", type=int, default=16)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16])
    arguments = common.take_shape(parser.parse_args())
    record = common.record("exactness", arguments)
    model = EndingModel(arguments)
    record["batches"] = compare_batches(arguments, model)
    record["entropies"] = compare_entropies(arguments, model)
    common.save(record, arguments)


if __name__ == "__main__":
    main()
