"""Data loaders whose order is that of the global batch, and which resume in the middle of an epoch."""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler, SequentialSampler

from tabom.data.stream import EndlessLoader
from tabom.errors import TabomError, require
from tabom.seeding import permutation

BATCHES_PER_WINDOW = 50
"""Global batches whose rows are sorted by length together; larger windows pad less and mix less."""


class Given(NamedTuple):
    """Rows of an epoch that have been given in optimizer steps of one size.

    Attributes:
        num_rows: Over all processes.
        global_batch_size: Rows of an optimizer step.
    """

    num_rows: int
    global_batch_size: int


def epoch_batches(
    num_rows: int,
    global_batch_size: int,
    *,
    seed: int,
    epoch: int,
    lengths: Sequence[int] | None = None,
    given: Sequence[Given] = (),
) -> Tensor:
    """Rows of every optimizer step of an epoch; what does not fill a step is left to other epochs.

    The order follows seed and epoch alone, however the rows of a step are shared out.

    Args:
        num_rows: Of the training data.
        global_batch_size: Rows of an optimizer step, over all processes and accumulated batches.
        seed: Of the run.
        epoch: From 0.
        lengths: Tokens of each row. If given, the rows of ``BATCHES_PER_WINDOW`` steps are sorted by it before they
            are cut into steps, and the steps are shuffled. Which rows belong to the window stays random.
        given: What the epoch has given already in steps of other sizes, in this order; it is left out.

    Returns:
        Row numbers (num_steps, global_batch_size), each at most once.
    """
    length = None if lengths is None else torch.as_tensor(lengths)
    order = permutation(num_rows, "rows", seed, epoch)
    for part in given:
        rows = _steps(order, part.global_batch_size, length, seed, epoch).flatten()[: part.num_rows]
        order = order[~torch.isin(order, rows)]
    return _steps(order, global_batch_size, length, seed, epoch)


def _steps(order: Tensor, global_batch_size: int, length: Tensor | None, seed: int, epoch: int) -> Tensor:
    num_steps = len(order) // global_batch_size
    order = order[: num_steps * global_batch_size]
    if length is None:
        return order.view(num_steps, global_batch_size)
    windows = order.split(BATCHES_PER_WINDOW * global_batch_size)
    grouped = torch.cat([window[length[window].argsort(stable=True)] for window in windows])
    return grouped.view(num_steps, global_batch_size)[permutation(num_steps, "steps", seed, epoch)]


class GlobalBatchSampler(DistributedSampler[Any]):
    """Rows of one process: every ``world_size``-th of each global batch, from a place to start from.

    Torch's sampler gives ``set_epoch``; Lightning replaces samplers of another kind where there are several processes.

    Args:
        rows: Training data.
        global_batch_size: Rows of an optimizer step; a multiple of ``world_size``.
        seed: Of the run.
        rank: Of this process.
        world_size: Number of processes.
        lengths: See :func:`epoch_batches`.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        *,
        global_batch_size: int,
        seed: int,
        rank: int,
        world_size: int,
        lengths: Sequence[int] | None,
    ) -> None:
        super().__init__(rows, num_replicas=world_size, rank=rank, seed=seed)  # pyright: ignore[reportArgumentType]
        self.num_samples = len(rows) // global_batch_size * (global_batch_size // world_size)
        self.given: tuple[Given, ...] = ()
        self.start = 0
        self._num_rows = len(rows)
        self._global_batch_size = global_batch_size
        self._lengths = lengths

    @property
    def _order_epoch(self) -> int:
        """Epoch whose order is given."""
        return self.epoch

    def __iter__(self) -> Iterator[int]:
        """Rows of this process, without what was ``given`` in steps of other sizes, from ``start`` on."""
        batches = epoch_batches(
            self._num_rows,
            self._global_batch_size,
            seed=self.seed,
            epoch=self._order_epoch,
            lengths=self._lengths,
            given=self.given,
        )
        return iter(batches[:, self.rank :: self.num_replicas].flatten()[self.start :].tolist())


class RepeatingSampler(GlobalBatchSampler, SequentialSampler):
    """Gives the first epoch's order in every epoch, for ``overfit_batches``, where Lightning keeps sequential ones."""

    @property
    def _order_epoch(self) -> int:
        return 0


class ResumableLoader(DataLoader[Any]):
    """Gives each optimizer step the same rows, whether processes share them or one process accumulates their gradients.

    It counts the rows it gave, so that a checkpoint taken within an epoch goes on with the next one, also with another
    batch size, accumulation or number of processes: then the rows that are left are cut into steps of the new size.
    Lightning stores and restores ``state_dict`` with its loops; a plain loader would start the epoch's data afresh.

    Args:
        rows: Training data.
        batch_size: Rows a batch.
        accumulation: Batches of each process whose gradients are added up for an optimizer step.
        seed: Of the run.
        rank: Of this process.
        world_size: Number of processes.
        collate_fn: Makes a batch of rows.
        identity: Tells rows from other ones; an epoch goes on with the same rows only.
        lengths: Tokens of each row, if rows of about one length are to stand together (:func:`epoch_batches`).
        num_workers: Processes that collate; 0: this one does.
        is_pinned: Whether batches lie in page-locked memory, from which a GPU copies beside its work.
        is_repeated: Whether every epoch has the order of the first.
        replay: Gives each batch another one that goes with it, as its field ``replay``.

    Raises:
        TabomError: If the rows do not fill one optimizer step.
    """

    def __init__(
        self,
        rows: Sequence[Any],
        *,
        batch_size: int,
        accumulation: int,
        seed: int,
        rank: int,
        world_size: int,
        collate_fn: Callable[[list[Any]], Any],
        identity: str = "",
        lengths: Sequence[int] | None = None,
        num_workers: int = 0,
        is_pinned: bool = False,
        is_repeated: bool = False,
        replay: EndlessLoader | None = None,
    ) -> None:
        global_batch_size = batch_size * world_size * accumulation
        require(
            len(rows) >= global_batch_size,
            f"training data: expected at least {global_batch_size} rows (batch_size {batch_size} x world_size "
            f"{world_size} x accumulate_grad_batches {accumulation}), got {len(rows)}",
        )
        sampler = RepeatingSampler if is_repeated else GlobalBatchSampler
        self._order = sampler(
            rows, global_batch_size=global_batch_size, seed=seed, rank=rank, world_size=world_size, lengths=lengths
        )
        self._rows_a_batch = batch_size * world_size
        self._rows_a_step = global_batch_size
        self._kept = {
            "seed_everything": seed,
            "training data": f"{len(rows)} rows {identity}".rstrip(),
            "data.group_by_length": lengths is not None,
        }
        self._epoch = 0
        self._given: tuple[Given, ...] = ()  # in steps of other sizes
        self._num_given = 0  # batches, since then
        self._is_restored = False
        self._replay = replay
        super().__init__(
            rows,  # pyright: ignore[reportArgumentType]
            batch_size=batch_size,
            sampler=self._order,
            collate_fn=collate_fn,
            num_workers=num_workers,
            persistent_workers=num_workers > 0,
            pin_memory=is_pinned,
            generator=torch.Generator(),  # torch's own would be moved on whenever an epoch begins or is resumed
        )

    def __iter__(self) -> Iterator[Any]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Batches of the epoch, without the rows that a restored state has given already.

        The trainer may end an epoch early, so that a state of its end looks like one within it; it counts for its epoch
        alone.
        """
        if not self._is_restored or self._epoch != self._order.epoch:
            self._given, self._num_given = (), 0
        self._epoch, self._is_restored = self._order.epoch, False
        self._order.given, self._order.start = self._given, self._num_given * (self.batch_size or 1)
        replayed = itertools.repeat(None) if self._replay is None else iter(self._replay)
        for batch in super().__iter__():
            replay = next(replayed)
            self._num_given += 1
            yield batch if replay is None else dataclasses.replace(batch, replay=replay)

    @property
    def num_left(self) -> int:
        """Batches that this epoch still has."""
        num_rows = len(self._order.dataset) - sum(part.num_rows for part in self._given)  # pyright: ignore[reportArgumentType]
        return num_rows // self._rows_a_step * (self._rows_a_step // self._rows_a_batch) - self._num_given

    def state_dict(self) -> dict[str, Any]:
        """Epoch, and rows given in it by the size of the steps; those that workers hold ready are not given yet.

        Rows of the replay are counted from the beginning of the training.
        """
        given = [*self._given, Given(self._num_given * self._rows_a_batch, self._rows_a_step)]
        left = self.num_left
        return {
            "epoch": self._epoch,
            "given": [list(part) for part in given if part.num_rows] if left > 0 else [],
            "kept": self._kept,
            "replay": 0 if self._replay is None else self._replay.num_given,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where ``state`` was taken.

        Raises:
            TabomError: If it is of an unfinished epoch of other rows, or of rows in another order.
        """
        num_rows = state.get("num_given", 0) * self._rows_a_batch  # as it was stored before rows were counted
        given = [Given(*part) for part in state.get("given", [(num_rows, self._rows_a_step)])]
        for name, got in self._kept.items() if any(part.num_rows for part in given) else ():
            expected = state.get("kept", self._kept)[name]
            if got != expected:
                raise TabomError(
                    f"{name}: expected {expected}, as in the checkpoint, whose epoch is not over, got {got}; "
                    "to train on with another one, start from the weights (tabom export)"
                )
        if self._replay is not None:
            self._replay.num_given = state.get("replay", 0)
        self._num_given = 0
        if given and given[-1].global_batch_size == self._rows_a_step and given[-1].num_rows % self._rows_a_batch == 0:
            self._num_given = given.pop().num_rows // self._rows_a_batch
        self._given = tuple(given)
        self._epoch, self._is_restored = state["epoch"], True
        self._order.set_epoch(state["epoch"])


class HeldOutSampler(UnrepeatedDistributedSampler, SequentialSampler):
    """Gives every row once, in order, over all ranks: nothing is repeated to fill up a rank."""


def held_out_loader(
    rows: Sequence[Any], *, batch_size: int, rank: int, world_size: int, collate_fn: Callable[[list[Any]], Any]
) -> DataLoader[Any]:
    """Every row once, in order, over all ranks: nothing is repeated to fill up a rank."""
    sampler = HeldOutSampler(rows, num_replicas=world_size, rank=rank, shuffle=False)
    return DataLoader(rows, batch_size=batch_size, sampler=sampler, collate_fn=collate_fn)  # pyright: ignore[reportArgumentType]
