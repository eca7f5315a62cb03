"""The contract between an objective and the module that trains with it."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor

from tabom.backbones.target_pass import TargetPass
from tabom.errors import TabomError, check_range
from tabom.functional.reduction import masked_mean
from tabom.functional.tilting import tilted_divergence
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch

Reduction = Literal["trajectories", "batch_tokens"]
Corruption = Callable[[TrajectoryBatch, int, RowDraws], CorruptedBatch]
Look = Callable[[CorruptedBatch], TokenStatistics]
"""Statistics of the model that is trained at the targets of a batch (B, L), without a gradient and without dropout."""


def _identity(values: Tensor) -> Tensor:
    return values


class Objective(ABC):
    """Corrupts clean sequences and scores what the model says about them.

    Args:
        corruption: What the network sees and is asked for.
        supervise_padding: Whether the end-of-sequence tokens that fill the response budget after the first one are
            learnt. LLaDA and Dream learn them.
        tilt: Eta in nats, >= 0: targets pull the model towards the reference model tilted by so much in their favour
            (:func:`tabom.functional.tilting.tilted_divergence`). None, its limit, is cross-entropy.

    Raises:
        TabomError: If ``tilt`` is below 0.

    Attributes:
        needs_reference: Whether :meth:`terms` needs statistics of a reference model on the same corrupted batch: the
            base that training started from, a later snapshot, or the model itself. What it sees may differ
            (``reference_canvas`` of :class:`tabom.types.CorruptedBatch`).
        reference_interval: Optimizer steps after which the reference becomes a snapshot of the model; None keeps the
            base.
        sample_temperature: The reference samples a token at every target at this temperature (0: the likeliest), whose
            negative log-likelihood comes as ``sampled_nll``; None for no such tokens.
        entropy_temperature: The entropies are those of softmax(logits / temperature).
        needs_divergence: Whether :meth:`terms` needs the divergence from the reference.
        reference_is_model: Whether the reference is the model with its present weights, not differentiated.
        teacher_prompt: Text with ``{answer}`` in the place of the reference answer, which the rows' prompts for a
            teacher begin with; None where none are needed.
        needs_recorded_entropy: Whether trajectories have to say how uncertain the model was when it revealed a token.
        mean_over_ranks: Averages a tensor over the processes that train together; set by the module. With it the
            average of the processes' losses and gradients is that of one process with all rows.
    """

    needs_reference = False
    reference_interval: int | None = None
    sample_temperature: float | None = None
    entropy_temperature = 1.0

    needs_divergence = False
    reference_is_model = False
    teacher_prompt: str | None = None
    needs_recorded_entropy = False

    def __init__(self, corruption: Corruption, *, supervise_padding: bool, tilt: float | None = None) -> None:
        check_range("tilt", tilt, least=0)
        self._corruption = corruption
        self.supervise_padding = supervise_padding
        self.tilt = tilt
        self.needs_reference = self.needs_reference or tilt is not None
        self.needs_divergence = self.needs_divergence or tilt is not None
        self.mean_over_ranks: Callable[[Tensor], Tensor] = _identity

    def set_step(self, step: int) -> None:
        """Prepare for an optimizer step, 0 first; called before :meth:`corrupt`. For weights that change with it."""
        del step

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Choose what the model sees and is asked for; what a row gets depends on the row and its draws alone."""
        return self._finished(self._corruption(batch, mask_token_id, draws), batch)

    def corrupt_by_model(
        self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws, look: Look
    ) -> CorruptedBatch:
        """As :meth:`corrupt`, for objectives whose choice depends on what the model says of another corruption.

        Those call ``look`` equally often for every batch, so that processes that share weights wait for each other.
        """
        del look
        return self.corrupt(batch, mask_token_id, draws)

    def _finished(self, corrupted: CorruptedBatch, batch: TrajectoryBatch) -> CorruptedBatch:
        corrupted = self._with_credit(corrupted, batch)
        if self.supervise_padding:
            return corrupted
        return dataclasses.replace(corrupted, is_target=corrupted.is_target & ~batch.is_filler)

    @staticmethod
    def _with_credit(corrupted: CorruptedBatch, batch: TrajectoryBatch) -> CorruptedBatch:
        """With weight and advantage of the batch's rows, which may be there several times, one copy after the other."""
        num_copies = len(corrupted.query_ids) // len(batch.query_ids)
        weight, advantage = batch.row_weight, batch.advantage
        return dataclasses.replace(
            corrupted,
            row_weight=None if weight is None else weight.repeat(num_copies),
            advantage=None if advantage is None else advantage.repeat(num_copies),
        )

    @abstractmethod
    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """Loss and its terms.

        Args:
            statistics: Of the targets; (B, L), anything where nothing was asked for.
            corrupted: What :meth:`corrupt` returned.
            reference: Statistics of the reference model, without a gradient, where ``needs_reference``.

        Returns:
            ``loss``, which is minimised, and further scalars to be logged, in nats unless said otherwise.
        """

    def target_losses(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None
    ) -> Float[Tensor, "B L"]:
        """What each target adds to the loss, in nats: anything where nothing was asked for.

        The negative log-likelihood, or with ``tilt`` the divergence from the tilted reference, where the tilt of a row
        with an advantage is eta times that; times the weight of the row.

        Raises:
            TabomError: If something is missing that ``tilt`` needs.
        """
        losses = statistics.nll
        if self.tilt is not None:
            if reference is None or statistics.divergence is None:
                raise TabomError("tilt: expected statistics of a reference model and the divergence from it, got none")
            advantage = corrupted.advantage
            losses = tilted_divergence(
                losses,
                statistics.divergence,
                reference.nll.where(corrupted.is_target, 0.0),
                tilt=self.tilt if advantage is None else (self.tilt * advantage[:, None]).to(losses).expand_as(losses),
            )
        return self.weighted(losses, corrupted)

    @staticmethod
    def weighted(values: Float[Tensor, "B L"], corrupted: CorruptedBatch) -> Float[Tensor, "B L"]:
        """Values of the positions times the weights of their rows."""
        return values if corrupted.row_weight is None else values * corrupted.row_weight[:, None]

    def divergence(self, seen: TargetPass, reference: TargetPass) -> Tensor:
        """Divergence of the model from the reference at each target (B, L) in nats, where ``needs_divergence``."""
        return seen.divergence_from(reference)

    def mean_of_rows(
        self, values: Float[Tensor, " B"], where: Bool[Tensor, " B"], corrupted: CorruptedBatch
    ) -> Float[Tensor, ""]:
        """Mean over rows of something other than targets, such as their order, times the weights of the rows.

        A row whose advantage is not above 0 gives no example to follow, and is left out.
        """
        if corrupted.advantage is not None:
            where = where & (corrupted.advantage > 0)
        return self.mean_where(values if corrupted.row_weight is None else values * corrupted.row_weight, where)

    def learnable(self, batch: TrajectoryBatch, mask_token_id: int) -> Bool[Tensor, "B L"]:
        """Response positions whose token may be asked for: not where decoding left a mask token."""
        is_present = batch.is_response & (batch.clean_ids != mask_token_id)
        return is_present if self.supervise_padding else is_present & ~batch.is_filler

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
