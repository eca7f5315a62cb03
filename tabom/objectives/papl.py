"""Planner-aware fine-tuning: tokens that a confident decoder would take first count more."""

from jaxtyping import Float
from torch import Tensor

from tabom.corruption import UniformMasking
from tabom.errors import check_range
from tabom.functional.reduction import masked_mean
from tabom.functional.weighting import path_weights
from tabom.objectives.base import Objective
from tabom.types import CorruptedBatch, TokenStatistics


class PaplObjective(Objective):
    r"""Cross-entropy over uniformly masked tokens, with more weight where the model is sure of the clean token.

    .. math:: L = E_{t, x_t} \frac{1}{|M_t|} \sum_{k \in M_t} (1 + \alpha w_k) (-\log p(x_0^k \mid x_t)), \qquad
              w = \operatorname{softmax}_{k \in M_t}\left(\log p(x_0^k \mid x_t) / \tau\right)

    The weights carry no gradient. The masks are those of :class:`~tabom.objectives.NelboObjective`; no trajectories are
    needed. ``alpha=0`` is that objective.

    Args:
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt; those that are not
            take no part in the softmax.
        alpha: Weight of the planner's term, >= 0.
        temperature: Tau, > 0.
        tilt: Eta in nats, >= 0; None for cross-entropy (:class:`~tabom.objectives.Objective`).

    Raises:
        TabomError: If a value is out of range.

    References:
        Peng et al. 2025 (PAPL), arXiv:2509.23405. Means are per sequence, then over sequences that have targets.
    """

    def __init__(
        self,
        supervise_padding: bool = True,
        alpha: float = 1.0,
        temperature: float = 1.0,
        tilt: float | None = None,
    ) -> None:
        super().__init__(UniformMasking(), supervise_padding=supervise_padding, tilt=tilt)
        check_range("alpha", alpha, least=0)
        check_range("temperature", temperature, above=0)
        self.alpha = alpha
        self.temperature = temperature

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss``, ``reconstruction``, and ``largest_weight`` of a row on average, in (0, 1]: 1 is a single token."""
        is_target = corrupted.is_target
        has_target = is_target.any(1)
        weight = path_weights(statistics.nll, where=is_target, temperature=self.temperature)
        losses = (1 + self.alpha * weight) * self.target_losses(statistics, corrupted, reference)
        return {
            "loss": self.mean_where(masked_mean(losses, is_target), has_target),
            "reconstruction": self.mean_where(masked_mean(statistics.nll, is_target), has_target).detach(),
            "largest_weight": self.mean_where(weight.amax(1), has_target),
        }
