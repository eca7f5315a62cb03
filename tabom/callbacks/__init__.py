"""What happens around a run: files written, configuration recorded, decodings shown."""

from tabom.callbacks.artifacts import Artifacts
from tabom.callbacks.benchmark_writer import BenchmarkWriter
from tabom.callbacks.evaluation_media import EvaluationMedia
from tabom.callbacks.interruption import Interrupted, LastCheckpoint, interruptible
from tabom.callbacks.run_recorder import RunRecorder
from tabom.callbacks.save_backbone import SaveBackbone
from tabom.callbacks.step_progress_bar import StepProgressBar
from tabom.callbacks.trajectory_writer import TrajectoryWriter

__all__ = [
    "Artifacts",
    "BenchmarkWriter",
    "EvaluationMedia",
    "Interrupted",
    "LastCheckpoint",
    "RunRecorder",
    "SaveBackbone",
    "StepProgressBar",
    "TrajectoryWriter",
    "interruptible",
]
