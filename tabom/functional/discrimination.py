"""How far apart the model holds easy and hard positions while it decodes.

Axes: B trajectories, S denoising steps, N response positions, R bins of the share decoded.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.functional.end_of_sequence import until_eos
from tabom.functional.reduction import masked_mean

End = Literal["so_far", "final"]


def counted_positions(
    response_ids: Int[Tensor, "B N"],
    unmask_step: Int[Tensor, "B N"],
    *,
    num_steps: int,
    eos_token_id: int,
    end: End,
) -> Bool[Tensor, "B S N"]:
    """Positions that the variance of each step is taken over, once those that are revealed are left out.

    Args:
        response_ids: Decoded responses.
        unmask_step: Step at which each position was revealed, from 0.
        num_steps: S.
        eos_token_id: The end-of-sequence token.
        end: ``so_far``: left of the first end-of-sequence token among those that are revealed before the step (the
            released code); ``final``: up to and with the first one of the finished response.

    Example:
        >>> import torch
        >>> ids, steps = torch.tensor([[5, 2, 5]]), torch.tensor([[2, 0, 1]])
        >>> counted_positions(ids, steps, num_steps=2, eos_token_id=2, end="so_far")
        tensor([[[ True,  True,  True],
                 [ True, False, False]]])

    References:
        Chen et al. 2026, arXiv:2605.11854, section 3.3, and their released evaluation code.
    """
    if end == "final":
        return until_eos(response_ids, eos_token_id)[:, None].repeat(1, num_steps, 1)
    end_step = unmask_step.masked_fill(response_ids != eos_token_id, num_steps)
    first_end_step = end_step.cummin(1).values[:, None]
    return first_end_step >= torch.arange(num_steps, device=unmask_step.device)[:, None]


def entropy_variance(
    step_entropy: Float[Tensor, "B S N"], where: Bool[Tensor, "B S N"]
) -> tuple[Float[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Variance of the predictive entropy over the positions that are still masked before each step.

    Args:
        step_entropy: Entropy in nats of every position before each step; NaN where it was revealed already.
        where: Positions that count at each step, from :func:`counted_positions`.

    Returns:
        Population variance (nats squared), and whether at least two positions were left to take it over.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 10.
    """
    is_counted = ~step_entropy.isnan() & where
    mean = masked_mean(step_entropy, is_counted)
    variance = masked_mean((step_entropy - mean[..., None]).square(), is_counted)
    return variance, is_counted.sum(-1) >= 2


def decoded_share_bin(
    step_entropy: Float[Tensor, "B S N"], where: Bool[Tensor, "B S N"], num_bins: int
) -> Int[Tensor, "B S"]:
    """Bin of the share of the counted positions that was decoded before each step.

    Bin r holds shares from r / num_bins on and below (r + 1) / num_bins, compared in whole numbers.

    Args:
        step_entropy: As in :func:`entropy_variance`.
        where: As in :func:`entropy_variance`.
        num_bins: R, bins of equal width over [0, 1].

    Returns:
        Bin, 0 ... R - 1; ``num_bins`` where fewer than two positions are left.
    """
    num_counted = where.sum(-1)
    num_decoded = (step_entropy.isnan() & where).sum(-1)
    share_bin = num_decoded * num_bins // num_counted.clamp(min=1)
    return share_bin.masked_fill(num_counted - num_decoded < 2, num_bins)


def binned_variance(
    variance: Float[Tensor, "B S"], share_bin: Int[Tensor, "B S"], num_bins: int
) -> tuple[Float[Tensor, "B R"], Bool[Tensor, "B R"]]:
    """Mean of the variance over each trajectory's steps in a bin.

    Args:
        variance: From :func:`entropy_variance`.
        share_bin: From :func:`decoded_share_bin`.
        num_bins: R.

    Returns:
        Means (nats squared; 0 where a bin has no step), and whether a bin has a step.
    """
    is_in_bin = share_bin[:, None, :] == torch.arange(num_bins, device=share_bin.device)[:, None]
    return masked_mean(variance[:, None, :].expand_as(is_in_bin), is_in_bin), is_in_bin.any(-1)
