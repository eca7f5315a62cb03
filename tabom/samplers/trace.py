"""The trace of a decoding: what each step revealed, and how sure the model was of it.

Axes: B rows of the batch, S active rows, T steps, N response positions, K candidates.
"""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.samplers.decoding_state import Positions, Turn
from tabom.types import NEVER, DecodedBatch


class Canvas(NamedTuple):
    """The responses of the active rows after a step, on the host.

    Attributes:
        rows: Their numbers in the batch.
        response_ids: Tokens; the mask token where nothing is revealed yet.
        unmask_step: Step that revealed each token, ``NEVER`` where it is masked; the largest of a row is the newest.
    """

    rows: list[int]
    response_ids: Int[Tensor, "S N"]
    unmask_step: Int[Tensor, "S N"]


class Trace:
    """Tokens, steps and entropies of a batch (B, N), filled in step by step.

    Args:
        response: The canvas' responses, all masked; revealed in place.
        num_steps: Steps of which all entropies are kept; 0 for none.
    """

    def __init__(self, response: Int[Tensor, "B N"], num_steps: int) -> None:
        num_rows, length = response.shape
        self.response = response
        self.unmask_step = torch.zeros_like(response)
        self.unmask_entropy = torch.zeros(num_rows, length, device=response.device)
        self.step_entropy = None
        if num_steps:
            self.step_entropy = self.unmask_entropy.new_full((num_rows, num_steps, length), torch.nan)

    def look_at(self, positions: Positions, entropy: Float[Tensor, " K"]) -> None:
        """Keep the entropies of masked positions before a step, in nats."""
        if self.step_entropy is not None:
            self.step_entropy[positions.row, positions.step, positions.column] = entropy

    def reveal(
        self,
        turn: Turn,
        is_revealed: Bool[Tensor, "S N"],
        tokens: Int[Tensor, "S N"],
        entropy: Float[Tensor, " K"],
    ) -> None:
        """Take over what a step revealed.

        Args:
            turn: What the step worked on.
            is_revealed: Positions that it revealed.
            tokens: What they became; anything elsewhere.
            entropy: Of each candidate, in nats.
        """
        changes = (
            (self.response, tokens),
            (self.unmask_step, turn.step[:, None]),
            (self.unmask_entropy, turn.spread(entropy, 0.0)),
        )
        for part, values in changes:
            part.index_copy_(0, turn.rows, torch.where(is_revealed, values, part[turn.rows]))

    def canvas(self, turn: Turn, was_masked: Bool[np.ndarray, "B N"], is_revealed: Bool[Tensor, "S N"]) -> Canvas:
        """What there is after a step.

        Args:
            turn: What the step worked on.
            was_masked: Positions of all rows that were masked before it, on the host.
            is_revealed: Positions that it revealed.
        """
        is_masked = torch.from_numpy(was_masked[turn.row_numbers]) & ~is_revealed.cpu()
        unmask_step = self.unmask_step[turn.rows].cpu().masked_fill(is_masked, NEVER)
        return Canvas(turn.row_numbers, self.response[turn.rows].cpu(), unmask_step)

    def decoded(self, is_masked: Bool[np.ndarray, "B N"], token_id: int | None, rows: Sequence[int]) -> DecodedBatch:
        """What some rows were decoded to.

        Args:
            is_masked: Positions of all rows that are not revealed, on the host.
            token_id: What these become, in one further step.
            rows: Numbers of the wanted rows, all of them finished.
        """
        decoded = DecodedBatch(self.response, self.unmask_step, self.unmask_entropy, self.step_entropy).select(rows)
        if token_id is None:
            return decoded
        is_left = torch.from_numpy(is_masked[list(rows)]).to(self.response.device)
        last_step = decoded.unmask_step.amax(1, keepdim=True)
        return dataclasses.replace(
            decoded,
            response_ids=decoded.response_ids.masked_fill(is_left, token_id),
            unmask_step=torch.where(is_left, last_step + 1, decoded.unmask_step),
            unmask_entropy=decoded.unmask_entropy.masked_fill(is_left, torch.nan),
        )
