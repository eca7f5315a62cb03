"""States of a recorded trajectory, and the tokens that were decoded next."""

from typing import Literal

import torch

from tabom.errors import TabomError, require
from tabom.functional.masking import segment, segment_start
from tabom.functional.unmasking import unmasking_order, unmasking_rank
from tabom.types import NEVER, CorruptedBatch, TrajectoryBatch

WindowUnit = Literal["tokens", "steps"]
Ties = Literal["entropy", "positional", "unordered"]


class TrajectorySegments:
    """Show a state of the trajectory and ask for the next ``window`` tokens in decoding order (Eq. 8-9).

    Everything that was not decoded at that state is masked, also what comes after the window.

    Args:
        window: W, how many units a segment holds, >= 1.
        window_unit: ``tokens`` as in the paper, or ``steps`` as in the released code; equal at one token a step.
        truncated_windows: Also start where fewer than W units are left, and take those. Short responses need it, or
            late contexts are never trained; with ``window`` at the response length it gives the global window.
        ties: How tokens of one step are ordered. ``entropy``: by the entropy recorded when they were revealed, and not
            at all where none was (Definition 1). ``unordered``: not at all. ``positional``: left to right, as released.

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
    ) -> None:
        require(window >= 1, f"window: expected at least 1, got {window}")
        self.window = window
        self.window_unit: WindowUnit = window_unit
        self.truncated_windows = truncated_windows
        self.ties: Ties = ties

    def __call__(self, batch: TrajectoryBatch, mask_token_id: int, generator: torch.Generator) -> CorruptedBatch:
        """Draw one state per row, uniformly, and cut the segment that follows it.

        Raises:
            TabomError: If a row has no recorded order.
        """
        num_revealed = (batch.unmask_step != NEVER).logical_and(batch.is_response).sum(1)
        if self.window_unit == "steps":
            num_units = batch.unmask_step.masked_fill(~batch.is_response, NEVER).amax(1) + 1
        else:
            num_units = num_revealed
        if not bool((num_revealed > 0).all()):
            row = int((num_revealed == 0).nonzero()[0])
            raise TabomError(
                f"query {batch.query_ids[row]}: expected an unmasking order, but no position has an unmask_step; "
                "this objective needs self-distilled trajectories"
            )
        start = segment_start(num_units, window=self.window, truncated=self.truncated_windows, generator=generator)
        return self.cut(batch, start, mask_token_id)

    def cut(self, batch: TrajectoryBatch, start: torch.Tensor, mask_token_id: int) -> CorruptedBatch:
        """Cut the segment that follows the first ``start`` (B,) units of each trajectory.

        Positions that decoding never revealed stay masked and are no targets.
        """
        is_revealed = batch.is_response & (batch.unmask_step != NEVER)
        no_entropy = torch.full_like(batch.unmask_entropy, torch.nan)
        entropy = batch.unmask_entropy if self.ties == "entropy" else no_entropy
        order = unmasking_order(batch.unmask_step, entropy, where=is_revealed)
        unit = batch.unmask_step if self.window_unit == "steps" else order
        is_masked, is_target = segment(unit, start, window=self.window, where=is_revealed)
        is_hidden = is_masked | (batch.is_response & ~is_revealed)
        rank = order if self.ties == "positional" else unmasking_rank(batch.unmask_step, entropy, where=is_revealed)
        return CorruptedBatch(
            clean_ids=batch.clean_ids,
            noisy_ids=batch.clean_ids.masked_fill(is_hidden, mask_token_id),
            attention_mask=batch.attention_mask,
            is_target=is_target,
            order=rank,
            query_ids=batch.query_ids,
        )
