"""Time of one layer's attention, forward and backward, over that of SDPA without a mask, and peak memory.

``sdpa``: no mask, as rows of one length allow, so that torch may take its flash kernel; ``sdpa, padded``: a mask of the
padding, as our backbones pass it; ``flex``: the same padding as a block mask, compiled. Full attention throughout.

    python benchmarks/attention.py --json benchmarks/results/FILE.json
"""

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import common
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

WAYS = ("sdpa", "sdpa, padded", "flex")


def attention_of(way: str, is_there: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """How queries, keys and values (B, H, L, D) become outputs, where positions (B, L) are there."""
    if way == "sdpa":
        return F.scaled_dot_product_attention
    if way == "sdpa, padded":
        mask = is_there[:, None, None, :]
        return lambda query, key, value: F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
    batch, length = is_there.shape

    def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        del head, query
        return is_there[row, key]

    blocks = create_block_mask(sees, batch, None, length, length, device=str(is_there.device))
    compiled = torch.compile(flex_attention, dynamic=False)
    return lambda query, key, value: compiled(query, key, value, block_mask=blocks)  # pyright: ignore[reportReturnType]


def step_of(way: str, arguments: argparse.Namespace) -> Callable[[], None]:
    """Forward, and backward where the device's kernel has one."""
    torch.manual_seed(0)
    shape = (arguments.batch, arguments.heads, arguments.length, arguments.head_size)
    has_backward = way != "flex" or arguments.device != "cpu"
    inputs = [
        torch.randn(shape, device=arguments.device, dtype=getattr(torch, arguments.dtype), requires_grad=has_backward)
        for _ in range(3)
    ]
    is_there = torch.ones(arguments.batch, arguments.length, dtype=torch.bool, device=arguments.device)
    is_there[0, : arguments.length // 8] = False
    attend = attention_of(way, is_there)

    def step() -> None:
        with torch.set_grad_enabled(has_backward):
            output = attend(*inputs)
        if has_backward:
            output.sum().backward()
            for tensor in inputs:
                tensor.grad = None

    return step


def main() -> None:
    """Measure, print a table, and write the figures."""
    parser = common.parser(__doc__)
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head_size", type=int, default=64)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    record = common.record("attention", arguments)
    taken: dict[str, list[float]] = {}
    record["failed"] = {}
    steps = {}
    for way in WAYS:
        try:
            steps[way] = step_of(way, arguments)
            steps[way]()
        except (RuntimeError, NotImplementedError) as error:  # no kernel of this kind for the device
            steps.pop(way, None)
            record["failed"][way] = str(error).splitlines()[0]
    taken = common.seconds_by_turns(steps, rounds=arguments.rounds, device=arguments.device)
    record["median_seconds"] = {way: statistics.median(times) for way, times in taken.items()}
    record["over_sdpa"] = ratios = {way: common.ratio_of(times, taken["sdpa"]) for way, times in taken.items()}
    _print(ratios, record["failed"])
    common.save(record, arguments)


def _print(ratios: dict[str, dict[str, Any]], failed: dict[str, str]) -> None:
    for way, ratio in ratios.items():
        print(f"{way:14} {ratio['time']:6.2f} of the time of sdpa without a mask")
    for way, reason in failed.items():
        print(f"{way:14} not here: {reason}")


if __name__ == "__main__":
    main()
