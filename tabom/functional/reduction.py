"""Means over the valid part of a tensor; a mean over nothing is 0, still attached to the graph."""

from jaxtyping import Bool, Float
from torch import Tensor


def masked_mean(values: Float[Tensor, "*B K"], where: Bool[Tensor, "*B K"]) -> Float[Tensor, "*B"]:
    """Mean over the last axis, of the entries where ``where`` is true.

    Entries outside ``where`` are left out before anything is added, so they may hold NaN; NaN inside is not hidden.

    Example:
        >>> import torch
        >>> masked_mean(torch.tensor([[1.0, 3.0], [5.0, 7.0]]), torch.tensor([[True, True], [False, False]]))
        tensor([2., 0.])
    """
    return values.where(where, 0.0).sum(-1) / where.sum(-1).clamp(min=1)


def standard_error(mean: Float[Tensor, "*S"], mean_square: Float[Tensor, "*S"], num: Tensor) -> Float[Tensor, "*S"]:
    """Standard error of a mean over independent values, from the means of the values and of their squares.

    Args:
        mean: Of the values.
        mean_square: Of their squares.
        num: Number of values, a scalar; the error of a single value is NaN.

    Example:
        >>> import torch
        >>> standard_error(torch.tensor(0.5), torch.tensor(0.5), torch.tensor(101))
        tensor(0.0500)
    """
    return ((mean_square - mean.square()).clamp(min=0) / (num - 1)).sqrt()
