"""What a resumed training takes from its configuration and what from the checkpoint, as ``docs/resume.md`` says."""

import warnings
from typing import Any, cast

from lightning import LightningModule, Trainer
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from tabom.data.loading import ResumableLoader
from tabom.errors import require

_LOADERS = ("loops", "fit_loop", "state_dict", "combined_loader")
_NEED_STATE = ("amsgrad", "centered", "momentum")
"""Settings of optimizers for which they keep a further state of every weight."""


class Resumption:
    """Brings a training to where its checkpoint is, with the settings that are configured now.

    Lightning would take the settings of the optimizer and of the schedule from the checkpoint, and count batches of
    another size on.

    Args:
        checkpoint: Of a training. States of schedules are taken out of it: they hold settings as well.
        optimizer: Name of the class that is configured.

    Raises:
        TabomError: If the checkpoint is of another optimizer.
    """

    def __init__(self, checkpoint: dict[str, Any], optimizer: str) -> None:
        stored = checkpoint.get("optimizer", optimizer)
        require(
            stored == optimizer,
            f"model.optimizer: expected {stored}, whose state the checkpoint holds, got {optimizer}; to train on with "
            "another one, start from the weights (tabom export)",
        )
        self._schedules: list[dict[str, Any]] = checkpoint["lr_schedulers"]
        checkpoint["lr_schedulers"] = []
        loaders: Any = checkpoint
        for key in _LOADERS:
            loaders = loaders.get(key) or {}
        self._loader_state = next(iter(loaders), None)

    def apply(self, module: LightningModule) -> None:
        """Do it; everything else is restored.

        Raises:
            TabomError: If a setting does not go with the checkpoint.
        """
        trainer = module.trainer
        self._apply_optimizer(trainer, cast("dict[str, Any]", module.configure_optimizers()))
        loader = trainer.train_dataloader
        if isinstance(loader, ResumableLoader) and self._loader_state is not None:
            loader.load_state_dict(
                self._loader_state
            )  # Lightning may have asked for the loader before it had the state
            _fast_forward(trainer, loader)

    def _apply_optimizer(self, trainer: Trainer, configured: dict[str, Any]) -> None:
        """Give optimizer and schedule the settings, and the rate, that the configuration has at this step."""
        (optimizer,) = trainer.optimizers
        fresh: Optimizer = configured["optimizer"]
        schedule = configured.get("lr_scheduler", {}).get("scheduler")
        if isinstance(schedule, ReduceLROnPlateau):
            self._follow(schedule, optimizer)
        elif schedule is not None:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # nothing is optimised here
                for _ in range(trainer.global_step):
                    schedule.step()
        for group, wanted in zip(optimizer.param_groups, fresh.param_groups, strict=True):
            for name in _NEED_STATE:
                require(
                    not wanted.get(name) or bool(group.get(name)),
                    f"model.optimizer.{name}: expected {group.get(name)}, as in the checkpoint, which holds no state "
                    f"for it, got {wanted.get(name)}",
                )
            group.update({name: value for name, value in wanted.items() if name != "params"})
        optimizer.load_state_dict(optimizer.state_dict())  # a fused one counts its steps on the device
        if schedule is not None:
            trainer.lr_scheduler_configs[0].scheduler.load_state_dict(schedule.state_dict())

    def _follow(self, schedule: ReduceLROnPlateau, optimizer: Optimizer) -> None:
        """Reduce the configured rate as far as the training had it reduced by what it measured."""
        stored = next((state for state in self._schedules if "num_bad_epochs" in state), None)
        if stored is None:
            return
        for group, before in zip(schedule.optimizer.param_groups, optimizer.param_groups, strict=True):
            if group["lr"] == before["initial_lr"]:
                group["lr"] = before["lr"]
            else:
                group["lr"] *= before["lr"] / before["initial_lr"]
        state = schedule.state_dict()
        kept = ["last_epoch"]
        if all(stored.get(name) == state[name] for name in ("monitor", "mode")):
            kept += ["best", "num_bad_epochs", "cooldown_counter"]
        rates = [group["lr"] for group in schedule.optimizer.param_groups]
        schedule.load_state_dict({**state, **{name: stored[name] for name in kept}, "_last_lr": rates})


def _fast_forward(trainer: Trainer, loader: ResumableLoader) -> None:
    """Count the batches of the epoch that are done in batches of the size that they have now."""
    progress = trainer.fit_loop.epoch_loop.batch_progress
    num_done = trainer.num_training_batches if progress.is_last_batch else len(loader) - loader.num_left
    num_more = num_done - progress.current.ready
    for name in ("ready", "started", "processed", "completed"):
        setattr(progress.current, name, getattr(progress.current, name) + num_more)
