"""Learning rate schedules, per step."""

import math

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from tabom.errors import require


class CosineWithWarmup(LambdaLR):
    """Linear warm-up to the optimizer's learning rate, then cosine decay to 0.

    Args:
        optimizer: Filled in by the trainer.
        num_warmup_steps: Steps up to the full rate.
        num_training_steps: Steps until the rate is 0; normally the trainer's ``max_steps``.

    Raises:
        TabomError: If the warm-up is not shorter than the training.
    """

    def __init__(self, optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int) -> None:
        require(
            0 <= num_warmup_steps < num_training_steps,
            f"num_warmup_steps: expected 0 to below num_training_steps = {num_training_steps}, got {num_warmup_steps}",
        )

        def factor(step: int) -> float:
            if step < num_warmup_steps:
                return (step + 1) / num_warmup_steps
            progress = (step - num_warmup_steps) / (num_training_steps - num_warmup_steps)
            return 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))

        super().__init__(optimizer, factor)
