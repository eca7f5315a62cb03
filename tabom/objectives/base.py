"""The contract between an objective and the module that trains with it."""

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tabom.functional.reduction import masked_mean
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch

Corruption = Callable[[TrajectoryBatch, int, torch.Generator], CorruptedBatch]


class Objective(ABC):
    """Corrupts clean sequences and scores what the model says about them.

    Args:
        corruption: What the network sees and is asked for.
        supervise_padding: Whether the end-of-sequence tokens that fill the response budget after the first one are
            learnt. LLaDA and Dream learn them.
    """

    def __init__(self, corruption: Corruption, *, supervise_padding: bool) -> None:
        self._corruption = corruption
        self.supervise_padding = supervise_padding

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, generator: torch.Generator) -> CorruptedBatch:
        """Choose what the model sees and what it is asked for."""
        corrupted = self._corruption(batch, mask_token_id, generator)
        if self.supervise_padding:
            return corrupted
        return dataclasses.replace(corrupted, is_target=corrupted.is_target & ~batch.is_filler)

    @abstractmethod
    def terms(self, statistics: TokenStatistics, corrupted: CorruptedBatch) -> dict[str, Float[Tensor, ""]]:
        """Loss and its terms.

        Args:
            statistics: Of the targets; (B, L), anything where nothing was asked for.
            corrupted: What :meth:`corrupt` returned.

        Returns:
            ``loss``, which is minimised, and further scalars to be logged, in nats unless said otherwise.
        """

    def check_response_length(self, response_length: int) -> None:
        """Raise ``TabomError`` where the objective cannot work with so many response tokens."""
        del response_length


def mean_over_trajectories(values: Float[Tensor, " B"], where: Bool[Tensor, " B"]) -> Float[Tensor, ""]:
    """Mean over the rows that contribute; a zero attached to the graph where none does."""
    return masked_mean(values[None], where[None])[0]
