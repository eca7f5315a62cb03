"""Random masking, which ignores the order of decoding."""

import torch

from tabom.functional.masking import uniform_mask
from tabom.types import CorruptedBatch, TrajectoryBatch


class UniformMasking:
    """Mask a uniformly random share of the response and ask for all of it (Eq. 1).

    Positions that still hold the mask token, as decoding may have left them, are never asked for.
    """

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, generator: torch.Generator) -> CorruptedBatch:
        """Corrupt one batch; the mask ratio is uniform on (0, 1], one draw per row."""
        num_rows = batch.clean_ids.shape[0]
        mask_ratio = 1 - torch.rand(num_rows, generator=generator, device=batch.clean_ids.device)
        is_maskable = batch.is_response & (batch.clean_ids != mask_token_id)
        is_masked = uniform_mask(is_maskable, mask_ratio, generator=generator)
        return CorruptedBatch(
            clean_ids=batch.clean_ids,
            noisy_ids=batch.clean_ids.masked_fill(is_masked, mask_token_id),
            attention_mask=batch.attention_mask,
            is_masked=is_masked,
            is_target=is_masked,
            order=torch.zeros_like(batch.clean_ids),
            recorded_entropy=batch.unmask_entropy,
            query_ids=batch.query_ids,
            mask_ratio=mask_ratio,
            source=batch.source,
        )
