"""Learning rate schedules, per step; settings of optimizers and schedules."""

import math
from typing import Any

import torch
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from tabom.errors import TabomError, check_range, require

_CONFIGURED = ("num_warmup_steps", "num_training_steps", "from_zero")


class CosineWithWarmup(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then cosine decay to 0.

    Args:
        optimizer: Filled in by the trainer.
        num_warmup_steps: Steps up to the full rate.
        num_training_steps: Steps until the rate is 0; None is the length of the training, which
            :class:`~tabom.modules.TrainingModule` fills in. A training that time alone limits has none: then the
            rate stays after the warm-up.
        from_zero: Whether the rate of the first step is 0, as in transformers' schedules and the paper's released code;
            otherwise the warm-up is one step ahead of theirs.

    Raises:
        TabomError: If the warm-up is below 0, or not shorter than the training.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        num_warmup_steps: int,
        num_training_steps: int | None = None,
        from_zero: bool = False,
    ) -> None:
        self.num_warmup_steps = num_warmup_steps
        self.from_zero = from_zero
        self.num_training_steps: float | None = None
        check_range("num_warmup_steps", num_warmup_steps, least=0)
        if num_training_steps is not None:
            self.end_after(num_training_steps)
        super().__init__(optimizer, self._factor)

    def end_after(self, num_training_steps: float) -> None:
        """Set when the rate is 0; infinity for never.

        Raises:
            TabomError: If the warm-up is not shorter than that.
        """
        require(
            self.num_warmup_steps < num_training_steps,
            f"num_warmup_steps: expected below num_training_steps = {num_training_steps}, got {self.num_warmup_steps}",
        )
        self.num_training_steps = num_training_steps

    def state_dict(self) -> dict[str, Any]:
        """Without the lengths: those are the configuration's, also of a resumed run."""
        return {name: value for name, value in super().state_dict().items() if name not in _CONFIGURED}

    def _factor(self, step: int) -> float:
        if step < self.num_warmup_steps:
            return (step + (0 if self.from_zero else 1)) / self.num_warmup_steps
        if step == 0:  # before the length may be known
            return 1.0
        if self.num_training_steps is None:
            raise TabomError("num_training_steps: expected a number, got none")
        progress = (step - self.num_warmup_steps) / (self.num_training_steps - self.num_warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def check_settings(optimizer: OptimizerCallable, lr_scheduler: LRSchedulerCallable | None) -> str:
    """Make an optimizer and its schedule for one weight, to see whether they can be made.

    Args:
        optimizer: Class with its settings.
        lr_scheduler: Likewise, or None.

    Returns:
        Name of the optimizer's class.

    Raises:
        TabomError: If our own schedule refuses a setting, or a schedule does not say what it follows.
        ValueError: If torch refuses a setting.
    """
    key = "optimizer"
    try:
        trial = optimizer([torch.nn.Parameter(torch.zeros(1, 1))])
        key = "lr_scheduler"
        scheduler = None if lr_scheduler is None else lr_scheduler(trial)
    except TabomError as error:
        raise TabomError(f"model.{key}.{error}") from error
    require(
        hasattr(scheduler, "monitor") or not isinstance(scheduler, ReduceLROnPlateau),
        "model.lr_scheduler: expected lightning.pytorch.cli.ReduceLROnPlateau with its monitor, got that of torch, "
        "which does not say what it follows",
    )
    return type(trial).__name__
