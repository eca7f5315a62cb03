"""Random masking, which ignores the order of decoding."""

import dataclasses
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tabom.errors import TabomError, check_range, check_used
from tabom.functional.blocks import block_count_mask, block_count_weights, spread_over_blocks
from tabom.functional.masking import late_mask_ratio, stratified, uniform_mask
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TrajectoryBatch

RatioPer = Literal["row", "block"]

_GOLDEN_RATIO = (5**0.5 - 1) / 2


class UniformMasking:
    """Mask a uniformly random share of the response and ask for all of it (Eq. 1).

    Positions that still hold the mask token, as decoding may have left them, are never asked for.

    Args:
        min_mask_ratio: Epsilon in [0, 1): the mask ratio is uniform on (epsilon, 1], as (1 - epsilon) t + epsilon.
        at_least_one: Force a token where none would be masked. Without it the positions of a row are independent.
        is_stratified: Spread the mask ratios evenly over the batch (:func:`~tabom.functional.masking.stratified`).
            Then a row's ratio depends on the other rows of its batch as well.
        ratio_per: ``row``: one mask ratio for all of a row, as dLLM trains block-causal models too. ``block``: one for
            each block of a block-causal model, spread evenly over them
            (:func:`~tabom.functional.blocks.spread_over_blocks`).
        late_bias: Nats, >= 0, by which the log-odds of a mask rise from the first position of the response to the last
            (:func:`~tabom.functional.masking.late_mask_ratio`).

    Raises:
        TabomError: If ``min_mask_ratio`` or ``late_bias`` is out of range.
    """

    def __init__(
        self,
        *,
        min_mask_ratio: float = 0.0,
        at_least_one: bool = True,
        is_stratified: bool = False,
        ratio_per: RatioPer = "row",
        late_bias: float = 0.0,
    ) -> None:
        check_range("min_mask_ratio", min_mask_ratio, least=0, below=1)
        check_range("late_bias", late_bias, least=0)
        self.min_mask_ratio = min_mask_ratio
        self.at_least_one = at_least_one
        self.is_stratified = is_stratified
        check_used("late_bias", late_bias, 0.0, is_used=ratio_per == "row", owner=f"ratio_per {ratio_per}")
        self.ratio_per: RatioPer = ratio_per
        self.late_bias = late_bias

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Corrupt one batch, with one draw of the mask ratio per row.

        Raises:
            TabomError: If ratios are wanted for blocks that the model does not have.
        """
        place = stratified(draws.per_row(), draws.per_row()) if self.is_stratified else draws.per_row()
        if self.ratio_per == "block":
            if batch.attention_block is None:
                raise TabomError("ratio_per: expected row with a backbone that is not block-causal, got block")
            place = spread_over_blocks(place, batch.attention_block)
        time = 1 - place
        mask_ratio = ((1 - self.min_mask_ratio) * time + self.min_mask_ratio).float()
        is_maskable = batch.is_response & (batch.clean_ids != mask_token_id)
        noise = draws.per_position(is_maskable)
        probability = (
            late_mask_ratio(is_maskable, mask_ratio, bias=self.late_bias) if self.late_bias > 0 else mask_ratio
        )
        is_masked = uniform_mask(is_maskable, probability, noise, at_least_one=self.at_least_one)
        return masked(batch, mask_token_id, is_masked, mask_ratio=mask_ratio)


class CountMasking:
    """Mask k of a row's n response tokens, k uniform over 1 ... n and spread evenly over the rows; ask for all of them.

    The mean over a row's masked tokens is an unbiased estimate of its NELBO a token
    (:func:`~tabom.functional.blocks.block_count_mask`). With a block-causal model that holds for each block, and the
    sum by ``token_weight`` is the estimate (:func:`~tabom.functional.blocks.block_count_weights`). Row i takes the
    place ``offset + i / golden ratio`` modulo 1, so that the first rows are spread evenly however many follow.
    Positions that still hold the mask token are never asked for.

    Args:
        offset: One draw from [0, 1).
    """

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Corrupt one batch."""
        place = (self.offset + torch.arange(len(batch.clean_ids)).double() * _GOLDEN_RATIO).remainder(1.0)
        is_maskable = batch.is_response & (batch.clean_ids != mask_token_id)
        block = torch.zeros_like(batch.clean_ids) if batch.attention_block is None else batch.attention_block
        is_masked = block_count_mask(is_maskable, place, draws.per_position(is_maskable), block=block)
        if batch.attention_block is not None:
            weight = block_count_weights(is_maskable, is_masked, block)
            return dataclasses.replace(masked(batch, mask_token_id, is_masked), token_weight=weight)
        mask_ratio = is_masked.sum(1) / is_maskable.sum(1).clamp(min=1)
        return masked(batch, mask_token_id, is_masked, mask_ratio=mask_ratio)


def masked(
    batch: TrajectoryBatch,
    mask_token_id: int,
    is_masked: Bool[Tensor, "B L"],
    *,
    mask_ratio: Float[Tensor, " B"] | Float[Tensor, "B L"] | None = None,
) -> CorruptedBatch:
    """Mask positions and ask for them; those that hold the mask token already count as masked, and are no targets."""
    return CorruptedBatch(
        clean_ids=batch.clean_ids,
        noisy_ids=batch.clean_ids.masked_fill(is_masked, mask_token_id),
        attention_mask=batch.attention_mask,
        is_masked=is_masked | (batch.is_response & (batch.clean_ids == mask_token_id)),
        is_target=is_masked,
        order=torch.zeros_like(batch.clean_ids),
        recorded_entropy=batch.unmask_entropy,
        query_ids=batch.query_ids,
        mask_ratio=mask_ratio,
        domain=batch.domain,
    )
