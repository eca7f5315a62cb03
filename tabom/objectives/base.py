"""The contract between an objective and the module that trains with it."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from tabom.functional.reduction import masked_mean
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch

Reduction = Literal["trajectories", "batch_tokens"]
Corruption = Callable[[TrajectoryBatch, int, RowDraws], CorruptedBatch]


def _identity(values: Tensor) -> Tensor:
    return values


class Objective(ABC):
    """Corrupts clean sequences and scores what the model says about them.

    Args:
        corruption: What the network sees and is asked for.
        supervise_padding: Whether the end-of-sequence tokens that fill the response budget after the first one are
            learnt. LLaDA and Dream learn them.

    Attributes:
        needs_reference: Whether :meth:`terms` needs statistics of a reference model on the same corrupted batch: the
            base that training started from, or a later snapshot.
        reference_interval: Optimizer steps after which the reference becomes a snapshot of the model; None keeps the
            base.
        sample_temperature: The reference samples a token at every target at this temperature (0: the likeliest), whose
            negative log-likelihood comes as ``sampled_nll``; None for no such tokens.
        entropy_temperature: The entropies are those of softmax(logits / temperature).
        mean_over_ranks: Averages a tensor over the processes that train together; set by the module. With it the
            average of the processes' losses and gradients is that of one process with all rows.
    """

    needs_reference = False
    reference_interval: int | None = None
    sample_temperature: float | None = None
    entropy_temperature = 1.0

    def __init__(self, corruption: Corruption, *, supervise_padding: bool) -> None:
        self._corruption = corruption
        self.supervise_padding = supervise_padding
        self.mean_over_ranks: Callable[[Tensor], Tensor] = _identity

    def set_step(self, step: int) -> None:
        """Prepare for an optimizer step, 0 first; called before :meth:`corrupt`. For weights that change with it."""
        del step

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Choose what the model sees and is asked for; what a row gets depends on the row and its draws alone."""
        corrupted = self._corruption(batch, mask_token_id, draws)
        if self.supervise_padding:
            return corrupted
        return dataclasses.replace(corrupted, is_target=corrupted.is_target & ~batch.is_filler)

    @abstractmethod
    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Loss and its terms.

        Args:
            statistics: Of the targets; (B, L), anything where nothing was asked for.
            corrupted: What :meth:`corrupt` returned.
            reference: The same of the reference model, without a gradient, where ``needs_reference``.

        Returns:
            ``loss``, which is minimised, and further scalars to be logged, in nats unless said otherwise.
        """

    def check_response_length(self, response_length: int) -> None:
        """Raise ``TabomError`` where the objective cannot work with so many response tokens."""
        del response_length

    def mean_of_targets(
        self, values: Float[Tensor, "B L"], is_target: Bool[Tensor, "B L"], reduction: Reduction
    ) -> Float[Tensor, ""]:
        """Mean over the targets: of each trajectory and then over trajectories, or over those of the whole batch."""
        if reduction == "batch_tokens":
            return self.mean_where(values, is_target)
        return self.mean_where(masked_mean(values, is_target), is_target.any(1))

    def mean_where(self, values: Float[Tensor, "*K"], where: Bool[Tensor, "*K"]) -> Float[Tensor, ""]:
        """Mean over the entries that count, of all processes; a zero attached to the graph where none does.

        Every process has to call it equally often. Under gradient accumulation every batch counts alike, so that the
        result is that of one large batch only where all have equally many entries that count: not for means over
        tokens, nor where some rows have no target (or no pair).
        """
        count = self.mean_over_ranks(where.sum().to(values.dtype))
        return values.where(where, 0.0).sum() / count.where(count > 0, 1.0)
