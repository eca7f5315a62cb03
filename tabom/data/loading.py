"""Data loaders whose order is that of the global batch, and which resume in the middle of an epoch."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch import Tensor
from torch.utils.data import DataLoader, DistributedSampler

from tabom.errors import require
from tabom.seeding import branch, stream_key

BATCHES_PER_WINDOW = 50
"""Global batches whose rows are sorted by length together; larger windows pad less and mix less."""


def epoch_batches(
    num_rows: int, global_batch_size: int, *, seed: int, epoch: int, lengths: Sequence[int] | None = None
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

    Returns:
        Row numbers (num_steps, global_batch_size), each at most once.
    """
    num_steps = num_rows // global_batch_size
    order = _permutation(num_rows, "rows", seed, epoch)[: num_steps * global_batch_size]
    if lengths is None:
        return order.view(num_steps, global_batch_size)
    length = torch.as_tensor(lengths)
    windows = order.split(BATCHES_PER_WINDOW * global_batch_size)
    grouped = torch.cat([window[length[window].argsort(stable=True)] for window in windows])
    return grouped.view(num_steps, global_batch_size)[_permutation(num_steps, "steps", seed, epoch)]


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
        self.start = 0
        self._num_rows = len(rows)
        self._global_batch_size = global_batch_size
        self._lengths = lengths

    def __iter__(self) -> Iterator[int]:
        """Rows of this process, from ``start`` on."""
        batches = epoch_batches(
            self._num_rows, self._global_batch_size, seed=self.seed, epoch=self.epoch, lengths=self._lengths
        )
        return iter(batches[:, self.rank :: self.num_replicas].flatten()[self.start :].tolist())


class ResumableLoader(DataLoader[Any]):
    """Gives each optimizer step the same rows, whether processes share them or one process accumulates their gradients.

    It counts the batches it gave, so that a checkpoint taken within an epoch goes on with the next one. Lightning
    stores and restores ``state_dict`` with its loops; a plain loader would start the epoch's data afresh.

    Args:
        rows: Training data.
        batch_size: Rows a batch.
        accumulation: Batches of each process whose gradients are added up for an optimizer step.
        seed: Of the run.
        rank: Of this process.
        world_size: Number of processes.
        collate_fn: Makes a batch of rows.
        lengths: Tokens of each row, if rows of about one length are to stand together (:func:`epoch_batches`).
        num_workers: Processes that collate; 0: this one does.
        is_pinned: Whether batches lie in page-locked memory, from which a GPU copies beside its work.

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
        lengths: Sequence[int] | None = None,
        num_workers: int = 0,
        is_pinned: bool = False,
    ) -> None:
        global_batch_size = batch_size * world_size * accumulation
        require(
            len(rows) >= global_batch_size,
            f"training data: expected at least {global_batch_size} rows (batch_size {batch_size} x world_size "
            f"{world_size} x accumulate_grad_batches {accumulation}), got {len(rows)}",
        )
        self._order = GlobalBatchSampler(
            rows, global_batch_size=global_batch_size, seed=seed, rank=rank, world_size=world_size, lengths=lengths
        )
        self._num_given = 0
        self._restored = {"epoch": 0, "num_given": 0}
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
        """Batches of the epoch, without those that a restored state has given already.

        The trainer may end an epoch early, so that a state of its end looks like one within it; it counts for its epoch
        alone.
        """
        self._num_given = self._restored["num_given"] if self._restored["epoch"] == self._order.epoch else 0
        self._order.start = self._num_given * (self.batch_size or 1)
        self._restored = {"epoch": 0, "num_given": 0}
        for batch in super().__iter__():
            self._num_given += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        """Epoch, and batches given in it; those that workers hold ready are not given yet."""
        is_over = self._num_given >= len(self)
        return {"epoch": self._order.epoch, "num_given": 0 if is_over else self._num_given}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on where ``state`` was taken."""
        self._order.set_epoch(state["epoch"])
        self._restored = state


def held_out_loader(
    rows: Sequence[Any], *, batch_size: int, rank: int, world_size: int, collate_fn: Callable[[list[Any]], Any]
) -> DataLoader[Any]:
    """Every row once, in order, over all ranks: nothing is repeated to fill up a rank."""
    sampler = UnrepeatedDistributedSampler(rows, num_replicas=world_size, rank=rank, shuffle=False)
    return DataLoader(rows, batch_size=batch_size, sampler=sampler, collate_fn=collate_fn)  # pyright: ignore[reportArgumentType]


def _permutation(length: int, *parts: int | str) -> Tensor:
    """Numbers below ``length`` in an order that depends on ``parts`` alone: keys of a stream, all different, sorted."""
    return branch(torch.tensor(stream_key(*parts)), torch.arange(length)).argsort()
