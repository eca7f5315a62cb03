"""How far apart the model holds easy and hard positions while it decodes.

Axes: B trajectories, S denoising steps, N response positions, R bins of the share decoded.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.functional.reduction import masked_mean


def entropy_variance(
    step_entropy: Float[Tensor, "B S N"], where: Bool[Tensor, "B N"]
) -> tuple[Float[Tensor, "B S"], Bool[Tensor, "B S"]]:
    """Variance of the predictive entropy over the positions that are still masked before each step.

    Args:
        step_entropy: Entropy in nats of every position before each step; NaN where it was revealed already.
        where: Positions that count; those after the first generated end-of-sequence token do not.

    Returns:
        Population variance (nats squared; 0 for a single position), and whether any position was left to take it over.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 10.
    """
    is_counted = ~step_entropy.isnan() & where[:, None, :]
    mean = masked_mean(step_entropy, is_counted)
    variance = masked_mean((step_entropy - mean[..., None]).square(), is_counted)
    return variance, is_counted.any(-1)


def decoded_share_bin(
    step_entropy: Float[Tensor, "B S N"], where: Bool[Tensor, "B N"], num_bins: int
) -> Int[Tensor, "B S"]:
    """Bin of the share of the counted positions that was decoded before each step.

    Bin r holds shares from r / num_bins on and below (r + 1) / num_bins, compared in whole numbers.

    Args:
        step_entropy: As in :func:`entropy_variance`.
        where: As in :func:`entropy_variance`.
        num_bins: R, bins of equal width over [0, 1].

    Returns:
        Bin, 0 ... R - 1; ``num_bins`` where nothing is left (or nothing counts).
    """
    num_counted = where.sum(1)[:, None]
    num_decoded = (step_entropy.isnan() & where[:, None, :]).sum(-1)
    share_bin = num_decoded * num_bins // num_counted.clamp(min=1)
    return share_bin.masked_fill(num_decoded == num_counted, num_bins)


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
