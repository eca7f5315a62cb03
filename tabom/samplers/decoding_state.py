"""Where each row of a batch is in its decoding: which rows are active, and what is masked in them. Kept on the host.

Axes: B rows of the batch, S active rows, N response positions, K positions that are looked at.
"""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor


class Positions(NamedTuple):
    """Some response positions of the active rows, row by row.

    Attributes:
        row: Number of the row in the batch.
        slot: Number of the row among the active ones.
        column: Number of the position in the response.
        step: Steps that the row has taken.
    """

    row: Int[Tensor, " K"]
    slot: Int[Tensor, " K"]
    column: Int[Tensor, " K"]
    step: Int[Tensor, " K"]

    def take(self, which: Tensor | slice) -> "Positions":
        """Some of them."""
        return Positions(*(part[which] for part in self))

    def pieces(self, size: int) -> Iterator["Positions"]:
        """At most ``size`` of them at a time."""
        return map(Positions._make, zip(*(part.split(size) for part in self), strict=True))


class Turn(NamedTuple):
    """What one step works on.

    Attributes:
        rows: Numbers of the active rows in the batch.
        step: Steps that each has taken.
        block_step: Steps that each has taken in its current block.
        row_numbers: The same as ``rows``, on the host.
        prompt_lengths: Tokens of each row's prompt, on the host.
        block_starts: First column of each row's current block, on the host; below 0 for a block that begins within the
            prompt.
        is_first: Whether it is each row's first step in that block, on the host.
        candidates: Masked positions of the current blocks.
        num_prompt: Prompt tokens of the row that has most of them.
        response_length: N.
    """

    rows: Int[Tensor, " S"]
    step: Int[Tensor, " S"]
    block_step: Int[Tensor, " S"]
    row_numbers: list[int]
    prompt_lengths: list[int]
    block_starts: list[int]
    is_first: list[bool]
    candidates: Positions
    num_prompt: int
    response_length: int

    def spread(self, values: Shaped[Tensor, " K"], fill: bool | int | float) -> Shaped[Tensor, "S N"]:
        """Put the value of each candidate at its position, and ``fill`` elsewhere."""
        place = self.candidates.slot * self.response_length + self.candidates.column
        everywhere = values.new_full((len(self.rows) * self.response_length,), fill)
        return everywhere.index_copy_(0, place, values).view(len(self.rows), -1)


class DecodingState:
    """Makes rows active, longest prompts first, as many at a time as there are slots; follows each to its end.

    Args:
        prompt_lengths: Tokens of each row's prompt.
        response_length: N.
        block_length: Columns that are decoded before any to their right.
        num_slots: Rows that are active at a time.
        counts_prompt: Whether blocks are counted from a prompt's first token, so that a row's first block is what its
            prompt's last one leaves; else they are counted from the response's.

    Attributes:
        rows: Numbers of the active rows (S,).
        step: Steps that each row of the batch has taken (B,).
        is_masked: Positions of each row of the batch that are not revealed (B, N).
    """

    def __init__(
        self,
        prompt_lengths: Int[np.ndarray, " B"],
        response_length: int,
        block_length: int,
        num_slots: int,
        *,
        counts_prompt: bool = False,
    ) -> None:
        num_rows = len(prompt_lengths)
        self.prompt_lengths = prompt_lengths
        self.num_slots = num_slots
        self.response_length = response_length
        self.block_length = block_length
        self._num_before = prompt_lengths % block_length * counts_prompt  # prompt tokens in each row's first block
        self.is_masked = np.ones((num_rows, response_length), dtype=bool)
        self.end = np.full(num_rows, response_length)
        self.step = np.zeros(num_rows, dtype=np.int64)
        self.block_step = np.zeros(num_rows, dtype=np.int64)
        self.rows = np.empty(0, dtype=np.int64)
        self._queue = deque(np.argsort(-prompt_lengths, kind="stable").tolist())
        self._refill()

    def turn(self, device: torch.device) -> Turn:
        """What the next step works on, on the device."""
        rows = self.rows
        is_candidate, block = self._current()
        block_starts = block * self.block_length - self._num_before[rows]
        columns = np.stack([rows, self.step[rows], self.block_step[rows]])
        return Turn(
            *torch.from_numpy(columns).to(device, non_blocking=True),
            row_numbers=rows.tolist(),
            prompt_lengths=self.prompt_lengths[rows].tolist(),
            block_starts=block_starts.tolist(),
            is_first=(self.block_step[rows] == 0).tolist(),
            candidates=self._positions(is_candidate, device),
            num_prompt=int(self.prompt_lengths[rows].max()),
            response_length=self.response_length,
        )

    def waiting(self, device: torch.device) -> Positions:
        """Masked positions of later blocks, on the device."""
        return self._positions(self.is_masked[self.rows] & ~self._current()[0], device)

    def advance(self, is_revealed: Bool[np.ndarray, "S N"], is_end: Bool[np.ndarray, "S N"]) -> list[int]:
        """Take note of what a step did.

        Args:
            is_revealed: Columns that it revealed.
            is_end: Where it revealed a token after which nothing counts.

        Returns:
            Rows that are finished: nothing is masked in them before their end.
        """
        rows = self.rows
        is_candidate, _ = self._current()
        self.is_masked[rows] &= ~is_revealed
        first_end = np.where(is_end.any(1), is_end.argmax(1), self.end[rows])
        self.end[rows] = np.minimum(self.end[rows], first_end)
        self.step[rows] += 1
        is_left = (is_candidate & self.is_masked[rows]).any(1)
        self.block_step[rows] = np.where(is_left, self.block_step[rows] + 1, 0)
        is_before_end = np.arange(self.response_length) < self.end[rows, None]
        is_finished = ~(self.is_masked[rows] & is_before_end).any(1)
        self.rows = rows[~is_finished]
        self._refill()
        return rows[is_finished].tolist()

    def _refill(self) -> None:
        num_free = min(self.num_slots - len(self.rows), len(self._queue))
        new = np.array([self._queue.popleft() for _ in range(num_free)], dtype=np.int64)
        self.rows = np.concatenate([self.rows, new])

    def _current(self) -> tuple[Bool[np.ndarray, "S N"], Int[np.ndarray, " S"]]:
        """Masked positions of the active rows' current blocks, and the numbers of these blocks."""
        is_masked = self.is_masked[self.rows]
        num_before = self._num_before[self.rows]
        block = (num_before + is_masked.argmax(1)) // self.block_length
        block_of = (num_before[:, None] + np.arange(self.response_length)) // self.block_length
        return is_masked & (block_of == block[:, None]), block

    def _positions(self, where: Bool[np.ndarray, "S N"], device: torch.device) -> Positions:
        slot, column = np.nonzero(where)
        row = self.rows[slot]
        return Positions(*torch.from_numpy(np.stack([row, slot, column, self.step[row]])).to(device, non_blocking=True))
