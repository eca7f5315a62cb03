"""States of a trajectory that hide what was decoded first."""

import torch
from jaxtyping import Int
from torch import Tensor

from tabom.corruption.trajectory_segments import check_order, is_revealed
from tabom.errors import check_range
from tabom.functional.masking import block_index, draw_block, draw_tokens
from tabom.functional.unmasking import block_ranks, unmasking_order, unmasking_rank
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TrajectoryBatch

_MASK_RATIOS = (1.0, 0.75, 0.5, 0.25)
_EXPONENT = 8


def blocks_of(batch: TrajectoryBatch, block_length: int | None) -> Int[Tensor, "B L"]:
    """Number of the block of each response position: that of a block-causal model, else by length; None for one."""
    if batch.attention_block is not None:
        return batch.attention_block
    return block_index(batch.is_response, block_length=block_length or batch.is_response.shape[1])


class BlockStates:
    """Mask the first-decoded share of every block and ask for it; the states of T3D's released code.

    The share r of a row is drawn from 1, 3/4, 1/2 and 1/4 with a probability proportional to the eighth power of r:
    0.906, 0.091, 0.0035 and 0.00001. Of n decoded positions in a block, those of the ceil(r n) lowest ranks are masked;
    ranks go by step, within a step by recorded entropy, else by position. What is visible was decoded later, so at
    r < 1 these are no states that decoding visits.

    Positions that decoding never revealed stay masked and are never asked for.

    With ``one_block`` a row asks for one of its blocks, drawn uniformly: the blocks before it are clean, and what is
    right of it is not there. So a block sees what it sees in a block-causal model, for which the released code was
    written and which learns all blocks of a row at once.

    Args:
        block_length: Response positions in a block, >= 1; None for one block. The last one may be shorter. A
            block-causal model has blocks of its own, which go before it.
        random_ratio: Probability with which a masked position shows a random token instead of the mask, in [0, 1]. It
            is drawn uniformly from the distinct tokens that the row's response was decoded into, so that no vocabulary
            is needed and a row does not depend on its batch; the released code draws from the vocabulary. Such a
            position counts as masked: its own token is not seen.
        one_block: Ask for one block alone.

    Raises:
        TabomError: If a value is out of range.

    References:
        The code of T3D, arXiv:2602.12262, which draws once when the data set is built; here every visit draws anew.
    """

    def __init__(self, block_length: int | None = 8, *, random_ratio: float = 0.1, one_block: bool = False) -> None:
        check_range("block_length", block_length, least=1)
        check_range("random_ratio", random_ratio, least=0, most=1)
        self.block_length = block_length
        self.random_ratio = random_ratio
        self.one_block = one_block

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Draw one state per row.

        Raises:
            TabomError: If a row has no recorded order.
        """
        check_order(batch)
        where = is_revealed(batch)
        ratios = torch.tensor(_MASK_RATIOS, dtype=torch.float64, device=where.device)
        mass = (ratios**_EXPONENT).cumsum(0)
        ratio = ratios[torch.searchsorted(mass[:-1] / mass[-1], draws.per_row(), right=True)]
        order = unmasking_order(batch.unmask_step, batch.unmask_entropy, where=where)
        block = blocks_of(batch, self.block_length)
        rank, num_revealed = block_ranks(order, block, where=where)
        is_target = where & (rank < ratio[:, None] * num_revealed)
        is_random = is_target & (draws.per_position(where) < self.random_ratio)
        random_ids = draw_tokens(batch.clean_ids, draws.per_position(where), where=where)
        attention_mask = batch.attention_mask
        if self.one_block:
            current = draw_block(block, draws.per_row(), where=where)[:, None]
            is_target, is_random = (part & (block == current) for part in (is_target, is_random))
            attention_mask = attention_mask & ~(batch.is_response & (block > current))
        is_masked = is_target | (batch.is_response & ~where & attention_mask)
        noisy_ids = batch.clean_ids.masked_fill(is_masked, mask_token_id)
        return CorruptedBatch(
            clean_ids=batch.clean_ids,
            noisy_ids=random_ids.where(is_random, noisy_ids),
            attention_mask=attention_mask,
            is_masked=is_masked,
            is_target=is_target,
            order=unmasking_rank(batch.unmask_step, batch.unmask_entropy, where=where),
            recorded_entropy=batch.unmask_entropy,
            query_ids=batch.query_ids,
            domain=batch.domain,
        )
