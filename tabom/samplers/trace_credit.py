"""Fusion of the logits with what earlier steps of a block predicted.

Axes: K candidates (masked positions of the rows' current blocks), V vocabulary.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tabom.errors import check_range


class Credit(NamedTuple):
    """What has been added up so far.

    Attributes:
        place: A number for each position that it belongs to, in ascending order.
        values: Credit of every token there.
    """

    place: Int[Tensor, " K"]
    values: Float[Tensor, "K V"]


class TraceCredit:
    r"""Raises the logits of tokens that a position's earlier steps held likeliest.

    In every step older credit decays and the likeliest token :math:`v` of a candidate gains some,
    :math:`C \leftarrow \beta C + p_v^{\gamma} e_v`; the logits become :math:`z + \alpha \log(1 + C)`. A block starts
    without credit. It takes one number per candidate and token.

    Args:
        weight: Alpha, at least 0.
        exponent: Gamma, at least 0; below 1 it favours tokens of little probability.
        decay: Beta, in [0, 1].

    Raises:
        TabomError: If a value is out of range.

    References:
        ``apply_credit_fusion`` in ``llada_block_generate.py`` of the TABOM release (``alg="credit"``).
    """

    def __init__(self, weight: float = 0.7, exponent: float = 0.2, decay: float = 0.8) -> None:
        check_range("weight", weight, least=0)
        check_range("exponent", exponent, least=0)
        check_range("decay", decay, least=0, most=1)
        self.weight = weight
        self.exponent = exponent
        self.decay = decay

    def __call__(
        self, logits: Float[Tensor, "K V"], place: Int[Tensor, " K"], earlier: Credit | None
    ) -> tuple[Float[Tensor, "K V"], Credit]:
        """Add this step's credit.

        Args:
            logits: Of the candidates.
            place: A number for each of them that no other position of the batch has.
            earlier: What the step before returned; None in the first.

        Returns:
            The fused logits, and the credit for the next step.
        """
        values = torch.zeros_like(logits) if earlier is None else self.decay * _carried(earlier, place)
        confidence, likeliest = logits.softmax(-1).max(-1, keepdim=True)
        values = values.scatter_add(-1, likeliest, confidence.pow(self.exponent))
        place, order = place.sort()
        return logits + self.weight * values.log1p(), Credit(place, values[order])


def _carried(earlier: Credit, place: Int[Tensor, " K"]) -> Float[Tensor, "K V"]:
    """Credit of positions that were candidates before; none for those of a new block."""
    index = torch.searchsorted(earlier.place, place).clamp(max=len(earlier.place) - 1)
    return earlier.values[index] * (earlier.place[index] == place)[:, None]
