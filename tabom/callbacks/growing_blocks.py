"""Blocks that grow over a training, on the way from a causal model to a block diffusion one."""

import itertools
from collections.abc import Sequence
from typing import Any

from lightning import Callback, LightningModule, Trainer

from tabom.errors import check_range, require


class GrowingBlocks(Callback):
    """Trains with smaller blocks first; with blocks of one token a block-causal model is nearly a causal one.

    Everything that is measured or saved is of the model with its own ``block_size``.

    Args:
        sizes: Tokens in a block, one size after the other; the last one is the model's own and stays.
        every_n_steps: Optimizer steps with each of the others.

    Raises:
        TabomError: If a number is below 1, or sizes do not grow.

    References:
        NBDiff, arXiv:2512.06776: blocks grow from 1.
    """

    def __init__(self, sizes: Sequence[int], every_n_steps: int) -> None:
        check_range("every_n_steps", every_n_steps, least=1)
        grows = len(sizes) > 0 and sizes[0] >= 1 and all(a < b for a, b in itertools.pairwise(sizes))
        require(grows, f"sizes: expected growing numbers from 1, got {list(sizes)}")
        self.sizes = tuple(sizes)
        self.every_n_steps = every_n_steps

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise ``TabomError`` if the sizes do not end with the model's own."""
        del trainer
        own, last = _backbone(pl_module).block_size, self.sizes[-1]
        require(own is not None, "GrowingBlocks: expected attention block_causal of the backbone, got another one")
        require(last == own, f"sizes: expected {own}, the backbone's block_size, at the end, got {last}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Train with the size of this optimizer step."""
        del batch, batch_idx
        _backbone(pl_module).block_size = self.size_at(trainer.global_step)

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Give the model its own size back, before anything is measured or saved."""
        del trainer
        _backbone(pl_module).block_size = self.sizes[-1]

    def size_at(self, step: int) -> int:
        """Tokens in a block at an optimizer step, 0 first."""
        return self.sizes[min(step // self.every_n_steps, len(self.sizes) - 1)]


def _backbone(module: LightningModule) -> Any:
    return module.backbone
