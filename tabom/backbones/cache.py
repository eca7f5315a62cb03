"""Keys and values of a canvas, kept while the tokens around the block that is decoded stay as they are.

Axes: B rows, G key-value heads, L positions, E size of a head, P computed positions.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer


class KeysAndValues(Protocol):
    """Keys and values of the tokens that a pass does not compute."""

    def partial(self, positions: Tensor) -> Cache:
        """For transformers: a pass over the columns ``positions`` (B, P), beside what is kept of the others."""
        ...


class CanvasCache:
    """Keys and values of every layer, as a pass over a whole canvas left them.

    In a bidirectional model they depend on every token of the canvas: once a token has changed, those of all others are
    an approximation.

    Args:
        keys: Of each layer (B, G, L, E), after the rotary embedding.
        values: Of each layer (B, G, L, E).

    References:
        Wu et al. 2025, arXiv:2505.22618, section 3.2, the prefix cache.
    """

    def __init__(self, keys: Sequence[Tensor], values: Sequence[Tensor]) -> None:
        self.keys = tuple(keys)
        self.values = tuple(values)

    @classmethod
    def cat(cls, caches: Sequence["CanvasCache"]) -> "CanvasCache":
        """All rows of several caches of equally long canvases, in their order."""
        keys = [torch.cat(layer) for layer in zip(*(cache.keys for cache in caches), strict=True)]
        values = [torch.cat(layer) for layer in zip(*(cache.values for cache in caches), strict=True)]
        return cls(keys, values)

    def select(self, rows: Tensor) -> "CanvasCache":
        """A copy of some rows: indices in any order, or one bool (B,) a row."""
        return CanvasCache([layer[rows] for layer in self.keys], [layer[rows] for layer in self.values])

    def without_left(self, num: int) -> "CanvasCache":
        """A copy without the first ``num`` columns; the rotary embedding counts real tokens, so padding can go."""
        return CanvasCache(
            [layer[:, :, num:].clone() for layer in self.keys], [layer[:, :, num:].clone() for layer in self.values]
        )

    def assign(self, rows: Tensor, other: "CanvasCache") -> None:
        """Put the rows of ``other`` in place of ``rows``: indices, or one bool (B,) a row."""
        for mine, theirs in zip(self.keys + self.values, other.keys + other.values, strict=True):
            mine[rows] = theirs

    def partial(self, positions: Tensor) -> Cache:
        """For a pass over the columns ``positions`` (B, P), which leaves the cache as it is."""
        return PartialPass(self, positions)


class SlotCache:
    """Keys and values of rows that are decoded, by position, each row in a slot of its own; passes write into it.

    Memory is taken in the first pass: 2 * slots * L * G * E numbers a layer.

    Args:
        num_slots: Rows that it has room for.
        length: Positions of each, L.
    """

    def __init__(self, num_slots: int, length: int) -> None:
        self._shape = num_slots, length
        self._layers: list[tuple[Tensor, Tensor]] = []

    def layer(self, index: int, states: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """Keys and values of a layer by slot and position (slots, L, G, E), made like those of a pass (B, G, P, E)."""
        if index == len(self._layers):  # zeros, since what is not seen may be anything but NaN
            keys, values = (part.new_zeros(*self._shape, part.shape[1], part.shape[3]) for part in states)
            self._layers.append((keys, values))
        return self._layers[index]

    def move(self, source: int, target: int) -> None:
        """Copy a row from one slot to another."""
        for layer in self._layers:
            for part in layer:
                part[target] = part[source]

    def rows(self, slots: Sequence[int], width: int) -> "SlotRows":
        """The first ``width`` positions of the rows in some slots, given in ascending order."""
        return SlotRows(self, slots, width)


class SlotRows:
    """Rows of a :class:`SlotCache`; the canvases of a pass begin with their first real token."""

    def __init__(self, cache: SlotCache, slots: Sequence[int], width: int) -> None:
        self._cache, self._slots, self._width = cache, slots, width

    def partial(self, positions: Tensor) -> Cache:
        """For a pass over ``positions`` (B, P), whose keys and values are replaced."""
        return _SlotPass(self._cache, self._slots, self._width, positions)


class _SlotPass(Cache):
    """For transformers: puts keys and values of a pass into their slots, and hands out what the slots hold."""

    def __init__(self, cache: SlotCache, slots: Sequence[int], width: int, positions: Tensor) -> None:
        super().__init__(layers=[])
        self._cache, self._width, self._positions = cache, width, positions
        first, last = slots[0], slots[-1]
        self._rows = torch.tensor(slots, device=positions.device)
        self._taken = slice(first, last + 1) if last - first + 1 == len(slots) else self._rows  # a slice is no copy

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Keys and values (B, G, L, E) of the rows, after those of the pass (B, G, P, E) were put in their places."""
        del args, kwargs
        states = key_states, value_states
        kept = self._cache.layer(layer_idx, states)
        for part, new in zip(kept, states, strict=True):
            part[self._rows[:, None], self._positions] = new.transpose(1, 2)
        keys, values = (part[:, : self._width][self._taken].transpose(1, 2) for part in kept)
        return keys, values

    def get_mask_sizes(self, query_length: int, layer_idx: int) -> tuple[int, int]:
        """Length and offset of the keys."""
        del query_length, layer_idx
        return self._width, 0


class PartialPass(Cache):
    """For transformers: a pass over some columns of a canvas, whose other keys and values are in a cache.

    The cache is left as it is.

    Args:
        cache: Of the whole canvas.
        positions: Columns that are computed (B, P), long; some of a row may be equal.
    """

    def __init__(self, cache: CanvasCache, positions: Tensor) -> None:
        pairs = zip(cache.keys, cache.values, strict=True)
        super().__init__(layers=[_PartialLayer(keys, values, positions) for keys, values in pairs])


class _PartialLayer(DynamicLayer):
    """Keys and values of one layer."""

    def __init__(self, keys: Tensor, values: Tensor, positions: Tensor) -> None:
        super().__init__()
        self._kept = keys, values
        self._positions = positions

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Those of the whole canvas (B, G, L, E), with those of the computed columns (B, G, P, E) at their places."""
        del args, kwargs
        keys, values = self._kept
        return self._completed(keys, key_states), self._completed(values, value_states)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Length and offset of the keys: the computed columns are a part of the canvas, and nothing is added to it."""
        del query_length
        return self._kept[0].shape[2], 0

    def _completed(self, kept: Tensor, computed: Tensor) -> Tensor:
        canvas = kept.clone()
        rows = torch.arange(len(canvas), device=canvas.device)[:, None]
        canvas.transpose(1, 2)[rows, self._positions] = computed.transpose(1, 2)
        return canvas
