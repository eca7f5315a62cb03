"""The token that each candidate of a step would reveal, and what candidates are ranked by.

Axes: S rows, N response positions, K candidates, D hidden size, V vocabulary, X ids that are never chosen.
"""

from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.functional.head import Head

Score = Literal["entropy", "confidence", "margin", "random", "position"]
ScoreDistribution = Literal["model", "sampling"]
TokenChoice = Literal["drawn", "likeliest"]


class Choice(NamedTuple):
    """One step's candidates: the token that each would reveal, and how sure the model is of it."""

    tokens: Int[Tensor, " K"]
    entropy: Float[Tensor, " K"]
    confidence: Float[Tensor, " K"]
    score: Float[Tensor, " K"]


def guided_logits(
    head: Head, states: list[Float[Tensor, "K D"]], scale: float, forbidden: tuple[int, ...]
) -> Float[Tensor, "K V"]:
    """Logits in float32: uncond + (scale + 1) * (cond - uncond); those of forbidden tokens are the smallest number.

    Args:
        head: Gives logits.
        states: Hidden states with the prompt, and for guidance those without.
        scale: Of the guidance; 0 takes the first alone.
        forbidden: Ids of tokens.
    """
    each = [head.logits(some).float() for some in states]
    logits = each[0] if scale == 0 else each[1] + (scale + 1) * (each[0] - each[1])
    if forbidden:
        logits[:, forbidden] = torch.finfo(logits.dtype).min
    return logits


def margins(logits: Float[Tensor, "K V"], excluded: Int[Tensor, " X"]) -> Float[Tensor, " K"]:
    """Difference of the two largest probabilities, those of excluded tokens left out.

    Example:
        >>> margins(torch.tensor([[0.5, 0.2, 0.3]]).log(), torch.tensor([0]))
        tensor([0.1000])
    """
    return -logits.softmax(-1).index_fill_(-1, excluded, 0.0).topk(2).values.diff().squeeze(-1)


def defer(
    order: Int[Tensor, "S N"], is_candidate: Bool[Tensor, "S N"], is_deferred: Bool[Tensor, "S N"]
) -> tuple[Int[Tensor, "S N"], Bool[Tensor, "S N"]]:
    """The order with deferred candidates after all others, and which candidates a step may reveal.

    Deferred ones are revealed where a row has no other candidate.

    Example:
        >>> all_of_it = torch.ones(1, 3, dtype=torch.bool)
        >>> defer(torch.tensor([[2, 0, 1]]), all_of_it, torch.tensor([[False, False, True]]))
        (tensor([[0, 1, 2]]), tensor([[ True,  True, False]]))
    """
    is_wanted = is_candidate & ~is_deferred
    is_eligible = is_wanted | (is_candidate & ~is_wanted.any(1, keepdim=True))
    is_last = is_candidate & ~is_eligible
    lateness = torch.where(is_candidate, is_last.long(), 2).gather(1, order)
    return order.gather(1, lateness.argsort(dim=1, stable=True)), is_eligible
