"""What happens around a run: files written, configuration recorded, decodings shown."""

from tabom.callbacks.artifacts import Artifacts
from tabom.callbacks.best_checkpoint import BestCheckpoint
from tabom.callbacks.growing_blocks import GrowingBlocks
from tabom.callbacks.interruption import Interrupted, LastCheckpoint, interruptible
from tabom.callbacks.run_recorder import RunRecorder
from tabom.callbacks.save_backbone import SaveBackbone
from tabom.callbacks.step_progress_bar import StepProgressBar
from tabom.callbacks.trajectory_writer import TrajectoryWriter
from tabom.callbacks.validation_media import ValidationMedia

__all__ = [
    "Artifacts",
    "BestCheckpoint",
    "GrowingBlocks",
    "Interrupted",
    "LastCheckpoint",
    "RunRecorder",
    "SaveBackbone",
    "StepProgressBar",
    "TrajectoryWriter",
    "ValidationMedia",
    "interruptible",
]
