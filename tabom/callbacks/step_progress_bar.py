"""How far a training, an evaluation or a distillation has come."""

import math
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from tabom.callbacks.run_recorder import logged
from tabom.errors import require
from tabom.modules import DistillationModule
from tabom.reporting.progress import Display
from tabom.validation import Validation

_FORGETTING = {"kl": "KL", "nelbo": "NELBO"}
"""Metrics by how they are called here; the first that was measured is shown."""


class StepProgressBar(Callback):
    """Counts the optimizer steps of all epochs, the batches of all loaders, the trajectories of all shards, or answers.

    Rate and time left are of the whole, also when a training is resumed in the middle. Beside them stand the loss, and
    of the last validation the first accuracy and the forgetting: KL(base || model), or without a base the NELBO. On a
    terminal these are bars, elsewhere plain lines; on all processes but the first there is nothing. It takes the place
    of Lightning's own bar, and ``trainer.enable_progress_bar=false`` switches it off.

    Args:
        interval: Least time between two plain lines, in seconds.

    Raises:
        TabomError: If ``interval`` is not above 0.
    """

    def __init__(self, interval: float = 10.0) -> None:
        require(interval > 0, f"interval: expected seconds above 0, got {interval}")
        self.interval = interval
        self._display = Display(is_shown=False)
        self._num_done = self._num_seen = self._num_verified = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Switch Lightning's own bar off, if there is one."""
        del pl_module, stage
        bar = trainer.progress_bar_callback
        if bar is not None:
            bar.disable()
        self._display = Display(interval=self.interval, is_shown=bar is not None and trainer.is_global_zero)

    def on_train_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Show the steps from where training starts, which is in the middle when it resumes."""
        total = _whole(trainer.estimated_stepping_batches)
        self._training = self._display.add("Training", total, "steps", completed=trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Show the step; what is logged to the bar is read as seldom as it is shown, since a device is waited for."""
        numbers = _logged(trainer) if self._display.is_due(self._training) else {}
        self._display.update(self._training, trainer.global_step, numbers)

    def on_train_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Leave the last values."""
        self._display.update(self._training, trainer.global_step, _logged(trainer))
        self._display.close()

    def on_validation_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Show the batches of all loaders."""
        if trainer.sanity_checking:
            self._begin("Sanity check", sum(trainer.num_sanity_val_batches), "batches")
        elif trainer.state.fn == TrainerFn.FITTING:
            self._display.show(self._training, is_visible=False)  # W&B's log keeps every redraw of more than one line
            self._begin(f"Validation after step {trainer.global_step}", sum(trainer.num_val_batches), "batches")
        else:
            self._begin("Validation", sum(trainer.num_val_batches), "batches")

    def on_validation_batch_end(self, *_: Any, **__: Any) -> None:
        """Count."""
        self._count(1)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Go back to the training, with what was measured; make room for the table where there is none."""
        numbers = {} if trainer.sanity_checking else _measured(trainer, pl_module)
        self._count(0, numbers)
        self._display.remove(self._task)
        if trainer.state.fn != TrainerFn.FITTING:
            self._display.close()
        elif not trainer.sanity_checking:
            self._display.show(self._training, is_visible=True)
            self._display.update(self._training, trainer.global_step, _logged(trainer) | numbers)

    def on_test_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Show the batches of all loaders."""
        self._begin("Test", sum(trainer.num_test_batches), "batches")

    on_test_batch_end = on_validation_batch_end
    on_test_end = on_validation_end

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Show the trajectories, or the answers to a benchmark, that are left to this process."""
        del trainer
        module: Any = pl_module
        module.on_finished = self._count
        if isinstance(pl_module, DistillationModule):
            self._num_seen = self._num_verified = 0
            self._begin("Decoding", pl_module.data.num_to_decode(), "trajectories")
        else:  # a benchmark knows how many answers are left when it has loaded its questions
            module.on_started = lambda num: self._begin("Decoding", num, "answers")

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *_: Any, **__: Any
    ) -> None:
        """Show how many verified so far."""
        del trainer
        if isinstance(pl_module, DistillationModule) and outputs.num_queries:
            self._num_seen += outputs.num_queries
            self._num_verified += outputs.num_verified
            self._count(0, {"verified": _percent(self._num_verified / self._num_seen)})

    def on_predict_end(self, *_: Any, **__: Any) -> None:
        """Leave the last values, and the terminal as it was."""
        self._display.close()

    on_exception = on_predict_end

    def _begin(self, description: str, total: float, unit: str) -> None:
        self._num_done = 0
        self._task = self._display.add(description, _whole(total), unit)

    def _count(self, num: int, numbers: dict[str, str] | None = None) -> None:
        self._num_done += num
        self._display.update(self._task, self._num_done, numbers)


def _whole(number: float) -> int | None:
    return int(number) if math.isfinite(number) else None


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _logged(trainer: Trainer) -> dict[str, str]:
    """What the module logs to the bar."""
    return {name: f"{value:.3f}" for name, value in trainer.progress_bar_metrics.items()}


def _measured(trainer: Trainer, module: LightningModule) -> dict[str, str]:
    """First accuracy and forgetting, where they were measured."""
    values = logged(trainer, "test" if trainer.testing else "validate")
    numbers = {}
    validation = getattr(module, "validation", None)
    if isinstance(validation, Validation) and validation.accuracies[0] in values:
        numbers["accuracy"] = _percent(values[validation.accuracies[0]])
    shown = next((name for name in _FORGETTING if name in values), None)
    return numbers | ({_FORGETTING[shown]: f"{values[shown]:.3f}"} if shown else {})
