"""A compiled backbone that is given few shapes.

Axes: B rows, L canvas positions, D hidden size.
"""

from typing import Any, cast

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from tabom.errors import check_range
from tabom.samplers.denoiser import Denoiser

_SHARES = (8, 4, 2, 1)
_QUARTERS = (2, 3, 4)
_MULTIPLE = 64


class StaticShapes:
    """Compiles a backbone for at most 12 shapes of a canvas, to which smaller ones are padded.

    Rows become fewer when the last queries are decoded, and canvases narrower when those with long prompts are
    finished. A compiler makes a graph for every shape, and a GPU replays a graph without being told each of its
    kernels. Rows are padded to an eighth, a quarter, half or all of ``num_rows``, canvases on the left to half, three
    quarters or all of the widest one, itself a multiple of 64.

    Args:
        backbone: Is compiled, with CUDA graphs where it is on a GPU; itself it stays as it is.
        num_rows: Most rows of a canvas.

    Raises:
        TabomError: If ``num_rows`` is below 1.
    """

    def __init__(self, backbone: Any, num_rows: int) -> None:
        check_range("num_rows", num_rows, least=1)
        self._backbone = backbone
        self._rows = sorted({-(-num_rows // share) for share in _SHARES})
        self._widths = [0]
        self.shapes: set[tuple[int, int]] = set()
        self.is_on_gpu = next(backbone.parameters()).is_cuda
        config = torch._dynamo.config  # pyright: ignore[reportPrivateImportUsage, reportAttributeAccessIssue]
        config.recompile_limit = max(config.recompile_limit, config.accumulated_recompile_limit)
        self._compiled = torch.compile(backbone, dynamic=False, mode="reduce-overhead" if self.is_on_gpu else None)

    def for_canvases(self, width: int) -> Denoiser:
        """The same for canvases of at most this width."""
        limit = self._backbone.max_length
        widest = -(-width // _MULTIPLE) * _MULTIPLE
        widest = widest if limit is None else max(width, min(widest, limit))
        self._widths = sorted({-(-widest * quarters // _QUARTERS[-1]) for quarters in _QUARTERS})
        return cast("Denoiser", self)

    def __getattr__(self, name: str) -> Any:
        """Everything else is the backbone's: its tokens and its head, and what a cache needs, which is not compiled."""
        return getattr(self._backbone, name)

    def __call__(self, input_ids: Int[Tensor, "B L"], attention_mask: Bool[Tensor, "B L"]) -> Float[Tensor, "B L D"]:
        """Hidden states of what was given; nothing sees the padding."""
        num_rows, width = input_ids.shape
        below = next((rows for rows in self._rows if rows >= num_rows), num_rows) - num_rows
        left = next((wide for wide in self._widths if wide >= width), width) - width
        ids = pad(input_ids, (left, 0, 0, below), value=self._backbone.mask_token_id)
        is_there = pad(pad(attention_mask, (left, 0)), (0, 0, 0, below), value=True)  # no row without a token
        self.shapes.add((num_rows + below, width + left))
        hidden: Tensor = self._compiled(ids, is_there)[:num_rows, left:]
        return hidden.clone() if self.is_on_gpu else hidden  # the next replay writes over it
