"""Masks of block-causal models, block by block, and what they are worth.

The loss of such a model is a sum over blocks, each given the clean ones before it: none depends on another's masks.

Axes: B rows, L canvas positions. ``block`` is the number of the block that each position belongs to, below L.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.functional.unmasking import block_ranks

_STEP = 2**0.5 - 1


def num_in_block(where: Bool[Tensor, "B L"], block: Int[Tensor, "B L"]) -> Int[Tensor, "B L"]:
    """Count the positions of ``where`` in the block of each position.

    Example:
        >>> import torch
        >>> num_in_block(torch.tensor([[True, False, True, True]]), torch.tensor([[0, 0, 0, 1]]))
        tensor([[2, 2, 2, 1]])
    """
    return block.new_zeros(block.shape).scatter_add(1, block, where.long()).gather(1, block)


def spread_over_blocks(place: Float[Tensor, " B"], block: Int[Tensor, "B L"]) -> Float[Tensor, "B L"]:
    r"""A place in [0, 1) for each block of a row, from one place u a row.

    Block j takes :math:`u + j (\sqrt 2 - 1)` modulo 1. If u is uniform then each is, so that a sum over blocks has the
    mean that independent places give it; the blocks of a row are spread evenly.

    Example:
        >>> import torch
        >>> spread_over_blocks(torch.tensor([0.7]), torch.tensor([[0, 0, 1]]))
        tensor([[0.7000, 0.7000, 0.1142]])
    """
    return (place[:, None] + block * _STEP).remainder(1.0)


def block_count_mask(
    is_response: Bool[Tensor, "B L"],
    place: Float[Tensor, " B"],
    noise: Float[Tensor, "B L"],
    *,
    block: Int[Tensor, "B L"],
) -> Bool[Tensor, "B L"]:
    """Mask k of the n response positions of every block, k uniform over 1 ... n for uniform places.

    With one block a mean over the masked positions is an unbiased estimate of the NELBO a token; no position has to be
    forced. For several blocks see :func:`block_count_weights`.

    Args:
        is_response: Positions that may be masked.
        place: One draw from [0, 1) a row, spread by :func:`spread_over_blocks`; k is 1 + floor(place n).
        noise: One draw a position: those of a block with the lowest noise are masked.
        block: Blocks of the model; one for a model with full attention.

    Returns:
        Masked positions, a subset of ``is_response``. A block without response positions has none.

    References:
        Nie et al. 2025 (LLaDA), arXiv:2502.09992, Eq. 6 and Algorithm 3.

    Example:
        >>> import torch
        >>> is_response, one_block = torch.tensor([[False, True, True, True]]), torch.zeros(1, 4, dtype=torch.long)
        >>> noise = torch.tensor([[0.1, 0.9, 0.2, 0.5]])
        >>> block_count_mask(is_response, torch.tensor([0.5]), noise, block=one_block)
        tensor([[False, False,  True,  True]])
    """
    order = noise.masked_fill(~is_response, 1.0).argsort(dim=1, stable=True).argsort(dim=1)
    rank, length = block_ranks(order, block, where=is_response)
    num_masked = (spread_over_blocks(place, block) * length).long().minimum(length - 1) + 1
    return is_response & (rank < num_masked)


def block_count_weights(
    is_response: Bool[Tensor, "B L"], is_masked: Bool[Tensor, "B L"], block: Int[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    r"""Weights with which the sum over the masked tokens is an unbiased estimate of the NELBO a token.

    .. math:: w_i = \frac{n_b}{k_b} \frac{1}{\sum_c n_c}

    Args:
        is_response: Positions that may be masked, n in block b of token i.
        is_masked: From :func:`block_count_mask`, k in block b.
        block: Blocks of the model.

    Returns:
        Weights at masked positions; 0 elsewhere.

    References:
        Arriola et al. 2025 (BD3-LM), arXiv:2503.09573, Eq. 8, a sum over blocks; in each Nie et al. 2025 (LLaDA),
        arXiv:2502.09992, Eq. 6.
    """
    length, num_masked = num_in_block(is_response, block), num_in_block(is_masked, block)
    return is_masked * length / (num_masked.clamp(min=1) * is_response.sum(1, keepdim=True).clamp(min=1))
