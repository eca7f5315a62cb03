"""What objects were made with, read from the objects themselves: for runs that no configuration describes."""

import functools
import inspect
import sys
from collections.abc import Mapping
from typing import Any

import torch
from lightning import LightningModule, Trainer

_TRAINER = (
    "default_root_dir", "max_steps", "max_epochs", "precision", "gradient_clip_val", "gradient_clip_algorithm",
    "accumulate_grad_batches", "limit_train_batches", "limit_val_batches", "limit_test_batches", "fast_dev_run",
)  # fmt: skip


def configuration(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """Settings of trainer, module and data module, in the form of a resolved configuration.

    Of a class those arguments are known that its objects keep under the arguments' names, with or without an underscore
    before them. Of an optimizer the settings are known that it has, whatever function makes it.
    """
    model = _settings(module)
    make_optimizer = vars(module).get("_optimizer")
    if make_optimizer is not None:
        trial = make_optimizer([torch.nn.Parameter(torch.zeros(1))])
        model["init_args"]["optimizer"] = {"class_path": _import_path(type(trial)), "init_args": trial.defaults}
    if hasattr(module, "source"):
        model["init_args"]["backbone"] = _settings(module.source)
    return {
        "trainer": {name: _settings(getattr(trainer, name)) for name in _TRAINER},
        "model": model,
        "data": _settings(trainer.datamodule),  # pyright: ignore[reportAttributeAccessIssue]
    }


def _settings(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, Mapping):
        return {str(name): _settings(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_settings(one) for one in value]
    if isinstance(value, functools.partial):
        return {"class_path": _import_path(value.func), "init_args": _settings(value.keywords)}
    if inspect.isroutine(value) or inspect.isclass(value):
        return _import_path(value)
    if not hasattr(value, "__dict__"):
        return str(value)
    kept = vars(value).get("_modules", {}) | vars(value)  # torch keeps modules apart
    places = {name: name if name in kept else f"_{name}" for name in inspect.signature(type(value)).parameters}
    known = {name: _settings(kept[place]) for name, place in places.items() if place in kept}
    return {"class_path": _import_path(type(value)), "init_args": known}


def _import_path(value: Any) -> str:
    """The shortest one, which configurations have as well."""
    parts = value.__module__.split(".")
    packages = [".".join(parts[:number]) for number in range(1, len(parts) + 1)]
    homes = (one for one in packages if getattr(sys.modules.get(one), value.__qualname__, None) is value)
    return f"{next(homes, value.__module__)}.{value.__qualname__}"
