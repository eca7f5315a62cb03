"""Attention masks of block-causal models, ready for transformers.

Axes: B rows, N tokens of a stream, Q queries, K keys.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tabom.errors import TabomError
from tabom.functional.attention import sees

if TYPE_CHECKING:
    from torch.nn.attention.flex_attention import BlockMask


class Tokens(NamedTuple):
    """Tokens that attend to each other.

    Attributes:
        block: Number of the block that each belongs to.
        is_noisy: Whether it is of the noisy copy of a sequence.
        is_real: False on padding.
    """

    block: Int[Tensor, "B N"]
    is_noisy: Bool[Tensor, "B N"]
    is_real: Bool[Tensor, "B N"]

    def at(self, positions: Int[Tensor, "B Q"]) -> "Tokens":
        """Those at some places."""
        return Tokens(*(field.gather(1, positions) for field in self))

    def and_also(self, others: "Tokens") -> "Tokens":
        """These, and others behind them."""
        return Tokens(*(torch.cat(pair, 1) for pair in zip(self, others, strict=True)))


def ready_mask(
    queries: Tokens, keys: Tokens, *, implementation: str | None, dtype: torch.dtype
) -> "Bool[Tensor, 'B 1 Q K'] | BlockMask":
    """The mask by :func:`tabom.functional.attention.sees`, in the form that an implementation of transformers takes.

    Args:
        queries: What is computed.
        keys: What there is to see; padding is seen by nobody.
        implementation: ``sdpa`` takes true where a query sees a key; ``eager`` what is added to the scores;
            ``flex_attention`` a function of indices, without a number for each pair.
        dtype: Of the scores.

    Raises:
        TabomError: If the implementation takes no such mask.
    """
    device = keys.block.device

    def is_seen(row: Tensor, head: Any, query: Tensor, key: Tensor) -> Tensor:
        del head
        seen = sees(
            queries.block[row, query],
            keys.block[row, key],
            query_is_noisy=queries.is_noisy[row, query],
            key_is_noisy=keys.is_noisy[row, key],
        )
        return seen & keys.is_real[row, key]

    (num_rows, num_queries), num_keys = queries.block.shape, keys.block.shape[1]
    if implementation == "flex_attention":
        from torch.nn.attention.flex_attention import create_block_mask

        is_compiled = device.type == "cuda"  # else the mask is written out for a moment
        return create_block_mask(
            is_seen, num_rows, None, num_queries, num_keys, device=device, _compile=is_compiled
        )  # H None: alike for all heads
    if implementation not in ("sdpa", "eager"):
        raise TabomError(
            "attn_implementation: expected sdpa, eager or flex_attention with attention: block_causal, got "
            f"{implementation}"
        )
    rows, of_queries, of_keys = (torch.arange(n, device=device) for n in (num_rows, num_queries, num_keys))
    seen = is_seen(rows[:, None, None, None], None, of_queries[:, None], of_keys)
    if implementation == "sdpa":
        return seen
    return torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, torch.finfo(dtype).min)
