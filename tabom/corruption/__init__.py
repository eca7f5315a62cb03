"""What the network sees: which part of a clean sequence is masked, and which part of that is asked for."""

from tabom.corruption.trajectory_segments import TrajectorySegments
from tabom.corruption.uniform_masking import UniformMasking

__all__ = ["TrajectorySegments", "UniformMasking"]
