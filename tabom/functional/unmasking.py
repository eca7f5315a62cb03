"""The order in which decoding revealed positions.

Axes: B trajectories, L positions.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.types import NEVER


def unmasking_order(
    unmask_step: Int[Tensor, "B L"],
    unmask_entropy: Float[Tensor, "B L"],
    *,
    where: Bool[Tensor, "B L"],
) -> Int[Tensor, "B L"]:
    """Number the positions 0, 1, 2 ... as they were revealed: a total order.

    Positions of one step stand by their recorded entropy, lowest first; those without a recorded entropy, or with the
    same, by position.

    Args:
        unmask_step: Denoising step that revealed each position; 0 is first.
        unmask_entropy: Entropy recorded when it was revealed, in nats; NaN if none was.
        where: Positions that take part.

    Returns:
        Rank of each position; positions outside ``where`` come last.

    Example:
        >>> nan = float("nan")
        >>> unmasking_order(torch.tensor([[1, 0, 0]]), torch.tensor([[nan, 0.7, 0.2]]), where=torch.ones(1, 3).bool())
        tensor([[2, 1, 0]])

    References:
        Chen et al. 2026, arXiv:2605.11854, Definition 1 (ties within a step).
    """
    permutation = _revealed_positions(unmask_step, unmask_entropy, where)
    ranks = torch.arange(unmask_step.shape[1], device=unmask_step.device).expand_as(permutation)
    return torch.empty_like(permutation).scatter_(1, permutation, ranks)


def unmasking_rank(
    unmask_step: Int[Tensor, "B L"],
    unmask_entropy: Float[Tensor, "B L"],
    *,
    where: Bool[Tensor, "B L"],
) -> Int[Tensor, "B L"]:
    """Like :func:`unmasking_order`, but positions that nothing tells apart share a rank.

    Positions of one step share one where their recorded entropies are equal, and all of them do where any of the step's
    entropies is missing: neither was decoded before the other, so they form no ranked pair.

    Example:
        >>> nan = float("nan")
        >>> unmasking_rank(torch.tensor([[1, 0, 0]]), torch.full((1, 3), nan), where=torch.ones(1, 3).bool())
        tensor([[1, 0, 0]])
    """
    permutation = _revealed_positions(unmask_step, unmask_entropy, where)
    step, entropy = unmask_step.gather(1, permutation), unmask_entropy.gather(1, permutation)
    is_later = torch.nn.functional.pad(step[:, 1:] != step[:, :-1], (1, 0))
    is_higher = torch.nn.functional.pad(entropy[:, 1:] > entropy[:, :-1], (1, 0))
    group = is_later.long().cumsum(1)
    is_incomplete = torch.zeros_like(group).scatter_reduce(1, group, entropy.isnan().long(), "amax").bool()
    ranks = (is_later | (is_higher & ~is_incomplete.gather(1, group))).long().cumsum(1)
    return torch.empty_like(permutation).scatter_(1, permutation, ranks)


def dense_steps(unmask_step: Int[Tensor, "B L"], *, where: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Renumber steps 0, 1, 2 ... without gaps, in the same order; those of one step stay together.

    Recorded steps may have gaps, and Dream's first one reveals nothing at full decoding, so that its recordings start
    at 1.

    Args:
        unmask_step: Denoising step that revealed each position, or ``NEVER``.
        where: Positions that take part.

    Returns:
        The step of each position; ``NEVER`` where it was, and outside ``where``.

    Example:
        >>> dense_steps(torch.tensor([[7, -1, 1, 7, 3]]), where=torch.tensor([[True, True, True, True, False]]))
        tensor([[ 1, -1,  0,  1, -1]])
    """
    is_revealed = where & (unmask_step != NEVER)
    no_entropy = torch.full(unmask_step.shape, torch.nan, device=unmask_step.device)
    return unmasking_rank(unmask_step, no_entropy, where=is_revealed).masked_fill(~is_revealed, NEVER)


def block_ranks(
    order: Int[Tensor, "B L"], block: Int[Tensor, "B L"], *, where: Bool[Tensor, "B L"]
) -> tuple[Int[Tensor, "B L"], Int[Tensor, "B L"]]:
    """Count what was decoded before each position of the same block.

    Args:
        order: Decoding order, >= 0 at ``where``; smaller is earlier. Positions of one order share a rank.
        block: Number of the block, from :func:`tabom.functional.masking.block_index`.
        where: Positions that take part.

    Returns:
        Rank inside the block, 0 first, and the number of positions that take part in that block; 0 outside ``where``.

    Example:
        >>> order, everywhere = torch.tensor([[3, 1, 1, 0]]), torch.ones(1, 4).bool()
        >>> block_ranks(order, torch.tensor([[0, 0, 0, 1]]), where=everywhere)
        (tensor([[2, 0, 0, 0]]), tensor([[3, 3, 3, 1]]))
    """
    span = order.amax() + 1
    key = (block * span + order).masked_fill(~where, torch.iinfo(torch.long).max)
    in_order = key.sort(1).values
    start, end = (torch.searchsorted(in_order, (block + offset) * span) for offset in (0, 1))
    rank = torch.searchsorted(in_order, key) - start
    return rank.masked_fill(~where, 0), (end - start).masked_fill(~where, 0)


def non_left_to_right(
    order: Int[Tensor, "B L"], *, is_revealed: Bool[Tensor, "B L"], where: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Positions that were revealed while one further left was left masked.

    Args:
        order: Decoding order of each position; or its step, and then those of the same step do not count as left
            masked.
        is_revealed: Positions that decoding revealed, a subset of ``where``; the others stay masked to the end.
        where: Response positions.

    Example:
        >>> everywhere = torch.ones(1, 5).bool()
        >>> non_left_to_right(torch.tensor([[0, 3, 1, 1, 4]]), is_revealed=everywhere, where=everywhere)
        tensor([[False, False,  True,  True, False]])
    """
    first, last = torch.iinfo(order.dtype).min, torch.iinfo(order.dtype).max
    masked_until = order.masked_fill(~is_revealed, last).masked_fill(~where, first)
    return is_revealed & (order < masked_until.cummax(1).values)


def _revealed_positions(unmask_step: Tensor, unmask_entropy: Tensor, where: Tensor) -> Tensor:
    """Positions sorted by (outside ``where``, step, recorded entropy with NaN last, position)."""
    by_entropy = unmask_entropy.argsort(dim=1, stable=True)
    last = torch.iinfo(unmask_step.dtype).max
    step = unmask_step.masked_fill(~where, last).gather(1, by_entropy)
    return by_entropy.gather(1, step.argsort(dim=1, stable=True))
