"""The last layer of a language model, from hidden states to scores of the vocabulary.

Axes: K positions, D hidden size, V vocabulary.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F  # noqa: N812
from jaxtyping import Float, Int
from torch import Tensor

_TILE_NUMBERS = 2**22
"""Half-precision weights that are widened at a time, on devices that cannot multiply them into float32."""


class Head(NamedTuple):
    r"""A matrix, with or without a bias and a soft cap: :math:`c \tanh((h W^T + b) / c)`.

    Attributes:
        weight: W.
        bias: b, or None.
        softcap: c, above 0, or None.
    """

    weight: Float[Tensor, "V D"]
    bias: Float[Tensor, " V"] | None = None
    softcap: float | None = None

    def logits(self, hidden: Float[Tensor, "*K D"]) -> Float[Tensor, "*K V"]:
        """Scores in the dtype of ``hidden``, as the model itself gives them; differentiable."""
        scores = F.linear(hidden, self.weight, self.bias)
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    def part(self, tokens: slice) -> "Head":
        """The head of some tokens of the vocabulary."""
        return self._replace(weight=self.weight[tokens], bias=None if self.bias is None else self.bias[tokens])

    def chosen_logits(self, hidden: Float[Tensor, "K D"], token_ids: Int[Tensor, "K T"]) -> Float[Tensor, "K T"]:
        """Scores of some tokens at each position, in float32 or wider; differentiable."""
        wide = wide_dtype(hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            scores = torch.einsum("kd,ktd->kt", hidden.to(wide), self.weight[token_ids].to(wide))
        if self.bias is not None:
            scores = scores + self.bias[token_ids].to(wide)
        return scores if self.softcap is None else self.softcap * torch.tanh(scores / self.softcap)

    @torch.no_grad()
    def wide_logits(self, hidden: Float[Tensor, "K D"]) -> Float[Tensor, "K V"]:
        """Scores that are summed up and kept in float32 or wider, whatever the dtype of ``hidden``.

        Rounding them to bfloat16 would move entropies by up to 0.3 nats at a vocabulary of 152k.
        """
        scores = multiply(hidden, self.weight.t())
        if self.bias is not None:
            scores += self.bias
        if self.softcap is not None:
            scores.div_(self.softcap).tanh_().mul_(self.softcap)
        return scores


class HeadGradients:
    """Gradients of hidden states, weight and bias, added up from those of the logits; in float32 or wider.

    Args:
        hidden: What the head was applied to (K, D).
        head: Of which a weight without a gradient costs nothing.
        is_needed: Of hidden states, weight and bias, in this order; what follows is ignored.
    """

    def __init__(self, hidden: Tensor, head: Head, is_needed: Sequence[bool]) -> None:
        self._hidden, self._weight = hidden, head.weight
        self._tensors = (hidden, head.weight, head.bias)
        self._totals = [
            torch.zeros_like(tensor, dtype=wide_dtype(hidden.dtype)) if wanted and tensor is not None else None
            for tensor, wanted in zip(self._tensors, is_needed, strict=False)
        ]

    def add(self, rows: slice, of_logits: Float[Tensor, "R V"]) -> None:
        """Take the gradient of some rows of logits, before the soft cap; each row once."""
        of_hidden, of_weight, of_bias = self._totals
        if of_hidden is not None:
            of_hidden[rows] = multiply(of_logits, self._weight)
        if of_weight is not None:
            of_weight.addmm_(of_logits.t(), self._hidden[rows].to(of_weight.dtype))
        if of_bias is not None:
            of_bias += of_logits.sum(0)

    def total(self) -> Iterator[Tensor | None]:
        """All three, in the dtypes of what they belong to; None where it is not needed."""
        for total, tensor in zip(self._totals, self._tensors, strict=True):
            yield None if total is None or tensor is None else total.to(tensor.dtype)


def as_autocast(hidden: Tensor, head: Head) -> tuple[Tensor, Head]:
    """Cast both as autocast would for a linear layer."""
    kind = hidden.device.type
    if not torch.is_autocast_enabled(kind) or hidden.dtype == torch.float64:
        return hidden, head
    dtype = torch.get_autocast_dtype(kind)
    bias = None if head.bias is None else head.bias.to(dtype)
    return hidden.to(dtype), Head(head.weight.to(dtype), bias, head.softcap)


def wide_dtype(dtype: torch.dtype) -> torch.dtype:
    """Float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def multiply(left: Float[Tensor, "M N"], right: Float[Tensor, "N P"]) -> Float[Tensor, "M P"]:
    """Product of two matrices, summed up and kept in float32 or wider.

    A GPU multiplies half precision into float32; there ``left`` is rounded to the dtype of a half-precision ``right``.
    Elsewhere ``right`` is widened, some of it at a time.
    """
    wide = wide_dtype(left.dtype)
    if right.dtype == wide:
        return left.to(wide) @ right
    if right.is_cuda:
        return torch.mm(left.to(right.dtype), right, out_dtype=wide)
    result = left.new_zeros(left.shape[0], right.shape[1], dtype=wide)
    for inner, outer in _tiles(right):
        result[:, outer].addmm_(left[:, inner].to(wide), right[inner, outer].to(wide))
    return result


def _tiles(matrix: Tensor) -> Iterator[tuple[slice, slice]]:
    """Parts of a matrix along its longer side."""
    short, long = sorted(matrix.shape)
    step = max(1, _TILE_NUMBERS // max(1, short))
    for start in range(0, long, step):
        part, whole = slice(start, start + step), slice(None)
        yield (part, whole) if matrix.shape[0] == long else (whole, part)
