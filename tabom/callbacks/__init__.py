"""What happens around a run: files written, configuration recorded, decodings shown."""

from tabom.callbacks.config_recorder import ConfigRecorder
from tabom.callbacks.evaluation_media import EvaluationMedia
from tabom.callbacks.interruption import Interrupted, LastCheckpoint, interruptible
from tabom.callbacks.save_backbone import SaveBackbone
from tabom.callbacks.step_progress_bar import StepProgressBar
from tabom.callbacks.trajectory_writer import TrajectoryWriter

__all__ = [
    "ConfigRecorder",
    "EvaluationMedia",
    "Interrupted",
    "LastCheckpoint",
    "SaveBackbone",
    "StepProgressBar",
    "TrajectoryWriter",
    "interruptible",
]
