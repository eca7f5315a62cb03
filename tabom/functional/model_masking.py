"""Masks that depend on what a model says of a first, larger mask.

Axes: B rows, L canvas positions.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.functional.masking import lowest
from tabom.functional.reduction import masked_mean

VANILLA, LIKELIEST, LEAST_LIKELY = 0, 1, 2
"""Which of the positions of a larger mask stay masked: random ones, those whose tokens are likeliest, or the others."""
_VANILLA_WEIGHT = 3.0
_LEAST_EXTRA = 0.1
_LEAST_SHARE = 1e-3


def entropy_mask_ratios(
    entropy: Float[Tensor, "B L"], time: Float[Tensor, " B"], *, where: Bool[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    r"""Probability with which each position is masked: larger where the model is less sure of its token.

    .. math:: t_i = 1 - (1 - t)^{\sqrt{H_i} / b}, \qquad b = \operatorname{mean}_j \sqrt{H_j}

    Args:
        entropy: H, in nats, with everything of ``where`` masked.
        time: t, in (0, 1].
        where: Positions that may be masked, over which the mean is taken.

    Returns:
        Probabilities in [0, 1], 0 outside ``where``; t everywhere if all entropies are equal and above 0.

    References:
        GIFT, arXiv:2509.20863; as in the code of LIFT, arXiv:2605.22939, whose mean is over the batch.

    Example:
        >>> entropy = torch.tensor([[1.0, 1.0, 4.0]])
        >>> entropy_mask_ratios(entropy, torch.tensor([0.75]), where=torch.tensor([[True, True, False]]))
        tensor([[0.7500, 0.7500, 0.0000]])
    """
    root = entropy.clamp(min=0).sqrt().where(where, 0.0)
    share = root / masked_mean(root, where).clamp(min=1e-12)[:, None]
    ratio = -(share * (-time).log1p()[:, None]).expm1()
    return ratio.where(share > 0, 0.0)


def enlarged_ratio(time: Float[Tensor, " B"], noise: Float[Tensor, " B"]) -> Float[Tensor, " B"]:
    """How much larger the first mask is: uniform from 0.1, or 0 where less than that is left, to 1 - t.

    Args:
        time: t, in [0, 1].
        noise: One draw from [0, 1) a row.

    Returns:
        Rho, in [0, 1 - t].

    References:
        LIFT, arXiv:2605.22939, released code.
    """
    most = 1 - time
    least = torch.where(most <= _LEAST_EXTRA, 0.0, _LEAST_EXTRA)
    return least + (most - least) * noise


def heaviest_mode(time: Float[Tensor, " B"]) -> Int[Tensor, " B"]:
    """The mode of largest weight: 3t(1 - t) for ``VANILLA``, t for ``LIKELIEST``, 1 - t for ``LEAST_LIKELY``.

    References:
        LIFT, arXiv:2605.22939, released code with the policy ``time``.

    Example:
        >>> heaviest_mode(torch.tensor([0.2, 0.5, 0.8]))
        tensor([2, 0, 1])
    """
    return torch.stack([_VANILLA_WEIGHT * time * (1 - time), time, 1 - time]).argmax(0)


def smaller_mask(
    is_masked: Bool[Tensor, "B L"],
    nll: Float[Tensor, "B L"],
    mode: Int[Tensor, " B"],
    share: Float[Tensor, " B"],
    noise: Float[Tensor, "B L"],
) -> Bool[Tensor, "B L"]:
    """The part of a mask that stays: of n positions the round(share n) that the mode prefers.

    Args:
        is_masked: The larger mask.
        nll: Negative log-likelihoods of the clean tokens under it, in nats; anything where nothing is masked.
        mode: ``VANILLA``, ``LIKELIEST`` or ``LEAST_LIKELY``.
        share: In [0, 1]; at least 0.001 is taken.
        noise: One draw a position, for ``VANILLA``, of which at least one position stays.

    Returns:
        A subset of ``is_masked``.

    References:
        LIFT, arXiv:2605.22939, released code (methods ``lift3`` and ``mixed``).

    Example:
        >>> nll, everything = torch.tensor([[3.0, 1.0, 2.0]]), torch.ones(1, 3).bool()
        >>> smaller_mask(everything, nll, torch.tensor([LIKELIEST]), torch.tensor([0.7]), nll)
        tensor([[False,  True,  True]])
    """
    is_vanilla = mode == VANILLA
    number = (is_masked.sum(1) * share.clamp(min=_LEAST_SHARE, max=1.0)).round()
    number = number.where(~is_vanilla, number.clamp(min=1))
    score = nll.to(noise).where((mode == LIKELIEST)[:, None], -nll.to(noise))
    return lowest(noise.where(is_vanilla[:, None], score), number, where=is_masked)
