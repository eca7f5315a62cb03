"""Data loaders that shuffle by seed and resume in the middle of an epoch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, DistributedSampler


class ResumableSampler(DistributedSampler[Any]):
    """torch's distributed sampler, whose order depends on seed and epoch alone, with a place to start from."""

    start = 0

    def __iter__(self) -> Iterator[int]:
        """Indices of this rank, from ``start`` on."""
        return iter(list(super().__iter__())[self.start :])


class ResumableLoader(DataLoader[Any]):
    """Counts the batches it gave, so that a checkpoint taken within an epoch goes on with the next one.

    Lightning stores and restores ``state_dict`` with its loops; a plain loader would start the epoch's data afresh.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        *,
        batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        collate_fn: Callable[[list[Any]], Any],
    ) -> None:
        sampler = ResumableSampler(rows, num_replicas=world_size, rank=rank, shuffle=True, seed=seed, drop_last=False)  # pyright: ignore[reportArgumentType]
        super().__init__(rows, batch_size=batch_size, sampler=sampler, collate_fn=collate_fn, drop_last=True)  # pyright: ignore[reportArgumentType]
        self._order = sampler
        self._num_given = 0
        self._num_to_skip = 0

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Batches of the epoch, without those that a restored state has given already."""
        self._num_given = self._num_to_skip
        self._order.start = self._num_to_skip * (self.batch_size or 1)
        self._num_to_skip = 0
        for batch in super().__iter__():
            self._num_given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches given in it."""
        is_over = self._num_given >= len(self)
        return {"epoch": self._order.epoch, "num_given": 0 if is_over else self._num_given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken."""
        self._order.set_epoch(state["epoch"])
        self._num_to_skip = state["num_given"]


def evaluation_loader(
    rows: Sequence[Any], *, batch_size: int, rank: int, world_size: int, collate_fn: Callable[[list[Any]], Any]
) -> DataLoader[Any]:
    """Every row once, in order, over all ranks: nothing is repeated to fill up a rank."""
    sampler = UnrepeatedDistributedSampler(rows, num_replicas=world_size, rank=rank, shuffle=False)
    return DataLoader(rows, batch_size=batch_size, sampler=sampler, collate_fn=collate_fn)  # pyright: ignore[reportArgumentType]
