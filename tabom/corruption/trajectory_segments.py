"""States of a recorded trajectory, and the tokens that were decoded next."""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.errors import TabomError, check_range
from tabom.functional.masking import segment, segment_start, segment_start_at
from tabom.functional.unmasking import dense_steps, non_left_to_right, unmasking_order, unmasking_rank
from tabom.seeding import RowDraws
from tabom.types import NEVER, CorruptedBatch, TrajectoryBatch

WindowUnit = Literal["tokens", "steps"]
Ties = Literal["entropy", "positional", "unordered"]
Starts = Literal["uniform", "non_left_to_right"]


class TrajectorySegments:
    """Show a state of the trajectory and ask for the next ``window`` tokens in decoding order (Eq. 8-9).

    Everything that was not decoded at that state is masked, also what comes after the window.

    With a block-causal model a window ends with the block that was being decoded, since later blocks are predicted from
    other states; it starts at any state, as with ``truncated_windows``.

    Args:
        window: W, how many units a segment holds, >= 1.
        window_unit: ``tokens`` as in the paper, or ``steps`` as in the released code; equal at one token per step.
        truncated_windows: Also start where fewer than W units are left, and take those. Short responses need it, or
            late contexts are never trained; with ``window`` at the response length it gives the global window.
        ties: How tokens of one step are ordered. ``entropy``: by the entropy recorded when they were revealed, and not
            at all where none was (Definition 1). ``unordered``: not at all. ``positional``: left to right, as released.
        starts: ``uniform``: over all valid starts. ``non_left_to_right``: over those at which a token is decoded next
            that lies right of a position still masked after it; with ``window_unit: steps``, over the steps that decode
            any such token. A row without one draws from all. The released Dream recipe for Ling-Coder draws its steps
            so, from a list of positions in its data (``non_ltr_positions``) whose making is not public; here they
            follow from the order.
        supervise_padding: False leaves the end-of-sequence tokens that fill the response budget out before windows
            are cut: they neither count in ``window`` nor are asked for, and are seen as far as they had been decoded.

    Raises:
        TabomError: If ``window`` is below 1.
    """

    def __init__(
        self,
        window: int,
        *,
        window_unit: WindowUnit = "tokens",
        truncated_windows: bool = False,
        ties: Ties = "entropy",
        starts: Starts = "uniform",
        supervise_padding: bool = True,
    ) -> None:
        check_range("window", window, least=1)
        self.window = window
        self.window_unit: WindowUnit = window_unit
        self.truncated_windows = truncated_windows
        self.ties: Ties = ties
        self.starts: Starts = starts
        self.supervise_padding = supervise_padding

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """Draw one state per row and cut the segment that follows it.

        Raises:
            TabomError: If a row has no recorded order.
        """
        check_order(batch)
        where = self._counted(batch)
        unit = self._unit(batch, where)
        num_units = unit.masked_fill(~where, NEVER).amax(1) + 1
        noise, window = draws.per_row(), self.window
        truncated = self.truncated_windows or batch.attention_block is not None
        if self.starts == "uniform":
            start = segment_start(num_units, noise, window=window, truncated=truncated)
        else:
            is_next = non_left_to_right(unit, is_revealed=where, where=batch.is_response)
            start = segment_start_at(is_next, unit, num_units, noise, window=window, truncated=truncated)
        return self.cut(batch, start, mask_token_id)

    def cut(self, batch: TrajectoryBatch, start: Int[Tensor, " B"], mask_token_id: int) -> CorruptedBatch:
        """Cut the segment that follows the first ``start`` units of each trajectory.

        Positions that decoding never revealed stay masked and are no targets.
        """
        where, counted = is_revealed(batch), self._counted(batch)
        is_masked, is_target = segment(self._unit(batch, counted), start, window=self.window, where=counted)
        if not self.supervise_padding:
            order = self._order(batch, where)
            next_one = order.masked_fill(~is_masked, torch.iinfo(order.dtype).max).amin(1, keepdim=True)
            is_masked = where & (order >= next_one)
        is_target = is_target & in_current_block(batch, is_target)
        is_hidden = is_masked | (batch.is_response & ~where)
        number = unmasking_order if self.ties == "positional" else unmasking_rank
        return CorruptedBatch(
            clean_ids=batch.clean_ids,
            noisy_ids=batch.clean_ids.masked_fill(is_hidden, mask_token_id),
            attention_mask=batch.attention_mask,
            is_masked=is_hidden,
            is_target=is_target,
            order=number(batch.unmask_step, self._tie_breaker(batch), where=where),
            recorded_entropy=batch.unmask_entropy,
            query_ids=batch.query_ids,
            domain=batch.domain,
            block=batch.block,
        )

    def _counted(self, batch: TrajectoryBatch) -> Bool[Tensor, "B L"]:
        """Positions that windows are cut from."""
        where = is_revealed(batch)
        return where if self.supervise_padding else where & ~batch.is_filler

    def _unit(self, batch: TrajectoryBatch, where: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        """What ``window`` counts: the step of each position, or its place in the order, among those of ``where``."""
        order = self._order(batch, where)
        return order if self.supervise_padding or self.window_unit == "tokens" else dense_steps(order, where=where)

    def _order(self, batch: TrajectoryBatch, where: Bool[Tensor, "B L"]) -> Int[Tensor, "B L"]:
        if self.window_unit == "steps":
            return batch.unmask_step
        return unmasking_order(batch.unmask_step, self._tie_breaker(batch), where=where)

    def _tie_breaker(self, batch: TrajectoryBatch) -> Float[Tensor, "B L"]:
        """Entropies that order the tokens of a step; NaN where nothing but their position may."""
        return batch.unmask_entropy if self.ties == "entropy" else torch.full_like(batch.unmask_entropy, torch.nan)


def is_revealed(batch: TrajectoryBatch) -> Bool[Tensor, "B L"]:
    """Response positions that decoding revealed."""
    return batch.is_response & (batch.unmask_step != NEVER)


def in_current_block(batch: TrajectoryBatch, is_target: Bool[Tensor, "B L"]) -> Bool[Tensor, "B L"]:
    """The block of a block-causal model in which the first of the targets was decoded; all where there is none.

    Args:
        batch: Decoded rows.
        is_target: Positions that were decoded after a state.
    """
    block = batch.attention_block
    if block is None:
        return torch.ones_like(is_target)
    never = torch.iinfo(block.dtype).max
    step = batch.unmask_step.long().masked_fill(~is_target, never)
    is_first = is_target & (step == step.amin(1, keepdim=True))
    return block == block.masked_fill(~is_first, never).amin(1, keepdim=True)


def check_order(batch: TrajectoryBatch) -> None:
    """Raise ``TabomError`` if a row has no recorded order."""
    has_order = is_revealed(batch).any(1)
    if not bool(has_order.all()):
        row = int((~has_order).nonzero()[0])
        raise TabomError(
            f"query {batch.query_ids[row]}: expected an unmasking order, but no position has an unmask_step; "
            "this objective needs self-distilled trajectories"
        )
