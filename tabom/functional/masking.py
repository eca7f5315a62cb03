"""Which positions are masked and which are asked for.

Axes: B rows, L canvas positions. Random functions take ``noise``: independent draws from [0, 1), best in float64.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def late_mask_ratio(
    is_response: Bool[Tensor, "B L"], mask_ratio: Float[Tensor, " B"], *, bias: float
) -> Float[Tensor, "B L"]:
    r"""Probability of a mask at each position, higher at later ones: a row's log-odds rise linearly by ``bias``.

    With the place u of a response position, 0 at the first and 1 at the last, and the row's mask ratio t:

    .. math:: \log\frac{p}{1 - p} = \log\frac{t}{1 - t} + b \left(u - \frac{1}{2}\right)

    Args:
        is_response: Positions that may be masked.
        mask_ratio: t of each row, in (0, 1]; at 1 all probabilities are 1.
        bias: b in nats; 0 gives t everywhere.

    Returns:
        Probabilities in float64; anything outside ``is_response``. The only position of a row has t.

    Example:
        >>> is_response = torch.tensor([[False, True, True, True]])
        >>> late_mask_ratio(is_response, torch.tensor([0.5]), bias=2.0)[0, 1:]
        tensor([0.2689, 0.5000, 0.7311], dtype=torch.float64)

    References:
        Fu et al. 2025 (Efficient-DLM), arXiv:2512.14067, mask later tokens of a block more often, as decoding leaves
        them masked for longer; their weights are exponential in the place and depend on the ratio.
    """
    rank = (is_response.cumsum(1) - 1).double()
    last = (is_response.sum(1, keepdim=True) - 1).double()
    place = torch.where(last > 0, rank / last.clamp(min=1), 0.5)
    ratio, factor = mask_ratio.double()[:, None], torch.exp(bias * (place - 0.5))
    return ratio * factor / (1 - ratio + ratio * factor)


def uniform_mask(
    is_response: Bool[Tensor, "B L"],
    mask_ratio: Float[Tensor, " B"] | Float[Tensor, "B L"],
    noise: Float[Tensor, "B L"],
    *,
    at_least_one: bool = True,
) -> Bool[Tensor, "B L"]:
    """Mask each response position independently with probability ``mask_ratio``, and at least one per row.

    Args:
        is_response: Positions that may be masked.
        mask_ratio: Probability per row or per position, in (0, 1].
        noise: One draw a position.
        at_least_one: Force a token where none would be masked. Without it a row may have no masked position.

    Returns:
        Masked positions, a subset of ``is_response``. A row without response positions has none.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 1; the forced token keeps the mean over masked positions defined.
        Weights by 1 / mask_ratio are unbiased without it.
    """
    noise = noise.masked_fill(~is_response, torch.inf)
    is_masked = noise < (mask_ratio[:, None] if mask_ratio.ndim == 1 else mask_ratio)
    if at_least_one:
        is_masked = is_masked | (noise == noise.amin(1, keepdim=True))
    return is_response & is_masked


def fixed_ratio_mask(
    is_response: Bool[Tensor, "B L"], ratio: float, noise: Float[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Mask the response positions of lowest noise: of n, round(ratio * n) and at least one.

    With the same noise the mask of a smaller ratio is a part of that of a larger one, so that losses at several ratios
    are compared on common random numbers.

    Args:
        is_response: Positions that may be masked.
        ratio: Share that is masked, in (0, 1]; a half is rounded to the even number.
        noise: Uniform draws; equal ones stand by position. Independent draws mask a uniformly random subset.

    Returns:
        Masked positions, a subset of ``is_response``. A row without response positions has none.

    Raises:
        ValueError: If ``ratio`` is not in (0, 1].

    Example:
        >>> noise = torch.tensor([[0.1, 0.9, 0.2, 0.5]])
        >>> fixed_ratio_mask(torch.tensor([[False, True, True, True]]), 0.7, noise)
        tensor([[False, False,  True,  True]])
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: expected a number in (0, 1], got {ratio}")
    num_masked = (ratio * is_response.sum(1).double()).round().clamp(min=1)
    return lowest(noise, num_masked, where=is_response)


def lowest(
    values: Float[Tensor, "B L"], number: Float[Tensor, " B"] | Int[Tensor, " B"], *, where: Bool[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Positions of the lowest values of each row; equal ones by position.

    Args:
        values: Finite at ``where``.
        number: How many of each row; all where it has fewer.
        where: Positions among which they are.

    Example:
        >>> lowest(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([1]), where=torch.tensor([[True, False, True]]))
        tensor([[False, False,  True]])
    """
    rank = values.masked_fill(~where, torch.inf).argsort(dim=1, stable=True).argsort(dim=1)
    return where & (rank < number[:, None])


def stratified(noise: Float[Tensor, " B"], jitter: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """Uniform numbers that cover [0, 1) evenly: one row in each of B strata, which one by the order of the noise.

    Each is uniform by itself, so that means are unbiased as with independent draws, of lower variance.

    Args:
        noise: Independent draws from [0, 1).
        jitter: Further ones: the place inside the stratum.

    Example:
        >>> stratified(torch.tensor([0.9, 0.2]), torch.tensor([0.0, 0.5]))
        tensor([0.5000, 0.2500])

    References:
        Sahoo et al. 2024 (MDLM), arXiv:2406.07524, low-discrepancy sampler, with a place of its own for each row.
    """
    rank = noise.argsort(stable=True).argsort()
    return (rank + jitter) / len(noise)


def segment_start(
    num_units: Int[Tensor, " B"], noise: Float[Tensor, " B"], *, window: int, truncated: bool
) -> Int[Tensor, " B"]:
    """Draw where a segment starts, uniformly over the states of a trajectory.

    Args:
        num_units: Length n of each trajectory, in tokens (or in steps, if the window counts steps).
        noise: One draw a row.
        window: W, in the same unit, >= 1.
        truncated: False: starts 0 ... n - W, so that W units follow (0 alone where n < W). True: starts 0 ... n - 1.

    Returns:
        Number of units that are already decoded.

    References:
        Chen et al. 2026, arXiv:2605.11854, section 4.2 (valid segments). The released code stops one step earlier, so
        that the last token is never learnt.
    """
    return _draw_below(_num_starts(num_units, window=window, truncated=truncated), noise)


def segment_start_at(
    is_next: Bool[Tensor, "B L"],
    order: Int[Tensor, "B L"],
    num_units: Int[Tensor, " B"],
    noise: Float[Tensor, " B"],
    *,
    window: int,
    truncated: bool,
) -> Int[Tensor, " B"]:
    """Draw where a segment starts, uniformly over the states in which a position of ``is_next`` is decoded next.

    Args:
        is_next: Positions of which one is to be decoded first in the segment. A row in which no valid start has that
            draws from all of them, like :func:`segment_start`.
        order: Decoding order of each position (or its step, if the window counts steps).
        num_units: As in :func:`segment_start`.
        noise: One draw a row.
        window: As in :func:`segment_start`.
        truncated: As in :func:`segment_start`.

    Returns:
        Number of units that are already decoded.
    """
    num_starts = _num_starts(num_units, window=window, truncated=truncated)
    width = int(num_starts.amax())
    is_start = torch.arange(width, device=order.device) < num_starts[:, None]
    column = order.masked_fill(~is_next, width).clamp(max=width).long()
    is_wanted = is_start.new_zeros(len(order), width + 1).scatter_(1, column, True)[:, :width] & is_start
    is_drawn_from = torch.where(is_wanted.any(1, keepdim=True), is_wanted, is_start)
    number = _draw_below(is_drawn_from.sum(1), noise)
    return (is_drawn_from.cumsum(1) > number[:, None]).long().argmax(1)


def state_pair(
    num_steps: Int[Tensor, " B"], noise: Float[Tensor, " B"], other_noise: Float[Tensor, " B"]
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Draw two distinct states of a trajectory, uniformly over all pairs.

    Args:
        num_steps: Steps of each trajectory, >= 1; it passes through one state more.
        noise: One draw a row.
        other_noise: Another one.

    Returns:
        Number of steps that are done in the earlier and in the later state, 0 <= earlier < later <= ``num_steps``.

    References:
        Ma et al. 2025 (dInfer), arXiv:2510.08666, compressed transition: (i, j) ~ U(tau), i > j, counted down.
    """
    first = _draw_below(num_steps + 1, noise)
    other = _draw_below(num_steps, other_noise)
    second = other + (other >= first).long()
    return torch.minimum(first, second), torch.maximum(first, second)


def block_index(is_response: Bool[Tensor, "B L"], *, block_length: int) -> Int[Tensor, "B L"]:
    """Number the blocks of a response 0, 1, 2 ... from left to right; the last one may be shorter.

    Args:
        is_response: Response positions.
        block_length: Response positions in a block, >= 1.

    Returns:
        The block of each response position; nothing of use elsewhere.

    Example:
        >>> block_index(torch.tensor([[False, True, True, True, True, True]]), block_length=2)[:, 1:]
        tensor([[0, 0, 1, 1, 2]])
    """
    return (is_response.long().cumsum(1) - 1).clamp(min=0) // block_length


def draw_block(
    block: Int[Tensor, "B L"], noise: Float[Tensor, " B"], *, where: Bool[Tensor, "B L"]
) -> Int[Tensor, " B"]:
    """Draw a block per row, uniformly over those that have a position in ``where``.

    Args:
        block: Number of the block that each position belongs to.
        noise: One draw a row.
        where: Positions of which the block is to have one.

    Returns:
        Number of the block; any where a row has no such position.
    """
    has_any = where.new_zeros(block.shape[0], block.shape[1] + 1)
    has_any.scatter_(1, block.masked_fill(~where, block.shape[1]).long(), True)
    is_candidate = has_any[:, :-1]
    number = _draw_below(is_candidate.sum(1), noise)
    return (is_candidate.cumsum(1) > number[:, None]).long().argmax(1)


def draw_tokens(
    ids: Int[Tensor, "B L"], noise: Float[Tensor, "B L"], *, where: Bool[Tensor, "B L"]
) -> Int[Tensor, "B L"]:
    """Draw a token for every position, uniformly over the distinct tokens that its row has in ``where``.

    Args:
        ids: Tokens, >= 0.
        noise: One draw a position.
        where: Positions whose tokens are drawn from; at least one a row.

    Returns:
        Tokens.

    Example:
        >>> noise = torch.tensor([[0.0, 0.4, 0.6, 0.9]])
        >>> draw_tokens(torch.tensor([[7, 5, 7, 9]]), noise, where=torch.tensor([[True, True, True, False]]))
        tensor([[5, 5, 7, 7]])
    """
    sorted_ids = ids.masked_fill(~where, -1).sort(1).values
    is_new = sorted_ids.diff(dim=1, prepend=torch.full_like(ids[:, :1], -1)) != 0
    number = _draw_below(is_new.sum(1, keepdim=True), noise)
    return sorted_ids.gather(1, torch.searchsorted(is_new.cumsum(1), number, right=True))


def _num_starts(num_units: Tensor, *, window: int, truncated: bool) -> Tensor:
    return (num_units - (1 if truncated else window) + 1).clamp(min=1)


def _draw_below(count: Tensor, noise: Tensor) -> Tensor:
    return (noise * count).long()


def segment(
    order: Int[Tensor, "B L"],
    start: Int[Tensor, " B"],
    *,
    window: int,
    where: Bool[Tensor, "B L"],
) -> tuple[Bool[Tensor, "B L"], Bool[Tensor, "B L"]]:
    """Split a response into what is decoded already, what is decoded next, and the rest.

    Args:
        order: Decoding order of each position (or its step, if the window counts steps).
        start: Number of units decoded already.
        window: How many units are decoded next.
        where: Response positions.

    Returns:
        ``is_masked`` (everything not decoded yet) and ``is_target`` (the next ``window`` units, a subset of it).

    Example:
        >>> order = torch.tensor([[2, 0, 3, 1]])
        >>> segment(order, torch.tensor([1]), window=2, where=torch.ones(1, 4).bool())
        (tensor([[ True, False,  True,  True]]), tensor([[ True, False, False,  True]]))

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 8-9: U_t and Delta.
    """
    is_masked = where & (order >= start[:, None])
    is_target = is_masked & (order < start[:, None] + window)
    return is_masked, is_target
