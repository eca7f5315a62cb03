"""A random half of one block, and the other half in a second row."""

import torch

from tabom.corruption.block_states import blocks_of
from tabom.errors import check_range
from tabom.functional.masking import draw_block, uniform_mask
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TrajectoryBatch


class ComplementaryMasking:
    """Mask random positions of one block of the response, and in a copy of the row the block's other positions.

    Earlier blocks are visible, later ones masked and not asked for, as in semi-autoregressive decoding. The block is
    drawn uniformly over those that hold something to be learnt. Positions that still hold the mask token, as decoding
    may have left them, are never asked for.

    Args:
        block_length: Response positions in a block, >= 1; the last block may be shorter. A block-causal model has
            blocks of its own, which go before it.
        mask_ratio: Probability with which each position of the block is masked in the first row, in (0, 1).
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are asked for.

    Raises:
        TabomError: If a value is out of range.

    References:
        Chen et al. 2025 (dParallel), arXiv:2509.26488. The released code draws the block for each sequence but lets the
        last draw mask every sequence of the batch, and may draw an empty block behind the last; here rows are
        independent and a block is never empty.
    """

    def __init__(self, *, block_length: int, mask_ratio: float, supervise_padding: bool) -> None:
        check_range("block_length", block_length, least=1)
        check_range("mask_ratio", mask_ratio, above=0, below=1)
        self.block_length = block_length
        self.mask_ratio = mask_ratio
        self.supervise_padding = supervise_padding

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Corrupt one batch of B rows into 2B: row B + i is the complement of row i."""
        is_present = batch.is_response & (batch.clean_ids != mask_token_id)
        is_learnt = is_present if self.supervise_padding else is_present & ~batch.is_filler
        block = blocks_of(batch, self.block_length)
        drawn = draw_block(block, draws.per_row(), where=is_learnt)[:, None]
        is_in_block = is_present & (block == drawn)
        ratio = torch.full((len(drawn),), self.mask_ratio, device=drawn.device)
        is_first = uniform_mask(is_in_block, ratio, draws.per_position(is_in_block), at_least_one=False)
        is_asked = torch.cat([is_first, is_in_block & ~is_first])
        clean_ids, is_response = batch.clean_ids.repeat(2, 1), batch.is_response.repeat(2, 1)
        is_later = is_response & (block > drawn).repeat(2, 1)
        is_masked = is_response & (is_asked | is_later | (clean_ids == mask_token_id))
        return CorruptedBatch(
            clean_ids=clean_ids,
            noisy_ids=clean_ids.masked_fill(is_masked, mask_token_id),
            attention_mask=batch.attention_mask.repeat(2, 1),
            is_masked=is_masked,
            is_target=is_asked & is_learnt.repeat(2, 1),
            order=torch.zeros_like(clean_ids),
            recorded_entropy=batch.unmask_entropy.repeat(2, 1),
            query_ids=batch.query_ids * 2,
            domain=batch.domain,
        )
