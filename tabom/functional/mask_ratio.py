"""Masks of a given share.

Axes: B rows, L canvas positions.
"""

from jaxtyping import Bool, Float
from torch import Tensor


def fixed_ratio_mask(
    is_response: Bool[Tensor, "B L"], ratio: float, noise: Float[Tensor, "B L"]
) -> Bool[Tensor, "B L"]:
    """Mask the response positions of lowest noise: of n, round(ratio * n) and at least one.

    With the same noise the mask of a smaller ratio is a part of that of a larger one, so that losses at several ratios
    are compared on common random numbers.

    Args:
        is_response: Positions that may be masked.
        ratio: Share that is masked, in (0, 1]; a half is rounded to the even number.
        noise: Uniform draws; equal ones stand by position. Independent draws mask a uniformly random subset.

    Returns:
        Masked positions, a subset of ``is_response``. A row without response positions has none.

    Raises:
        ValueError: If ``ratio`` is not in (0, 1].

    Example:
        >>> import torch
        >>> noise = torch.tensor([[0.1, 0.9, 0.2, 0.5]])
        >>> fixed_ratio_mask(torch.tensor([[False, True, True, True]]), 0.7, noise)
        tensor([[False, False,  True,  True]])
    """
    if not 0 < ratio <= 1:
        raise ValueError(f"ratio: expected a number in (0, 1], got {ratio}")
    num_masked = (ratio * is_response.sum(1).double()).round().clamp(min=1)
    permutation = noise.masked_fill(~is_response, float("inf")).argsort(dim=1, stable=True)
    rank = permutation.argsort(dim=1)
    return is_response & (rank < num_masked[:, None])
