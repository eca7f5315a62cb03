"""Random masking, which ignores the order of decoding."""

import torch

from tabom.errors import require
from tabom.functional.masking import uniform_mask
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TrajectoryBatch


class UniformMasking:
    """Mask a uniformly random share of the response and ask for all of it (Eq. 1).

    Positions that still hold the mask token, as decoding may have left them, are never asked for.

    Args:
        min_mask_ratio: Epsilon in [0, 1): the mask ratio is uniform on (epsilon, 1], as (1 - epsilon) t + epsilon.
        at_least_one: Force a token where none would be masked. Without it the positions of a row are independent.

    Raises:
        TabomError: If ``min_mask_ratio`` is out of range.
    """

    def __init__(self, *, min_mask_ratio: float = 0.0, at_least_one: bool = True) -> None:
        require(0 <= min_mask_ratio < 1, f"min_mask_ratio: expected at least 0 and below 1, got {min_mask_ratio}")
        self.min_mask_ratio = min_mask_ratio
        self.at_least_one = at_least_one

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Corrupt one batch, with one draw of the mask ratio per row."""
        time = 1 - draws.per_row()
        mask_ratio = ((1 - self.min_mask_ratio) * time + self.min_mask_ratio).float()
        is_maskable = batch.is_response & (batch.clean_ids != mask_token_id)
        noise = draws.per_position(is_maskable)
        is_masked = uniform_mask(is_maskable, mask_ratio, noise, at_least_one=self.at_least_one)
        return CorruptedBatch(
            clean_ids=batch.clean_ids,
            noisy_ids=batch.clean_ids.masked_fill(is_masked, mask_token_id),
            attention_mask=batch.attention_mask,
            is_masked=is_masked | (batch.is_response & ~is_maskable),
            is_target=is_masked,
            order=torch.zeros_like(batch.clean_ids),
            recorded_entropy=batch.unmask_entropy,
            query_ids=batch.query_ids,
            mask_ratio=mask_ratio,
            domain=batch.domain,
        )
