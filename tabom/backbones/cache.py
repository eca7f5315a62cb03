"""Keys and values of a canvas, kept while the tokens around the block that is decoded stay as they are.

Axes: B rows, G key-value heads, L positions, E size of a head, P computed positions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicLayer


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
