"""Rows without an end, for a second stream of data beside the one that makes up the epochs."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from tabom.seeding import permutation


class EndlessRows(Sequence[Any]):
    """Rows by their place in a stream that has no end: all of them, over and over, each time in another order.

    Args:
        rows: At least one; each gets its place in the stream as its number.
        seed: Of the run.
    """

    def __init__(self, rows: Sequence[Any], seed: int) -> None:
        self._rows = rows
        self._seed = seed

    def __len__(self) -> int:
        """Number of different rows."""
        return len(self._rows)

    def __getitem__(self, place: int) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Row at a place, 0 first."""
        turn, number = divmod(place, len(self._rows))
        order = _order_of_turn(len(self._rows), self._seed, turn)
        return dataclasses.replace(self._rows[int(order[number])], number=place)


class StreamSampler(Sampler[list[int]]):
    """Places in a stream: each batch takes the next ones, of which a process gets every ``world_size``-th.

    Args:
        batch_size: Rows a batch and process.
        rank: Of this process.
        world_size: Number of processes.

    Attributes:
        start: Place at which an iteration starts.
        rows_a_batch: Over all processes.
    """

    def __init__(self, *, batch_size: int, rank: int, world_size: int) -> None:
        self.start = 0
        self.rows_a_batch = batch_size * world_size
        self._rank, self._world_size = rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        """Places of this process, without an end."""
        for first in itertools.count(self.start, self.rows_a_batch):
            yield list(range(first + self._rank, first + self.rows_a_batch, self._world_size))


class EndlessLoader(DataLoader[Any]):
    """Batches of a stream, for the steps of a training whose epochs another loader counts.

    Which rows per step gets depends on the seed and on how many rows were given before it: neither on the number of
    processes nor on the accumulation.

    Args:
        rows: Of the stream.
        batch_size: Rows a batch and process.
        rank: Of this process.
        world_size: Number of processes.
        collate_fn: Makes a batch of rows.
        num_workers: Processes that collate; 0: this one does.
        is_pinned: Whether batches lie in page-locked memory.

    Attributes:
        num_given: Rows that were given, over all processes; an iteration goes on from there.
    """

    def __init__(
        self,
        rows: EndlessRows,
        *,
        batch_size: int,
        rank: int,
        world_size: int,
        collate_fn: Callable[[list[Any]], Any],
        num_workers: int = 0,
        is_pinned: bool = False,
    ) -> None:
        self.num_given = 0
        self._places = StreamSampler(batch_size=batch_size, rank=rank, world_size=world_size)
        super().__init__(
            rows,  # pyright: ignore[reportArgumentType]
            batch_sampler=self._places,
            collate_fn=collate_fn,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=is_pinned,
            generator=torch.Generator(),  # as that of the rows
        )

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Batches of this process; those that workers hold ready are not given yet."""
        self._places.start = self.num_given
        for batch in super().__iter__():
            self.num_given += self._places.rows_a_batch
            yield batch


@functools.lru_cache(maxsize=2)
def _order_of_turn(num_rows: int, seed: int, turn: int) -> Tensor:
    """Order of the rows of a stream in one of its turns; a batch has rows of two at most, unless they are few."""
    return permutation(num_rows, "replay", seed, turn)
