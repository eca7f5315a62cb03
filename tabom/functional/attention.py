"""Which token sees which in a block-causal model.

Axes: B rows, Q queries, K keys; of the predicate, any that broadcast.
"""

from jaxtyping import Bool, Int
from torch import Tensor


def sees(
    query_block: Int[Tensor, "*Q"],
    key_block: Int[Tensor, "*K"],
    *,
    query_is_noisy: Bool[Tensor, "*Q"],
    key_is_noisy: Bool[Tensor, "*K"],
) -> Bool[Tensor, "*QK"]:
    """Whether a query attends to a key: to its own block in its own stream, and to earlier blocks of the clean stream.

    With one stream alone, in which nothing counts as noisy, this is block-causal attention: a token sees its own block
    and all before it. With a clean and a noisy copy of a sequence, a block of the noisy copy sees itself and the clean
    blocks before it, as in decoding, and the clean copy never sees the noisy one.

    Args:
        query_block: Number of the block that each query belongs to.
        key_block: Number of the block that each key belongs to.
        query_is_noisy: Whether a query is of the noisy copy.
        key_is_noisy: Whether a key is of the noisy copy.

    Example:
        >>> import torch
        >>> block, is_noisy = torch.tensor([0, 1, 0, 1]), torch.tensor([False, False, True, True])
        >>> sees(block[:, None], block, query_is_noisy=is_noisy[:, None], key_is_noisy=is_noisy).int()
        tensor([[1, 0, 0, 0],
                [1, 1, 0, 0],
                [0, 0, 1, 0],
                [1, 0, 0, 1]], dtype=torch.int32)

    References:
        Arriola et al. 2025 (BD3-LM), arXiv:2503.09573, section 3.2: block-diagonal, offset block-causal and
        block-causal parts of the mask.
    """
    is_own = (key_block == query_block) & (key_is_noisy == query_is_noisy)
    return is_own | ((key_block < query_block) & ~key_is_noisy)
