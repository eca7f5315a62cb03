"""Chance of a correct answer among several.

Axes: B queries.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def pass_at_k(num_samples: Int[Tensor, " B"], num_correct: Int[Tensor, " B"], k: int) -> Float[Tensor, " B"]:
    r"""Probability that at least one of k answers, drawn without replacement, is correct: unbiased for k fresh ones.

    .. math:: 1 - \binom{n - c}{k} \Big/ \binom{n}{k} = 1 - \prod_{j=0}^{k-1} \frac{n - c - j}{n - j}

    The product has no factorials, so nothing overflows; it passes through 0 where fewer than k answers are wrong.

    Args:
        num_samples: n, answers that were sampled.
        num_correct: c, how many of them are correct, 0 ... n.
        k: Number drawn, 1 ... n.

    Returns:
        Probability in float64.

    Raises:
        ValueError: If ``k`` is below 1 or above any ``num_samples``, or if ``num_correct`` is not in 0 ... n.

    Example:
        >>> pass_at_k(torch.tensor([4, 4]), torch.tensor([1, 0]), 2)
        tensor([0.5000, 0.0000], dtype=torch.float64)

    References:
        Chen et al. 2021, arXiv:2107.03374, Eq. 1.
    """
    if k < 1:
        raise ValueError(f"k: expected at least 1, got {k}")
    if bool((num_samples < k).any()):
        raise ValueError(f"k: expected at most num_samples, got {k} of {int(num_samples.min())} samples")
    is_wrong = (num_correct < 0) | (num_correct > num_samples)
    if bool(is_wrong.any()):
        row = int(is_wrong.nonzero()[0])
        raise ValueError(
            f"num_correct: expected 0 to {int(num_samples[row])} in row {row}, got {int(num_correct[row])}"
        )
    drawn = torch.arange(k, device=num_samples.device)
    num_wrong_left = (num_samples - num_correct)[:, None] - drawn
    num_left = num_samples[:, None] - drawn
    return 1 - (num_wrong_left.double() / num_left).prod(1)
