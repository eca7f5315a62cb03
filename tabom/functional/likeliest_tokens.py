"""The likeliest tokens, and how sure a model is of them, from hidden states.

Axes: K positions, D hidden size, V vocabulary, X ids that are never chosen.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tabom.functional.head import Head
from tabom.functional.token_statistics import chunks, largest

_TILE_TOKENS = 2**11
"""Tokens of the vocabulary that a CPU looks at together. It is the same for any number of positions, so that what one
position gets does not depend on how many there are."""
_TILE_NUMBERS = {"cpu": 2**20, "other": 2**28}
"""Logits that are held at a time: what the cache of one core holds, and 1 GiB of float32."""


class LikeliestTokens(NamedTuple):
    """What a position would reveal, and how sure the model is of it.

    Attributes:
        token_ids: Of the tokens.
        nll: Their negative log-likelihood, in nats.
        entropy: Of the whole distribution, in nats.
    """

    token_ids: Int[Tensor, " K"]
    nll: Float[Tensor, " K"]
    entropy: Float[Tensor, " K"]


@torch.no_grad()
def likeliest_tokens(hidden: Float[Tensor, "K D"], head: Head, excluded: Int[Tensor, " X"]) -> LikeliestTokens:
    r"""The likeliest token of each position besides the excluded ones, its likelihood, and the entropy.

    A CPU takes a tile of the vocabulary after the other, so that logits stay in its cache and are never written to
    memory; sums of exponentials are those up to the largest logit so far, and are rescaled when it grows. Without a
    gradient.

    Args:
        hidden: What the head is applied to.
        head: Its logits are rounded as the model itself rounds them, and then summed up in float32.
        excluded: Tokens that are never chosen; likelihood and entropy are those of the distribution with them.

    Example:
        >>> likeliest_tokens(torch.zeros(1, 2), Head(torch.ones(4, 2)), torch.tensor([0]))
        LikeliestTokens(token_ids=tensor([1]), nll=tensor([1.3863]), entropy=tensor([1.3863]))

    References:
        Milakov and Gimelshein 2018, arXiv:1805.02867 (sums that are rescaled as the largest logit grows).
    """
    is_cpu = hidden.device.type == "cpu"
    width = min(_TILE_TOKENS, len(head.weight)) if is_cpu else len(head.weight)
    parts = [
        _likeliest(hidden[rows], head, excluded, width)
        for rows in chunks(len(hidden), width, _TILE_NUMBERS["cpu" if is_cpu else "other"])
    ]
    return LikeliestTokens(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _likeliest(hidden: Tensor, head: Head, excluded: Tensor, width: int) -> LikeliestTokens:
    lowest = torch.full((len(hidden),), torch.finfo(torch.float32).min, device=hidden.device)
    peak, best, tokens = lowest, lowest, lowest.long().zero_()
    total, weighted = torch.zeros_like(peak), torch.zeros_like(peak)
    for start in range(0, len(head.weight), width):
        logits = head.part(slice(start, start + width)).logits(hidden).float()
        place = excluded if width == len(head.weight) else _within(excluded, start, start + width)
        values, places = largest(logits.index_fill(1, place, -torch.inf) if len(place) else logits)
        tokens = torch.where(values > best, start + places, tokens)
        best = torch.maximum(best, values)

        highest = torch.maximum(peak, logits.amax(1))
        total, weighted = _rescaled(total, weighted, peak - highest)
        peak = highest
        shifted = logits.sub_(peak[:, None])
        exponentials = shifted.exp()
        total += exponentials.sum(1)
        weighted += exponentials.mul_(shifted).sum(1)
    log_total = total.log()
    return LikeliestTokens(tokens, log_total + peak - best, log_total - weighted / total)


def _within(excluded: Tensor, start: int, stop: int) -> Tensor:
    return excluded[(excluded >= start) & (excluded < stop)] - start


def _rescaled(total: Tensor, weighted: Tensor, change: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of exp(z) and of exp(z) z, when all z change by this much."""
    scale = change.exp()
    return scale * total, scale * (weighted + change * total)
