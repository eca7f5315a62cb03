"""Order agreement.

Axes: B trajectories, W positions of a segment.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from tabom.functional.agreement import order_agreement_counts


class OrderAgreement(Metric):
    """Share of the ordered pairs in a segment whose entropies already stand in decoding order; 0.5 is chance."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    num_agreeing: Tensor
    num_pairs: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("num_agreeing", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")
        self.add_state("num_pairs", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def update(self, entropy: Float[Tensor, "B W"], is_pair: Bool[Tensor, "B W W"]) -> None:
        """Add segments.

        Args:
            entropy: Predictive entropy in nats.
            is_pair: From :func:`tabom.functional.ranking.ordered_pairs`.
        """
        num_agreeing, num_pairs = order_agreement_counts(entropy, is_pair)
        self.num_agreeing += num_agreeing.sum()
        self.num_pairs += num_pairs.sum()

    def compute(self) -> Tensor:
        """Share in [0, 1]; NaN without a pair."""
        return self.num_agreeing / self.num_pairs
