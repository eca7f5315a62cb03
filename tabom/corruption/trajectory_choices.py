"""States of a recorded trajectory, and all that decoding could have revealed next."""

import dataclasses

import torch

from tabom.corruption.trajectory_segments import TrajectorySegments
from tabom.seeding import RowDraws
from tabom.types import NEVER, CorruptedBatch, TrajectoryBatch


class TrajectoryChoices:
    """Show a state that decoding was in, and ask for the next ``window`` steps and for every candidate of the first.

    Candidates are all masked positions of the block that is being decoded, those that were never revealed included;
    data that do not say in which blocks they were decoded have one, the response. A block-causal model has its own.
    States, steps and their targets are those of :class:`TrajectorySegments` with ``window_unit: steps``; targets of the
    window have a ``token_weight`` of 1, other candidates 0. In ``order``, what the first step revealed comes before the
    other candidates, by recorded entropy within the step.

    Args:
        window: Steps whose tokens are asked for, >= 1.
        truncated_windows: Also start where fewer steps are left, and take those.
        supervise_padding: False leaves the end-of-sequence tokens that fill the response budget out: they are neither
            asked for nor candidates.

    Raises:
        TabomError: If ``window`` is below 1.
    """

    def __init__(self, window: int, *, truncated_windows: bool, supervise_padding: bool) -> None:
        self._segments = TrajectorySegments(
            window,
            window_unit="steps",
            truncated_windows=truncated_windows,
            supervise_padding=supervise_padding,
        )

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Draw one state per row.

        Raises:
            TabomError: If a row has no recorded order.
        """
        segment = self._segments(batch, mask_token_id, draws)
        last = torch.iinfo(batch.unmask_step.dtype).max
        step = batch.unmask_step.masked_fill(~segment.is_target, last)
        is_next = segment.is_target & (step == step.amin(1, keepdim=True))
        block = segment.block if batch.attention_block is None else batch.attention_block
        block = torch.zeros_like(step) if block is None else block
        is_counted = segment.is_masked & (block == block.masked_fill(~is_next, NEVER).amax(1, keepdim=True))
        is_candidate = is_counted if self._segments.supervise_padding else is_counted & ~batch.is_filler
        return dataclasses.replace(
            segment,
            is_target=segment.is_target | is_candidate,
            is_candidate=is_candidate,
            order=segment.order.masked_fill(~is_next, torch.iinfo(segment.order.dtype).max),
            token_weight=segment.is_target.float(),
        )
