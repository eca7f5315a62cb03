"""How well entropies stand in the order of decoding.

Axes: B trajectories, W positions of a segment, L canvas positions.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.functional.ranking import competing


def order_agreement_counts(
    entropy: Float[Tensor, "B W"], is_pair: Bool[Tensor, "B W W"]
) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
    """Count the pairs whose entropies already stand in decoding order, H_r < H_s.

    Args:
        entropy: Predictive entropy in nats.
        is_pair: From :func:`tabom.functional.ranking.ordered_pairs`.

    Returns:
        Number of agreeing pairs and number of pairs, per trajectory.
    """
    agrees = is_pair & (entropy[:, :, None] < entropy[:, None, :])
    return agrees.sum((1, 2)), is_pair.sum((1, 2))


def kendall_tau(
    entropy: Float[Tensor, "B L"],
    order: Int[Tensor, "B L"],
    *,
    where: Bool[Tensor, "B L"],
    block: Int[Tensor, "B L"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Rank correlation of entropy and decoding order, with ties counted in neither direction (tau-b).

    .. math:: \tau = \frac{C - D}{\sqrt{(P - T_H)(P - T_o)}}

    Of the P pairs of positions, C stand in decoding order (H_r < H_s where r came first), D against it, and T_H and T_o
    are tied in entropy and in order. 1: decoded by rising entropy; 0: unrelated; -1: by falling entropy.

    Args:
        entropy: Predictive entropy H in nats; anything outside ``where``.
        order: Decoding order o; smaller is earlier, equal means that neither came first.
        where: Positions that take part.
        block: Only pairs of positions of one block count, in P as well; None for a single block.

    Returns:
        Correlation per trajectory in float64. NaN where it is not defined: no pair differs in order, none in
        entropy, or one of the entropies is NaN.

    Example:
        >>> everywhere = torch.ones(1, 3, dtype=torch.bool)
        >>> kendall_tau(torch.tensor([[0.1, 0.7, 0.4]]), torch.tensor([[0, 1, 2]]), where=everywhere)
        tensor([0.3333], dtype=torch.float64)

    References:
        Kendall 1945, The treatment of ties in ranking problems, Biometrika 33(3).
    """
    is_pair = competing(where, block)
    entropy_sign, order_sign = (_direction(values).where(is_pair, 0) for values in (entropy, order))
    difference = (entropy_sign * order_sign).sum((1, 2))
    num_untied = [sign.abs().sum((1, 2)).double() for sign in (entropy_sign, order_sign)]
    is_defined = ~(entropy.isnan() & where).any(1)
    return (difference / (num_untied[0] * num_untied[1]).sqrt()).where(is_defined, torch.nan)


def _direction(values: Tensor) -> Tensor:
    """1 where position s is above position r, -1 where below, 0 where equal; (B, L, L) in one byte each."""
    is_above = values[:, :, None] < values[:, None, :]
    return is_above.to(torch.int8) - is_above.transpose(1, 2).to(torch.int8)
