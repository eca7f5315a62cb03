"""Ranges of Lightning's own options, which it checks late, by a traceback, or not at all."""

import inspect
from collections.abc import Mapping
from typing import Any

from lightning import Trainer

from tabom.errors import require

_RANGES = {
    "accumulate_grad_batches": (1, ""),
    "check_val_every_n_epoch": (1, ""),
    "gradient_clip_val": (0, ""),
    "limit_predict_batches": (0, "predict evaluate"),
    "limit_test_batches": (0, "test"),
    "limit_train_batches": (0, "fit"),
    "limit_val_batches": (0, "validate"),
    "log_every_n_steps": (0, ""),
    "max_epochs": (1, ""),
    "max_steps": (1, ""),
    "min_epochs": (0, ""),
    "min_steps": (0, ""),
    "num_nodes": (1, ""),
    "num_sanity_val_steps": (-1, ""),
    "overfit_batches": (0, ""),
    "reload_dataloaders_every_n_epochs": (0, ""),
    "val_check_interval": (0, "fit"),
}
"""Option, its least value, and the verbs for which it must be above that."""
_UNLIMITED = ("max_epochs", "max_steps")
_OF_TRAINING = (
    "accumulate_grad_batches", "check_val_every_n_epoch", "gradient_clip_algorithm", "gradient_clip_val",
    "limit_test_batches", "limit_train_batches", "limit_val_batches", "max_epochs", "max_steps", "max_time",
    "min_epochs", "min_steps", "overfit_batches", "val_check_interval",
)  # fmt: skip
_USELESS = {"predict": _OF_TRAINING, "evaluate": (*_OF_TRAINING, "limit_predict_batches")}
"""Options that a verb with a configuration of its own would ignore."""
_LARGEST_SEED = 2**32 - 1


def check_ranges(verb: str, config: Mapping[str, Any]) -> None:
    """Look at the numbers among the trainer's options, and the seed.

    Args:
        verb: The one of the command line.
        config: Its configuration, parsed.

    Raises:
        TabomError: About the first option out of its range, or of no use to the verb.
    """
    seed = config["seed_everything"]
    is_seed = isinstance(seed, bool) or seed is None or 0 <= seed <= _LARGEST_SEED
    require(is_seed, f"seed_everything: expected a number from 0 to {_LARGEST_SEED}, got {seed}")
    trainer = config["trainer"]
    for name in _USELESS.get(verb, ()):
        is_default = trainer[name] in (None, inspect.signature(Trainer).parameters[name].default)
        require(is_default, f"trainer.{name}: expected nothing, since {verb} has no use for it, got {trainer[name]}")
    for name, (least, verbs) in _RANGES.items():
        value = trainer[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or (name in _UNLIMITED and value == -1):
            continue
        is_open = verb in verbs.split()
        expected = f"{'more than' if is_open else 'at least'} {least}{', or -1 for no limit' * (name in _UNLIMITED)}"
        require(value > least if is_open else value >= least, f"trainer.{name}: expected {expected}, got {value}")
    is_double = str(trainer["precision"]).startswith("64")
    require(not is_double, "trainer.precision: expected 32-true or bf16-mixed, got 64-true")
