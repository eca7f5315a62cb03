"""What the network sees: which part of a clean sequence is masked, and which part of that is asked for."""

from tabom.corruption.block_states import BlockStates
from tabom.corruption.complementary_masking import ComplementaryMasking
from tabom.corruption.trajectory_choices import TrajectoryChoices
from tabom.corruption.trajectory_segments import TrajectorySegments
from tabom.corruption.trajectory_transition import TrajectoryTransition
from tabom.corruption.uniform_masking import CountMasking, UniformMasking

__all__ = [
    "BlockStates",
    "ComplementaryMasking",
    "CountMasking",
    "TrajectoryChoices",
    "TrajectorySegments",
    "TrajectoryTransition",
    "UniformMasking",
]
