"""LightningDataModules, and what turns text into tensors."""

from tabom.data.benchmark import BenchmarkDataModule
from tabom.data.pretraining import PretrainingDataModule
from tabom.data.prompts import EvaluationSizes, PromptDataModule
from tabom.data.trajectories import TrajectoryDataModule

__all__ = [
    "BenchmarkDataModule",
    "EvaluationSizes",
    "PretrainingDataModule",
    "PromptDataModule",
    "TrajectoryDataModule",
]
