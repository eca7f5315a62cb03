"""Trainings that may be stopped at any moment, and go on as if they had not been."""

import shutil
import signal
from contextlib import AbstractContextManager
from pathlib import Path
from types import FrameType
from typing import Any

from lightning import LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint, Timer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

from tabom.errors import check_range, require
from tabom.modules.untrusted import check_callback_paths
from tabom.signals import EXIT_CODE, SIGNALS, handled_by

_PROGRESS = "epoch_loop.val_loop.batch_progress"


class Interrupted(SystemExit):
    """Ends the process with :data:`tabom.signals.EXIT_CODE`.

    Helper processes that Lightning started itself end with 0: it kills the first process when one of them fails.

    Args:
        reason: What is to be said on stderr.
    """

    def __init__(self, reason: str) -> None:
        is_started_outside = SLURMEnvironment.detect() or TorchElasticEnvironment.detect()
        is_helper = rank_zero_only.rank > 0 and not is_started_outside  # pyright: ignore[reportFunctionMemberAccess]
        super().__init__(0 if is_helper else EXIT_CODE)
        self.reason = reason


def interruptible() -> AbstractContextManager[None]:
    """Let SIGTERM, SIGINT and SIGUSR1 raise :class:`Interrupted` at once, until something else is done about them.

    Whatever is written meanwhile must be complete or absent, as after a SIGKILL.
    """
    return handled_by(_raise)


class LastCheckpoint(Checkpoint):
    """Keeps ``checkpoints/last.ckpt`` in the trainer's ``default_root_dir``, and stops a training when it is told to.

    The file is replaced every ``every_n_steps`` optimizer steps, at the end of an epoch or of the training, and before
    and after a validation, but never within an accumulation window; the old one is there until the new one is complete.
    SIGTERM, SIGINT, SIGUSR1 and a spent ``trainer.max_time`` end the training on all processes after the same optimizer
    step, with a checkpoint of it, and the process with code 75. A signal that comes during a validation waits for its
    end; if the process is killed before, the resumed training repeats the validation. Further signals change nothing.

    ``max_time`` counts anew in a resumed training.

    Lightning's ``ModelCheckpoint`` would not do: it writes to the system's temporary directory first, so that the
    replacement is atomic on one file system only; after resuming it saves within an accumulation window; and what it
    saves before a validation leaves that out when resumed.

    Args:
        every_n_steps: So many optimizer steps are lost at most when the process is killed.

    Raises:
        TabomError: If ``every_n_steps`` is below 1.
    """

    def __init__(self, every_n_steps: int = 100) -> None:
        check_range("every_n_steps", every_n_steps, least=1)
        self.every_n_steps = every_n_steps
        self._num_steps = 0  # when the last batch began
        self._received = ""
        self._reason = ""
        self._is_validation_ahead = False
        self._is_validation_all = False  # that is left of a training whose steps are all done

    def find(self, trainer: Trainer) -> Path | None:
        """The checkpoint to go on with, or None before the first one."""
        path = _path(trainer)
        return next((place for place in (path, _set_aside(path)) if place.exists()), None)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Check the order of the callbacks; let checkpoints be chosen before the validation counts as done.

        Lightning would choose the best one at the end of an epoch, after ``last.ckpt`` is written.

        Raises:
            TabomError: If another checkpoint callback comes later: its state after a validation would be missed.
        """
        del pl_module
        later = type(trainer.checkpoint_callbacks[-1]).__name__
        require(
            trainer.checkpoint_callbacks[-1] is self,
            f"trainer.callbacks: expected LastCheckpoint after all other checkpoint callbacks, got {later} after it",
        )
        if stage != "fit":
            return
        if trainer.is_global_zero:
            _remove(_part(trainer))
        others = [callback for callback in trainer.checkpoint_callbacks if isinstance(callback, ModelCheckpoint)]
        for other in others if trainer.enable_validation else ():
            if other._save_on_train_epoch_end is None and (other.monitor or "validate/").startswith("validate/"):
                other._save_on_train_epoch_end = False

    def on_train_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """See to it that no other training is written over; take over the signals.

        Lightning's own handlers stop within an accumulation window and end with code 0.

        Raises:
            TabomError: If there is a checkpoint, and this training does not start from one.
        """
        path = self.find(trainer)
        require(
            path is None or trainer.ckpt_path is not None,
            f"{path}: expected no checkpoint of an earlier training; --ckpt_path last goes on with it, "
            "another --run_dir starts anew",
        )
        for number in SIGNALS:
            signal.signal(number, self._note)

    def on_train_batch_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Stop here, rather than at the end of the batch before: a validation may have been due in between.

        The first epoch after one at whose end a training was resumed is not counted as begun by Lightning, which would
        have a training that is resumed twice go through the data of an epoch again.
        """
        self._stop_if_told(trainer)
        if self._is_validation_all:  # and is not due with the options of this start
            raise StopIteration
        self._num_steps = trainer.global_step
        for epochs in (trainer.fit_loop.epoch_progress.total, trainer.fit_loop.epoch_progress.current):
            epochs.ready = epochs.started = epochs.processed + 1  # pyright: ignore[reportAttributeAccessIssue]

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Save after an optimizer step, if it is time for that or the end is near; before a validation see below."""
        if trainer.should_stop and _timers(trainer):
            trainer.should_stop = False  # Lightning would stop at once, and validate before
            self._received = self._received or "the time limit"
        if not self._is_between_steps(trainer):
            return
        self._agree(trainer)
        is_last = trainer.is_last_batch or trainer.global_step == trainer.max_steps
        is_wanted = self._reason or is_last or trainer.global_step % self.every_n_steps == 0
        if is_wanted and not _is_validation_due(trainer):
            self._save(trainer)

    def on_validation_start(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Save with the validation still to be done."""
        if self._is_validation_all:
            self._is_validation_all = False
            trainer.fit_loop.epoch_loop.max_steps -= 1
        if self._is_between_steps(trainer):
            self._is_validation_ahead = True
            self._save(trainer)
            self._is_validation_ahead = False
            self._stop_if_told(trainer)

    def on_validation_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Save with the validation done."""
        if self._is_between_steps(trainer):
            self._agree(trainer)
            self._save(trainer)
            self._stop_if_told(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let the time limit count anew, and a validation that is ahead be repeated.

        Lightning repeats one only if it looks like stopped within its first batch.
        """
        del pl_module
        for timer in _timers(trainer):
            del checkpoint["callbacks"][timer.state_key]
        if self._is_validation_ahead:
            total = checkpoint["loops"]["fit_loop"][_PROGRESS]["total"]
            total["ready"] = total["started"] = total["processed"] + 1  # also where it has been repeated before

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Let a validation that is ahead be repeated after all ``max_steps`` as well, where Lightning would be done.

        Raises:
            TabomError: If the checkpoint names a file outside of the run's directory, which might then be removed.
        """
        del pl_module
        check_callback_paths(checkpoint, str(trainer.ckpt_path))
        progress = checkpoint["loops"]["fit_loop"][_PROGRESS]["total"]
        is_ahead = progress["ready"] != progress["completed"]
        if trainer.state.fn == TrainerFn.FITTING and is_ahead and checkpoint["global_step"] == trainer.max_steps:
            self._is_validation_all = True
            trainer.fit_loop.epoch_loop.max_steps += 1

    def _note(self, number: int, frame: FrameType | None) -> None:
        del frame
        self._received = self._received or signal.Signals(number).name

    def _is_between_steps(self, trainer: Trainer) -> bool:
        """Whether a training has come to the end of an accumulation window, whose gradients no checkpoint holds."""
        is_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        return is_training and trainer.global_step != self._num_steps

    def _agree(self, trainer: Trainer) -> None:
        """A signal may reach one process only, or processes at different steps."""
        if trainer.strategy.reduce_boolean_decision(bool(self._received), all=False):
            self._reason = self._received or "a signal to another process"

    def _stop_if_told(self, trainer: Trainer) -> None:
        """Raise, unless all ``max_steps`` are done: then the training is about to end."""
        if self._reason and trainer.global_step != trainer.max_steps:
            raise Interrupted(
                f"stopped by {self._reason} after step {trainer.global_step}; "
                f"--ckpt_path last goes on with {_path(trainer)}"
            )

    def _save(self, trainer: Trainer) -> None:
        """Replace the file, or the directory of a sharded checkpoint."""
        path = _path(trainer)
        new = _part(trainer)
        if trainer.is_global_zero:
            _remove(new)  # of a process that was killed
        trainer.strategy.barrier("there is room for a checkpoint")
        trainer.save_checkpoint(new, weights_only=False)
        if trainer.is_global_zero:
            if path.is_dir():
                shutil.rmtree(_set_aside(path), ignore_errors=True)
                path.rename(_set_aside(path))
            new.replace(path)
            shutil.rmtree(_set_aside(path), ignore_errors=True)
        trainer.strategy.barrier("the checkpoint is in its place")


def _path(trainer: Trainer) -> Path:
    return Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"


def _is_validation_due(trainer: Trainer) -> bool:
    """Whether Lightning validates after this batch, which a checkpoint without that would leave out when resumed."""
    loop, fetcher = trainer.fit_loop.epoch_loop, trainer.fit_loop._data_fetcher
    return fetcher is not None and loop._should_check_val_fx(fetcher) and sum(loop.val_loop._max_batches) > 0


def _part(trainer: Trainer) -> Path:
    """Where a checkpoint is until it is complete."""
    return _path(trainer).with_name("last.ckpt.part")


def _set_aside(path: Path) -> Path:
    """Where a directory is while another takes its place, which cannot be done in one operation."""
    return path.with_name("last-before.ckpt")


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)


def _timers(trainer: Trainer) -> list[Timer]:
    return [callback for callback in trainer.callbacks if isinstance(callback, Timer)]  # pyright: ignore[reportAttributeAccessIssue]


def _raise(number: int, frame: FrameType | None) -> None:
    del frame
    raise Interrupted(f"stopped by {signal.Signals(number).name}")
