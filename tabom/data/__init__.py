"""LightningDataModules, and what turns text into tensors."""

from tabom.data.pretraining import PretrainingDataModule
from tabom.data.prompts import PromptDataModule, ValidationSizes
from tabom.data.replay import ReplayData
from tabom.data.trajectories import TrajectoryDataModule

__all__ = [
    "PretrainingDataModule",
    "PromptDataModule",
    "ReplayData",
    "TrajectoryDataModule",
    "ValidationSizes",
]
