"""Weights and sizes that change with the optimizer step."""

import math
from dataclasses import dataclass
from typing import Literal

from tabom.errors import check_range


@dataclass(frozen=True)
class Warmup:
    """From ``start`` to the configured value, then constant.

    Attributes:
        num_steps: Optimizer steps until the configured value is reached.
        start: Value at step 0, in the unit of what is configured; it may be the larger one.
        shape: ``linear``, or ``cosine``: half a period, slow at both ends.

    Raises:
        TabomError: If ``num_steps`` is below 1.
    """

    num_steps: int
    start: float = 0.0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        check_range("num_steps", self.num_steps, least=1)

    def value(self, step: int, end: float) -> float:
        """Value at an optimizer step, 0 first; ``end`` is the configured one."""
        progress = min(1.0, step / self.num_steps)
        if self.shape == "cosine":
            progress = (1 - math.cos(math.pi * progress)) / 2
        return end * progress + self.start * (1 - progress)
