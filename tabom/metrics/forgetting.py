"""Change against the base model on held-out base-domain text.

Axes: B sequences, L positions.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from tabom.functional.reduction import masked_mean, standard_error


class Forgetting(Metric):
    """NELBO of the model and of the base on the same masked text, and KL(base || model) at the masked positions.

    Each is a mean per sequence over its masked positions, then over sequences, in nats per token. With masks of
    :class:`~tabom.corruption.CountMasking` the first is an unbiased estimate of the bound on the negative
    log-likelihood, and the KL that of the divergence summed over a random order of unmasking. Both models see the same
    text under the same masks, so the difference is paired and the noise of the masks cancels.

    Standard errors are over sequences; since masked counts are spread evenly over these, they are upper estimates.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 1; Nie et al. 2025 (LLaDA), arXiv:2502.09992, Eq. 6 (NELBO).
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    sums: Tensor
    squares: Tensor
    num_sequences: Tensor

    def __init__(self) -> None:
        super().__init__()
        for name, shape in (("sums", 3), ("squares", 3), ("num_sequences", ())):
            self.add_state(name, torch.zeros(shape, dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        nll: Float[Tensor, "B L"],
        base_nll: Float[Tensor, "B L"],
        kl: Float[Tensor, "B L"],
        where: Bool[Tensor, "B L"],
        weight: Float[Tensor, "B L"] | None = None,
    ) -> None:
        """Add sequences.

        Args:
            nll: Negative log-likelihood of the clean tokens under the model.
            base_nll: The same under the base.
            kl: Divergence of the model from the base.
            where: Masked positions, at least one per row.
            weight: What each masked position counts, for block-causal models; None is the mean over them.
        """
        nelbo, base_nelbo, divergence = (
            masked_mean(values.double(), where)
            if weight is None
            else (values.double() * weight).where(where, 0.0).sum(1)
            for values in (nll, base_nll, kl)
        )
        values = torch.stack([nelbo, nelbo - base_nelbo, divergence])
        self.sums += values.sum(1)
        self.squares += values.square().sum(1)
        self.num_sequences += len(where)

    def compute(self) -> dict[str, Tensor]:
        """``nelbo``, ``nelbo_change`` (model minus base) and ``kl``, and the standard error of each, ``NAME_error``.

        The error of a single sequence is NaN.
        """
        mean = self.sums / self.num_sequences
        error = standard_error(mean, self.squares / self.num_sequences, self.num_sequences)
        names = ("nelbo", "nelbo_change", "kl")
        return dict(zip((*names, *(f"{name}_error" for name in names)), (*mean, *error), strict=True))
