"""LightningModules for training and distillation: the glue between a backbone, an objective and a trainer."""

from tabom.modules.distillation import DistillationModule
from tabom.modules.schedules import CosineWithWarmup
from tabom.modules.training import TrainingModule

__all__ = ["CosineWithWarmup", "DistillationModule", "TrainingModule"]
