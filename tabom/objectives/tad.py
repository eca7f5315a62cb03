"""Trajectory-aligned distillation from a teacher that is told the answer."""

import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor

from tabom.corruption.trajectory_segments import TrajectorySegments, in_current_block, is_revealed
from tabom.errors import TabomError, check_range, require
from tabom.objectives.base import Objective, Reduction
from tabom.seeding import RowDraws
from tabom.types import NO_TOKEN, Canvas, CorruptedBatch, TokenStatistics, TrajectoryBatch


class TadObjective(Objective):
    r"""Reconstruct what the next steps reveal, and follow a teacher that knows the answer everywhere else.

    .. math:: L = \frac{\lambda_1}{|\Delta|} \sum_{k \in \Delta} -\log p(x_0^k \mid q, U)
        + \frac{\lambda_2}{|R|} \sum_{k \in R} KL(p_{ref}(\cdot \mid a, q, U) \| p(\cdot \mid q, U))

    U is a state of the trajectory, any but the last with equal probability, :math:`\Delta` what the next ``window``
    steps reveal, and R what is still masked then. The teacher is the reference model: it sees the same state, and the
    reference answer a in front of the question q, as ``teacher_prompt`` words it (a system's turn where there is a chat
    template, else a line of text).

    Args:
        window: Steps that are reconstructed, >= 1.
        reconstruction_weight: :math:`\lambda_1`, >= 0.
        divergence_weight: :math:`\lambda_2`, >= 0.
        teacher_prompt: How the answer is told, with ``{answer}`` in its place.
        reduction: Both means are over the positions of a row and then over rows (``trajectories``), or over those of
            the whole batch (``batch_tokens``, released code).
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt.

    Raises:
        TabomError: If a value is out of range, or ``teacher_prompt`` has no place for the answer.

    References:
        TAD, arXiv:2605.09536, released code for LLaDA; Dream's has ``window: 6``. There the trajectories are those of
        the teacher itself, decoded with the answer in its prompt; here they are the ones that the data hold. All states
        of the data are equally likely there; here those of a row are. The temperature of the divergence is 1, as there.
    """

    needs_reference = True
    needs_divergence = True

    def __init__(
        self,
        window: int = 8,
        reconstruction_weight: float = 1.0,
        divergence_weight: float = 1.0,
        teacher_prompt: str = "Reference Answer: {answer}",
        reduction: Reduction = "trajectories",
        supervise_padding: bool = True,
    ) -> None:
        states = TrajectorySegments(
            window, window_unit="steps", truncated_windows=True, supervise_padding=supervise_padding
        )
        super().__init__(states, supervise_padding=supervise_padding)
        check_range("reconstruction_weight", reconstruction_weight, least=0)
        check_range("divergence_weight", divergence_weight, least=0)
        require(
            "{answer}" in teacher_prompt,
            f"teacher_prompt: expected a text with {{answer}} in the place of the answer, got {teacher_prompt!r}",
        )
        self.window = window
        self.reconstruction_weight = reconstruction_weight
        self.divergence_weight = divergence_weight
        self.teacher_prompt = teacher_prompt
        self._reduction: Reduction = reduction

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Show a state, and ask for all that is revealed after it; ``token_weight`` is 1 in the window, else 0.

        Raises:
            TabomError: If a row has no recorded order, or the batch no prompts for the teacher.
        """
        corrupted = super().corrupt(batch, mask_token_id, draws)
        is_later = corrupted.is_masked & is_revealed(batch) & in_current_block(batch, corrupted.is_target)
        corrupted = dataclasses.replace(
            corrupted,
            is_target=is_later if self.supervise_padding else is_later & ~batch.is_filler,
            token_weight=corrupted.is_target.float(),
        )
        return dataclasses.replace(corrupted, reference_canvas=_with_teacher_prompt(corrupted, batch))

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss``, ``reconstruction`` and ``teacher_kl``.

        Raises:
            TabomError: If the divergence from the teacher, or what :meth:`corrupt` adds, is missing.
        """
        if statistics.divergence is None or corrupted.token_weight is None:
            raise TabomError("divergence: expected a batch that TadObjective.corrupt made and its divergence, got none")
        is_next = corrupted.is_target & (corrupted.token_weight > 0)
        is_rest = corrupted.is_target & ~is_next
        losses = self.mean_of_targets(self.target_losses(statistics, corrupted, reference), is_next, self._reduction)
        values = self.weighted(statistics.divergence, corrupted)
        divergence = self.mean_of_targets(values, is_rest, self._reduction)
        return {
            "loss": self.reconstruction_weight * losses + self.divergence_weight * divergence,
            "reconstruction": self.mean_of_targets(statistics.nll.detach(), is_next, self._reduction),
            "teacher_kl": self.mean_of_targets(statistics.divergence.detach(), is_rest, self._reduction),
        }


def _with_teacher_prompt(corrupted: CorruptedBatch, batch: TrajectoryBatch) -> Canvas:
    """The same responses behind the prompts for the teacher."""
    prompt = batch.teacher_prompt_ids
    if prompt is None:
        raise TabomError(
            "teacher_prompt: expected training data that tell a teacher the answer (TrajectoryDataModule with answers "
            "self_distilled), got a batch without its prompts"
        )
    first = int(batch.is_response.any(0).long().argmax())
    is_prompt = prompt != NO_TOKEN
    prompt = prompt.where(is_prompt, 0)
    return Canvas(
        clean_ids=torch.cat([prompt, corrupted.clean_ids[:, first:]], 1),
        noisy_ids=torch.cat([prompt, corrupted.noisy_ids[:, first:]], 1),
        attention_mask=torch.cat([is_prompt, corrupted.attention_mask[:, first:]], 1),
        is_target=torch.cat([torch.zeros_like(is_prompt), corrupted.is_target[:, first:]], 1),
    )
