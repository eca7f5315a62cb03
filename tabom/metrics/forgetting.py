"""Change against the base model on held-out base-domain text.

Axes: B sequences, L positions.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from tabom.functional.reduction import masked_mean


class Forgetting(Metric):
    """NELBO of the model and of the base on the same masked text, and KL(base || model) at the masked positions.

    Each is a mean per sequence over its masked positions, then over sequences, in nats. Both models see the same text
    under the same masks, so the difference is paired and the noise of the masks cancels.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 1 (NELBO).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    nelbo: Tensor
    base_nelbo: Tensor
    kl: Tensor
    num_sequences: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name in ("nelbo", "base_nelbo", "kl", "num_sequences"):
            self.add_state(name, torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        nll: Float[Tensor, "B L"],
        base_nll: Float[Tensor, "B L"],
        kl: Float[Tensor, "B L"],
        where: Bool[Tensor, "B L"],
    ) -> None:
        """Add sequences.

        Args:
            nll: Negative log-likelihood of the clean tokens under the model.
            base_nll: The same under the base.
            kl: Divergence of the model from the base.
            where: Masked positions, at least one per row.
        """
        for name, values in (("nelbo", nll), ("base_nelbo", base_nll), ("kl", kl)):
            setattr(self, name, getattr(self, name) + masked_mean(values.double(), where).sum())
        self.num_sequences += len(where)

    def compute(self) -> dict[str, Tensor]:
        """``nelbo``, ``nelbo_change`` (model minus base) and ``kl``."""
        nelbo, base_nelbo = self.nelbo / self.num_sequences, self.base_nelbo / self.num_sequences
        return {"nelbo": nelbo, "nelbo_change": nelbo - base_nelbo, "kl": self.kl / self.num_sequences}
