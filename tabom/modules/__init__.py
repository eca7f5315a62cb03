"""LightningModules: the glue between a backbone, an objective and a trainer."""

from tabom.modules.benchmark import BenchmarkModule
from tabom.modules.distillation import DistillationModule
from tabom.modules.evaluation import Evaluation
from tabom.modules.measures import PassAt
from tabom.modules.schedules import CosineWithWarmup
from tabom.modules.trainer import TabomTrainer
from tabom.modules.training import TrainingModule

__all__ = [
    "BenchmarkModule",
    "CosineWithWarmup",
    "DistillationModule",
    "Evaluation",
    "PassAt",
    "TabomTrainer",
    "TrainingModule",
]
