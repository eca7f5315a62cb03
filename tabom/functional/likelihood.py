"""The likelihood of a continuation under a masked diffusion model, by Monte Carlo.

Axes: S samples, N positions of the continuation.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.functional.blocks import block_count_mask, block_count_weights


def stratified_masks(
    noise: Float[Tensor, "S N"], offset: Float[Tensor, ""], *, block: Int[Tensor, " N"] | None = None
) -> Bool[Tensor, "S N"]:
    """Mask, in each sample, k of the N positions of each block: k is uniform over 1 ... N, which positions as well.

    The k of the samples are spread evenly (systematic sampling), which lowers the variance and leaves the mean.

    Args:
        noise: Independent draws from [0, 1): the positions of lowest noise are masked.
        offset: One more draw, where the even spread starts.
        block: Number of the block of a block-causal model that each position belongs to, from 0; None for other
            models, of one block.

    Returns:
        Masked positions, at least one a block.

    References:
        Nie et al. 2025 (LLaDA), arXiv:2502.09992, Algorithm 3; ML-GSAI/LLaDA ``eval_llada.py``.

    Example:
        >>> stratified_masks(torch.tensor([[0.3, 0.1], [0.2, 0.6]]), torch.tensor(0.0))
        tensor([[False,  True],
                [ True,  True]])
    """
    place = torch.arange(len(noise), device=noise.device).to(offset.dtype) / len(noise) + offset
    everywhere = torch.ones_like(noise, dtype=torch.bool)
    return block_count_mask(everywhere, place, noise, block=_of_samples(block, everywhere))


def _of_samples(block: Int[Tensor, " N"] | None, everywhere: Bool[Tensor, "S N"]) -> Int[Tensor, "S N"]:
    return torch.zeros_like(everywhere, dtype=torch.long) if block is None else block.expand(everywhere.shape)


def likelihood_samples(
    nll: Float[Tensor, "S N"], is_masked: Bool[Tensor, "S N"], *, block: Int[Tensor, " N"] | None = None
) -> Float[Tensor, " S"]:
    r"""One unbiased estimate a sample of the bound on the log-likelihood, in nats.

    .. math:: \sum_b \frac{N_b}{k_b} \sum_{i \in b\ masked} \log p(x_i | prompt, visible)

    Args:
        nll: Negative log-likelihood of each masked token given the prompt and the tokens that are not masked.
        is_masked: Masked positions, k >= 1 of the N of each block, drawn by :func:`stratified_masks`.
        block: Number of the block that each position belongs to, as in :func:`stratified_masks`; None for one block.

    Returns:
        Estimates; their mean is the log-likelihood bound, at most the log-likelihood itself.

    References:
        Nie et al. 2025 (LLaDA), arXiv:2502.09992, Eq. 6.

    Example:
        >>> likelihood_samples(torch.tensor([[1.0, 2.0]]), torch.tensor([[False, True]]))
        tensor([-4.])
    """
    everywhere = torch.ones_like(is_masked)
    weight = block_count_weights(everywhere, is_masked, _of_samples(block, everywhere))
    return -torch.where(is_masked, nll * weight, 0.0).sum(1) * is_masked.shape[1]
