"""Learning rate schedules, per step."""

import math
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tabom.errors import TabomError, require

_CONFIGURED = ("num_warmup_steps", "num_training_steps")


class CosineWithWarmup(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then cosine decay to 0.

    Args:
        optimizer: Filled in by the trainer.
        num_warmup_steps: Steps up to the full rate.
        num_training_steps: Steps until the rate is 0; None is the length of the training, which
            :class:`~tabom.modules.TrainingModule` fills in.

    Raises:
        TabomError: If the warm-up is not shorter than the training.
    """

    def __init__(self, optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int | None = None) -> None:
        self.num_warmup_steps = num_warmup_steps
        self.num_training_steps: int | None = None
        if num_training_steps is not None:
            self.end_after(num_training_steps)
        super().__init__(optimizer, self._factor)

    def end_after(self, num_training_steps: int) -> None:
        """Set when the rate is 0.

        Raises:
            TabomError: If the warm-up is not shorter than that.
        """
        require(
            0 <= self.num_warmup_steps < num_training_steps,
            f"num_warmup_steps: expected 0 to below num_training_steps = {num_training_steps}, "
            f"got {self.num_warmup_steps}",
        )
        self.num_training_steps = num_training_steps

    def state_dict(self) -> dict[str, Any]:
        """Without the lengths: those are the configuration's, also of a resumed run."""
        return {name: value for name, value in super().state_dict().items() if name not in _CONFIGURED}

    def _factor(self, step: int) -> float:
        if step < self.num_warmup_steps:
            return (step + 1) / self.num_warmup_steps
        if step == 0:  # before the length may be known
            return 1.0
        if self.num_training_steps is None:
            raise TabomError("num_training_steps: expected a number, got none")
        progress = (step - self.num_warmup_steps) / (self.num_training_steps - self.num_warmup_steps)
        return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
