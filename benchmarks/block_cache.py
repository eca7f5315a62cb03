"""Queries decoded a second by a block-causal model: with the keys and values of finished blocks over without.

Both ways decode the same prompts to the same responses, most confident first, one token a step, by turns in one
process. The weights are random, and the head is scaled up, so that confidences are not as good as equal. The head costs
the same both ways: the layers have twice its weights, those of Qwen3-0.6B nearly three times as many.

    python benchmarks/block_cache.py --json benchmarks/results/FILE.json
"""

import argparse
import statistics
from typing import Any

import common
import torch

from tabom.backbones.decoder import DecoderBackbone
from tabom.samplers import Sampler
from tabom.types import DecodedBatch, Example, PromptBatch

CACHED = {"with": None, "without": False}


def make_model(arguments: argparse.Namespace) -> DecoderBackbone:
    """A random model with blocks."""
    backbone = common.random_backbone(arguments, length=arguments.prompt + arguments.response)
    backbone.head.weight.mul_(15)
    backbone.block_size = arguments.block
    return backbone.eval().requires_grad_(False)


def make_queries(arguments: argparse.Namespace) -> PromptBatch:
    """Random prompts of one length."""
    shape = arguments.queries, arguments.prompt
    prompt = torch.randint(arguments.vocabulary - 1, shape, generator=torch.Generator().manual_seed(0))
    ids = torch.nn.functional.pad(prompt, (0, arguments.response), value=arguments.vocabulary - 1)
    is_response = torch.zeros_like(ids, dtype=torch.bool)
    is_response[:, arguments.prompt :] = True
    examples = tuple(Example(str(row), "", "") for row in range(arguments.queries))
    return PromptBatch(ids, torch.ones_like(is_response), is_response, examples).to(arguments.device)


@torch.inference_mode()
def main() -> None:
    """Measure, print, and write the figures."""
    parser = common.parser(__doc__)
    common.add_shape(parser, hidden=256, layers=4)
    parser.set_defaults(vocabulary=8192)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--response", type=int, default=128)
    parser.add_argument("--block", type=int, default=8)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--queries", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = common.take_shape(parser.parse_args())
    backbone, queries = make_model(arguments), make_queries(arguments)
    found: dict[str, DecodedBatch] = {}

    def decode(way: str) -> None:
        sampler = Sampler("confidence", cache_blocks=CACHED[way])
        found[way] = sampler.decode(backbone, queries, num_slots=arguments.batch)

    steps = {way: lambda way=way: decode(way) for way in CACHED}
    taken = common.seconds_by_turns(steps, rounds=arguments.rounds, device=arguments.device)
    cached, plain = found["with"], found["without"]
    has_same_tokens = (cached.response_ids == plain.response_ids).all(1)
    has_same_steps = (cached.unmask_step == plain.unmask_step).all(1)  # others had a tie within rounding
    difference = (cached.unmask_entropy - plain.unmask_entropy).abs()[has_same_steps].amax().item()
    record: dict[str, Any] = common.record("block_cache", arguments) | {
        "seconds": taken,
        "queries_per_second": {way: arguments.queries / statistics.median(times) for way, times in taken.items()},
        "ratio": common.ratio_of(taken["without"], taken["with"]),
        "same_responses": has_same_tokens.float().mean().item(),
        "same_steps": has_same_steps.float().mean().item(),
        "largest_difference_of_entropies": difference,
    }
    for way, rate in record["queries_per_second"].items():
        print(f"{way:8}{rate:10.3f} queries/s")
    print("ratio {time:.2f} ({time_range[0]:.2f} to {time_range[1]:.2f})".format(**record["ratio"]))
    print(f"rows with the same tokens {record['same_responses']:.0%}, and the same steps {record['same_steps']:.0%}")
    print(f"entropies of these differ by at most {difference:.1e}")
    common.save(record, arguments)


if __name__ == "__main__":
    main()
