"""The likelihood of a continuation under a masked diffusion model, by Monte Carlo.

Axes: S samples, N positions of the continuation.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tabom.functional.masking import count_mask


def stratified_masks(noise: Float[Tensor, "S N"], offset: Float[Tensor, ""]) -> Bool[Tensor, "S N"]:
    """Mask, in each sample, k positions of N: k is uniform over 1 ... N, which positions is uniform as well.

    The k of the samples are spread evenly (systematic sampling), which lowers the variance and leaves the mean.

    Args:
        noise: Independent draws from [0, 1): the positions of lowest noise are masked.
        offset: One more draw, where the even spread starts.

    Returns:
        Masked positions, at least one a sample.

    References:
        Nie et al. 2025 (LLaDA), arXiv:2502.09992, Algorithm 3; ML-GSAI/LLaDA ``eval_llada.py``.

    Example:
        >>> stratified_masks(torch.tensor([[0.3, 0.1], [0.2, 0.6]]), torch.tensor(0.0))
        tensor([[False,  True],
                [ True,  True]])
    """
    place = torch.arange(len(noise), device=noise.device).to(offset.dtype) / len(noise) + offset
    return count_mask(torch.ones_like(noise, dtype=torch.bool), place.remainder(1.0), noise)


def likelihood_samples(nll: Float[Tensor, "S N"], is_masked: Bool[Tensor, "S N"]) -> Float[Tensor, " S"]:
    r"""One unbiased estimate a sample of the bound on the log-likelihood, in nats.

    .. math:: \frac{N}{k} \sum_{i\ masked} \log p(x_i | prompt, visible)

    Args:
        nll: Negative log-likelihood of each masked token given the prompt and the tokens that are not masked.
        is_masked: Masked positions, k >= 1 of them in each sample, drawn by :func:`stratified_masks`.

    Returns:
        Estimates; their mean is the log-likelihood bound, at most the log-likelihood itself.

    References:
        Nie et al. 2025 (LLaDA), arXiv:2502.09992, Eq. 6.

    Example:
        >>> likelihood_samples(torch.tensor([[1.0, 2.0]]), torch.tensor([[False, True]]))
        tensor([-4.])
    """
    total = torch.where(is_masked, nll, 0.0).sum(1)
    return -total * (is_masked.shape[1] / is_masked.sum(1))
