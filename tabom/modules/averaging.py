"""Averages of the weights over the steps of a training, which callbacks of Lightning keep."""

from typing import Any

import torch
from lightning import Trainer
from lightning.pytorch.callbacks import StochasticWeightAveraging, WeightAveraging
from torch import Tensor

from tabom.errors import require


def check_averaging(trainer: Trainer) -> None:
    """Raise ``TabomError`` for the one callback that would average nothing: it copies the module before its weights."""
    require(
        not any(isinstance(callback, StochasticWeightAveraging) for callback in _callbacks(trainer)),
        "trainer.callbacks: expected WeightAveraging or EMAWeightAveraging, got StochasticWeightAveraging, which would "
        "average nothing: it copies the model before its weights are read",
    )


def keep_frozen_weights(trainer: Trainer) -> None:
    """Where weight and average are equal the average stays as it is: an adapter's base is not rounded anew."""
    for callback in _callbacks(trainer):
        average: Any = callback._average_model if isinstance(callback, WeightAveraging) else None
        if average is not None and average.avg_fn is not None:
            average.avg_fn = _Exact(average.avg_fn)


class _Exact:
    """An average of two weights, which is exact where they are equal."""

    def __init__(self, average: Any) -> None:
        self._average = average

    def __call__(self, averaged: Tensor, current: Tensor, num_averaged: Tensor) -> Tensor:
        return torch.where(averaged == current, averaged, self._average(averaged, current, num_averaged))


def _callbacks(trainer: Trainer) -> list[Any]:
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
