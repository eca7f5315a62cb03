"""The pairwise preference over entropies.

Axes: B trajectories, W positions of a segment.
"""

from jaxtyping import Bool, Float, Int
from torch import Tensor


def ordered_pairs(order: Int[Tensor, "B W"], *, where: Bool[Tensor, "B W"]) -> Bool[Tensor, "B W W"]:
    """Pairs (r, s) of which r was decoded strictly before s.

    Args:
        order: Decoding order; smaller is earlier, equal means that neither came first.
        where: Positions that take part.

    Returns:
        ``[b, r, s]`` is true where (r, s) is a pair.

    Example:
        >>> import torch
        >>> ordered_pairs(torch.tensor([[0, 1]]), where=torch.tensor([[True, True]]))
        tensor([[[False,  True],
                 [False, False]]])
    """
    return (order[:, :, None] < order[:, None, :]) & where[:, :, None] & where[:, None, :]


def pairwise_ranking_loss(
    entropy: Float[Tensor, "B W"], is_pair: Bool[Tensor, "B W W"], *, margin: float
) -> Float[Tensor, " B"]:
    r"""Penalise pairs whose entropies contradict the order in which the trajectory decoded them.

    .. math:: L = \frac{1}{|P|} \sum_{(r,s) \in P} \max(0, H_r - H_s + \gamma)

    The mean is per trajectory; reducing over B is the caller's. Gradients flow through both entropies.

    Args:
        entropy: Predictive entropy H in nats, float32 or wider.
        is_pair: P, from :func:`ordered_pairs`.
        margin: Gamma, in nats, >= 0.

    Returns:
        Loss per trajectory in nats; 0, with zero gradient, where a trajectory has no pair.

    Example:
        >>> import torch
        >>> is_pair = ordered_pairs(torch.tensor([[0, 1]]), where=torch.tensor([[True, True]]))
        >>> pairwise_ranking_loss(torch.tensor([[2.0, 1.0]]), is_pair, margin=0.5)
        tensor([1.5000])

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 8.
    """
    violation = (entropy[:, :, None] - entropy[:, None, :] + margin).clamp(min=0)
    return violation.where(is_pair, 0.0).sum((1, 2)) / is_pair.sum((1, 2)).clamp(min=1)


def order_agreement_counts(
    entropy: Float[Tensor, "B W"], is_pair: Bool[Tensor, "B W W"]
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Count the pairs whose entropies already stand in decoding order, H_r < H_s.

    Args:
        entropy: Predictive entropy in nats.
        is_pair: From :func:`ordered_pairs`.

    Returns:
        Number of agreeing pairs and number of pairs, per trajectory.
    """
    agrees = is_pair & (entropy[:, :, None] < entropy[:, None, :])
    return agrees.sum((1, 2)), is_pair.sum((1, 2))
