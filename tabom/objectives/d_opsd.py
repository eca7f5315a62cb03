"""Self-distillation from a teacher that sees parts of the model's own finished answer."""

import dataclasses
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tabom.backbones.target_pass import TargetPass
from tabom.corruption import TrajectoryChoices
from tabom.corruption.trajectory_segments import in_current_block, is_revealed
from tabom.errors import TabomError, check_range, require
from tabom.functional.divergence import Direction
from tabom.functional.masking import lowest
from tabom.objectives.base import Objective
from tabom.seeding import RowDraws
from tabom.types import NEVER, Canvas, CorruptedBatch, TokenStatistics, TrajectoryBatch

Future = Literal["later_blocks", "later_steps"]


class DOpsdObjective(Objective):
    r"""Follow a teacher that sees some of what decoding revealed later, at the positions of the next step.

    .. math:: L = E_U \sum_{k \in S} D(p_{ref}(\cdot \mid U, F), p(\cdot \mid U))

    U is a state of the trajectory, and F a random share of the response after it, with the tokens that were decoded in
    the end. Nothing but this share tells the teacher from the student. S are as many positions as the step revealed.
    D is :func:`tabom.functional.divergence.top_k_divergence`. A row whose teacher would see no more than the student
    does not count. The trajectories are the model's own only as long as it is the model that decoded them: in the first
    round of a pipeline that decodes anew.

    Args:
        future: What F is drawn from. ``later_blocks``: all positions of the blocks after the one that is being decoded,
            unless the text has ended before the next one. ``later_steps``: all positions that later steps
            reveal, for trajectories that were decoded in one block.
        retain_ratio: Share of these that the teacher sees, in (0, 1].
        selection: S are the positions that the ``teacher`` is surest of, among all that are masked in the block for it,
            or those that the ``student``'s step revealed.
        teacher: The ``base`` (or the start, as ``model.reference`` says), or the ``current`` model; no weights are
            copied for it, and it gets no gradient.
        direction: ``reverse``: the mean is over the student's distribution; ``forward``: over the teacher's.
        top_k: Tokens that the divergence is over, the teacher's likeliest, >= 1.
        clip: Largest value of one token's term, in nats, > 0; None for no bound.
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt. Those that are not
            may be seen by the teacher.

    Raises:
        TabomError: If a value is out of range.

    References:
        d-OPSD, arXiv:2606.18195, released code with its scripts' settings. There rows are decoded by the model that is
        trained, two tokens a step, and a step takes all states of a row; here a visit takes one state of a stored
        trajectory. The teacher's certainty is its largest logit there, and its largest probability here. Wrong answers
        get a loss of 0 there; here ``data.only_verified`` leaves them out.
    """

    needs_reference = True
    needs_divergence = True

    def __init__(
        self,
        future: Future = "later_blocks",
        retain_ratio: float = 0.25,
        selection: Literal["teacher", "student"] = "teacher",
        teacher: Literal["base", "current"] = "base",
        direction: Direction = "reverse",
        top_k: int = 20,
        clip: float | None = 0.05,
        supervise_padding: bool = True,
    ) -> None:
        states = TrajectoryChoices(1, truncated_windows=True, supervise_padding=supervise_padding)
        super().__init__(states, supervise_padding=supervise_padding)
        check_range("retain_ratio", retain_ratio, above=0, most=1)
        check_range("top_k", top_k, least=1)
        check_range("clip", clip, above=0)
        self.future: Future = future
        self.retain_ratio = retain_ratio
        self.selection: Literal["teacher", "student"] = selection
        self.reference_is_model = teacher == "current"
        self.direction: Direction = direction
        self.top_k = top_k
        self.clip = clip

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Show a state; ``token_weight`` is 1 at what the next step reveals, else 0.

        Raises:
            TabomError: If a row has no recorded order, or was decoded in one block where later ones are needed.
        """
        corrupted = super().corrupt(batch, mask_token_id, draws)
        if corrupted.is_candidate is None or corrupted.token_weight is None:
            raise TabomError("is_candidate: expected the candidates of a state, got none")
        is_next = corrupted.is_target & (corrupted.token_weight > 0)
        is_future = self._future_of(batch, corrupted, is_next)
        number = (is_future.sum(1) * self.retain_ratio).long()
        is_seen = lowest(draws.per_position(is_future), number, where=is_future)
        is_asked = is_next if self.selection == "student" else corrupted.is_candidate & ~is_seen
        is_target = is_asked & (number > 0)[:, None]
        return dataclasses.replace(
            corrupted,
            is_target=is_target,
            reference_canvas=Canvas(
                clean_ids=batch.clean_ids,
                noisy_ids=batch.clean_ids.where(is_seen, corrupted.noisy_ids),
                attention_mask=corrupted.attention_mask,
                is_target=is_target,
            ),
        )

    def _future_of(
        self, batch: TrajectoryBatch, corrupted: CorruptedBatch, is_next: Bool[Tensor, "B L"]
    ) -> Bool[Tensor, "B L"]:
        """Masked positions that the teacher may see."""
        is_later = corrupted.is_masked & is_revealed(batch) & ~is_next
        if self.future == "later_steps":
            return is_later & in_current_block(batch, is_next)
        require(
            batch.attention_block is None,
            "future: expected later_steps with a block-causal backbone, in which a teacher sees no later block, got "
            "later_blocks",
        )
        block = torch.zeros_like(batch.clean_ids) if batch.block is None else batch.block
        last = block.masked_fill(~batch.is_response, NEVER).amax(1)
        if bool((last == 0).any()):
            row = int((last == 0).nonzero()[0])
            raise TabomError(
                f"query {batch.query_ids[row]}: expected a trajectory that was decoded in several blocks with future "
                "later_blocks, got one block; set model.objective.future=later_steps, or say how imported trajectories "
                "were decoded (tabom trajectories import --block_length N)"
            )
        current = block.masked_fill(~is_next, NEVER).amax(1, keepdim=True)
        is_text = batch.is_response & ~batch.is_filler
        has_text = (is_text & (block > current)).any(1, keepdim=True)
        return is_later & (block > current) & has_text

    def divergence(self, seen: TargetPass, reference: TargetPass) -> Tensor:
        """On the tokens that the teacher finds likeliest."""
        return seen.top_k_divergence_from(reference, k=self.top_k, direction=self.direction, clip=self.clip)

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss``, and ``reconstruction``: the mean cross-entropy of what was decoded at the positions of the loss.

        Raises:
            TabomError: If the teacher's statistics, the divergence from it, or what :meth:`corrupt` adds, is missing.
        """
        if reference is None or statistics.divergence is None or corrupted.token_weight is None:
            raise TabomError("divergence: expected a batch that DOpsdObjective.corrupt made and a teacher, got none")
        is_asked, number = corrupted.is_target, (corrupted.token_weight > 0).sum(1)
        if self.selection == "teacher":
            is_asked = lowest(-reference.confidence, number, where=is_asked)
        has_any = is_asked.any(1)
        steps = statistics.divergence.where(is_asked, 0.0).sum(1)
        return {
            "loss": self.mean_of_rows(steps, has_any, corrupted),
            "reconstruction": self.mean_of_targets(statistics.nll.detach(), is_asked, "trajectories"),
        }
