"""Direct discriminative optimisation against a reference model, and weights for the path of decoding.

Axes: B rows, L canvas positions.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid


def discriminative_losses(
    log_ratio: Float[Tensor, " B"], sampled_log_ratio: Float[Tensor, " B"], *, beta: float, fake_weight: float
) -> tuple[Float[Tensor, " B"], Float[Tensor, " B"]]:
    r"""Tell recorded tokens from those of a reference model by the log-ratio of the two models.

    .. math:: L_{real} = -\log \sigma(\beta r), \qquad L_{fake} = -\alpha \log(1 - \sigma(\beta r'))

    The released code takes the logarithm of a computed :math:`1 - \sigma`; here both are exact at any size of the
    ratio.

    Args:
        log_ratio: r, log-likelihood of the recorded tokens under the model minus that under the reference, in nats.
        sampled_log_ratio: r', the same of tokens that the reference sampled.
        beta: Scale of the ratios, in 1/nats, > 0.
        fake_weight: Alpha, >= 0.

    Returns:
        Both losses per row, in nats.

    Example:
        >>> discriminative_losses(torch.zeros(1), torch.zeros(1), beta=0.1, fake_weight=0.5)
        (tensor([0.6931]), tensor([0.3466]))

    References:
        T3D, arXiv:2602.12262, and Zheng et al. 2025, arXiv:2503.01103 (direct discriminative optimisation).
    """
    return -logsigmoid(beta * log_ratio), -fake_weight * logsigmoid(-beta * sampled_log_ratio)


def rank_weights(
    rank: Int[Tensor, "B L"], block_size: Int[Tensor, "B L"], *, where: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    r"""Weights of a sum over positions in which what was decoded early counts more.

    .. math:: \frac{1}{|M|} \cdot \frac{B - \pi_i + 1}{B}, \qquad \pi_i = 1 \ldots B

    Args:
        rank: Rank inside the block, :math:`\pi_i - 1`, from :func:`tabom.functional.unmasking.block_ranks`.
        block_size: B, positions in the block.
        where: M, the positions of the sum; the others have weight 0.

    Example:
        >>> rank_weights(torch.tensor([[0, 1]]), torch.tensor([[2, 2]]), where=torch.ones(1, 2).bool())
        tensor([[0.5000, 0.2500]])

    References:
        T3D, arXiv:2602.12262, Eq. 9.
    """
    weight = (block_size - rank) / block_size.clamp(min=1)
    return weight.where(where, 0.0) / where.sum(1, keepdim=True).clamp(min=1)


def prefix_level_weights(
    rank: Int[Tensor, "B L"], block_size: Int[Tensor, "B L"], *, where: Bool[Tensor, "B L"], path_tokens: int
) -> Float[Tensor, "B L"]:
    r"""Weights of a sum over positions that is a mean of means over growing prefixes of the decoding order.

    Level :math:`s = 1, 2 \ldots` is the mean over the positions of ``where`` that are among the first :math:`s k` of
    their block; the last level of a row holds its largest block whole. Levels without a position are left out.

    Args:
        rank: Rank inside the block, from :func:`tabom.functional.unmasking.block_ranks`; positions that share one
            enter a prefix together.
        block_size: Positions in the block.
        where: Positions of the sum; the others have weight 0.
        path_tokens: k, >= 1.

    Returns:
        Weights that add up to 1 in a row with positions.

    Example:
        >>> rank, size = torch.tensor([[0, 1, 2]]), torch.tensor([[3, 3, 3]])
        >>> prefix_level_weights(rank, size, where=torch.ones(1, 3).bool(), path_tokens=2)
        tensor([[0.4167, 0.4167, 0.1667]])

    References:
        The path term of the code of T3D, arXiv:2602.12262.
    """
    level = rank // path_tokens
    num_levels = -(-block_size.amax(1, keepdim=True) // path_tokens)
    counts = torch.zeros(rank.shape, device=rank.device).scatter_add_(1, level, where.float()).cumsum(1)
    is_level = (torch.arange(rank.shape[1], device=rank.device) < num_levels) & (counts > 0)
    share = is_level / counts.clamp(min=1) / is_level.sum(1, keepdim=True).clamp(min=1)
    weight = share.flip(1).cumsum(1).flip(1)  # a position counts in its first level and in all after it
    return weight.gather(1, level).where(where, 0.0)
