"""Two states of a recorded trajectory, and what was decoded between them."""

from tabom.corruption.trajectory_segments import check_order, in_current_block, is_revealed
from tabom.functional.masking import state_pair
from tabom.functional.unmasking import dense_steps, unmasking_rank
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TrajectoryBatch


class TrajectoryTransition:
    """Show a state of the trajectory and ask for all that is decoded until a later one.

    The two states are drawn uniformly over all pairs. A state stands after a whole step, so that the tokens of a step
    are shown or asked for together; steps that revealed nothing are no states of their own. What is decoded after the
    later state stays masked and is not asked for; so do positions that decoding never revealed. With a block-causal
    model only what was decoded in the block of the earlier state is asked for.

    References:
        Ma et al. 2025 (dInfer), arXiv:2510.08666, compressed transition learning.
    """

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Draw two states per row.

        Raises:
            TabomError: If a row has no recorded order.
        """
        check_order(batch)
        where = is_revealed(batch)
        step = dense_steps(batch.unmask_step, where=batch.is_response)
        earlier, later = state_pair(step.amax(1) + 1, draws.per_row(), draws.per_row())
        is_masked = batch.is_response & ~(where & (step < earlier[:, None]))
        is_target = where & is_masked & (step < later[:, None])
        return CorruptedBatch(
            clean_ids=batch.clean_ids,
            noisy_ids=batch.clean_ids.masked_fill(is_masked, mask_token_id),
            attention_mask=batch.attention_mask,
            is_masked=is_masked,
            is_target=is_target & in_current_block(batch, is_target),
            order=unmasking_rank(batch.unmask_step, batch.unmask_entropy, where=where),
            recorded_entropy=batch.unmask_entropy,
            query_ids=batch.query_ids,
            domain=batch.domain,
        )
