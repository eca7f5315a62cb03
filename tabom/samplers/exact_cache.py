"""Keys and values of finished blocks of a block-causal model, which no later token changes.

Axes: S active rows, L canvas positions, N response positions, P computed positions, D hidden size.
"""

from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.samplers.decoding_state import Turn


class ExactCache:
    """Computes a row's current block alone, and once more as soon as it is finished.

    Keys and values of a block are final when its last token is. They are computed together with the first step of the
    next block, and those of a prompt with the row's first step. What is decoded is the same as without a cache.

    Args:
        backbone: Block-causal; has ``slot_cache`` and ``forward_from_cache``.
        num_slots: Rows that are active at a time.
        num_positions: Most tokens of a prompt and its response.

    Raises:
        TabomError: If the backbone cannot keep keys and values.

    References:
        Arriola et al. 2025, arXiv:2503.09573, section 3.2.
    """

    def __init__(self, backbone: Any, num_slots: int, num_positions: int) -> None:
        self._backbone = backbone
        self._kept = backbone.slot_cache(num_slots, num_positions)
        self._rows: list[int] = []  # in the order of their slots

    def hidden(self, ids: Int[Tensor, "S L"], is_there: Bool[Tensor, "S L"], turn: Turn) -> Float[Tensor, "S N D"]:
        """Hidden states of the responses, 0 outside of the current blocks.

        Args:
            ids: Canvases of the active rows, with padding on the left.
            is_there: False on that.
            turn: What the step works on.
        """
        del is_there
        is_old = np.array(self._take_slots(turn.row_numbers))
        place = np.array([turn.row_numbers.index(row) for row in self._rows])
        num_prompt, start, is_first = (
            np.array(each)[place] for each in (turn.prompt_lengths, turn.block_starts, turn.is_first)
        )
        size, length = self._backbone.block_size, turn.response_length
        begin = np.where(is_old, num_prompt + start - size * is_first, 0)
        wanted, end = num_prompt + np.maximum(start, 0), num_prompt + np.minimum(start + size, length)
        table = np.stack([place, num_prompt, begin, wanted, end])
        groups = [slots for slots in (np.flatnonzero(is_old), np.flatnonzero(~is_old)) if len(slots)]
        parts = [self._pass(ids, length, slots.tolist(), table[:, slots]) for slots in groups]
        hidden = parts[0][2].new_zeros(len(place), length + 1, parts[0][2].shape[-1])
        for rows, columns, states in parts:
            hidden[rows, columns] = states
        return hidden[:, :length]

    def _pass(
        self, ids: Int[Tensor, "S L"], length: int, slots: list[int], table: Int[np.ndarray, "5 R"]
    ) -> tuple[Int[Tensor, "R 1"], Int[Tensor, "R P"], Float[Tensor, "R P D"]]:
        """Some rows: their numbers in ``ids``, response columns (N for what is not wanted) and hidden states."""
        width, num_computed = int(table[4].max()), int((table[4] - table[2]).max())
        on_device = torch.from_numpy(table[:, :, None]).to(ids.device, non_blocking=True)
        row, num_prompt, begin, wanted, end = on_device
        positions = torch.minimum(begin + torch.arange(num_computed, device=ids.device), end - 1)
        all_positions = torch.arange(width, device=ids.device)
        columns = (all_positions + ids.shape[1] - length - num_prompt).clamp(max=ids.shape[1] - 1)
        states = self._backbone.forward_from_cache(
            ids[row[:, 0]].gather(1, columns),
            all_positions < num_prompt + length,
            positions,
            self._kept.rows(slots, width),
        )
        return row, torch.where(positions >= wanted, positions - num_prompt, length), states

    def _take_slots(self, row_numbers: list[int]) -> list[bool]:
        """Give new rows the slots of finished ones; no slot is left free between others. Whether each row was there."""
        old = set(self._rows)
        new = [row for row in row_numbers if row not in old]
        rows = [row if row in row_numbers else None for row in self._rows]
        free = [slot for slot, row in enumerate(rows) if row is None]
        for slot, row in zip(free, new, strict=False):
            rows[slot] = row
        rows += new[len(free) :]
        while None in rows:
            last, hole = len(rows) - 1, rows.index(None)
            if hole < last and rows[last] is not None:
                self._kept.move(last, hole)
                rows[hole] = rows[last]
            rows.pop()
        self._rows = [row for row in rows if row is not None]
        return [row in old for row in self._rows]
