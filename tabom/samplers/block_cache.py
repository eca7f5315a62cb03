"""Keys and values that are kept while a block is decoded.

Axes: S active rows, L canvas positions, N response positions, P computed positions, D hidden size.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.samplers.decoding_state import Turn


class BlockCache:
    """Computes a row's whole canvas at the first step of a block, and then only what stands right of the block's start.

    The keys and values of the prompt and of finished blocks are kept from that first step. In a bidirectional model
    they change a little with every token that is revealed, so that this is an approximation.

    Args:
        backbone: Has ``forward_with_cache`` and ``forward_from_cache``.

    References:
        Prefix cache of Fast-dLLM, arXiv:2505.22618.
    """

    def __init__(self, backbone: Any) -> None:
        self._backbone = backbone
        self._rows: list[int] = []
        self._width = 0
        self._kept: Any = None

    def hidden(self, ids: Int[Tensor, "S L"], is_there: Bool[Tensor, "S L"], turn: Turn) -> Float[Tensor, "S N D"]:
        """Hidden states of the responses, 0 left of the blocks of rows that are computed in part.

        Args:
            ids: Canvases of the active rows.
            is_there: False on their padding.
            turn: What the step works on.

        Raises:
            TabomError: If the backbone cannot keep keys and values.
        """
        width, length = ids.shape[1], turn.response_length
        rows, is_first = turn.row_numbers, turn.is_first
        first, others = ([slot for slot in range(len(rows)) if is_first[slot] == wanted] for wanted in (True, False))
        self._forget(rows, width)
        parts: list[tuple[Tensor, Tensor, Tensor]] = []
        if first:
            slots = torch.tensor(first, device=ids.device)
            states, kept = self._backbone.forward_with_cache(ids[slots], is_there[slots])
            self._keep(rows, first, kept)
            self._width = width
            columns = torch.arange(length, device=ids.device).expand(len(first), -1)
            parts.append((slots, columns, states[:, -length:]))
        if others:
            slots = torch.tensor(others, device=ids.device)
            starts = torch.tensor([turn.block_starts[slot] for slot in others])
            columns = starts[:, None] + torch.arange(length - int(starts.min()))
            columns = columns.clamp(max=length - 1).to(ids.device)
            kept = self._kept.select(slots) if first else self._kept
            states = self._backbone.forward_from_cache(ids[slots], is_there[slots], columns + width - length, kept)
            parts.append((slots, columns, states))
        hidden = parts[0][2].new_zeros(len(rows), length, parts[0][2].shape[-1])
        for slots, columns, states in parts:
            hidden[slots[:, None], columns] = states
        return hidden

    def _forget(self, rows: list[int], width: int) -> None:
        """Drop rows that are finished, and columns that no prompt reaches any more."""
        if self._kept is None:
            return
        slots = [slot for slot, row in enumerate(self._rows) if row in rows]
        if len(slots) < len(self._rows):
            self._kept = self._kept.select(torch.tensor(slots)) if slots else None
            self._rows = [self._rows[slot] for slot in slots]
        if self._kept is not None and width < self._width:
            self._kept = self._kept.without_left(self._width - width)
            self._width = width

    def _keep(self, rows: list[int], first: list[int], kept: Any) -> None:
        """Take over what was computed for some slots; new rows stand behind the others."""
        old = [index for index, slot in enumerate(first) if slot < len(self._rows)]
        new = [index for index, slot in enumerate(first) if slot >= len(self._rows)]
        if old:
            self._kept.assign(torch.tensor([first[index] for index in old]), kept.select(torch.tensor(old)))
        if new:
            added = kept.select(torch.tensor(new)) if old else kept
            self._kept = type(kept).cat([self._kept, added]) if self._kept is not None else added
        self._rows = rows
