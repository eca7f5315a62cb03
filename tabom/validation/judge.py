"""Who says whether an answer is correct.

Axes: B rows, L canvas positions, N response positions.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from tabom.types import Example, SpecialIds, Verdict


class Judge(Protocol):
    """What a data module knows about answers."""

    @property
    def special_ids(self) -> SpecialIds:
        """Of the tokenizer."""
        ...

    def judge(self, examples: Sequence[Example], response_ids: Tensor, domain: str = "") -> list[Verdict]:
        """Verdict on each row (B, N), by the task or the base domain ``domain``."""
        ...


def is_correct(verdicts: Sequence[Verdict]) -> Tensor:
    """Verdicts as a boolean tensor (B,)."""
    return torch.tensor([verdict.is_correct for verdict in verdicts])
