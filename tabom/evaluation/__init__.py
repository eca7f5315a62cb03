"""Benchmarks, run by lm-eval on diffusion language models."""

from tabom.evaluation.benchmarks import Benchmark, LmEvalBenchmark, PaperBenchmark, TaskBenchmark
from tabom.evaluation.likelihood import MonteCarlo

__all__ = ["Benchmark", "LmEvalBenchmark", "MonteCarlo", "PaperBenchmark", "TaskBenchmark"]
