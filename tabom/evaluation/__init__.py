"""The verb ``evaluate``: benchmarks, run by lm-eval on diffusion language models."""

from tabom.evaluation.benchmarks import Benchmark, LmEvalBenchmark, PaperBenchmark, TaskBenchmark
from tabom.evaluation.data import BenchmarkDataModule
from tabom.evaluation.likelihood import MonteCarlo
from tabom.evaluation.module import BenchmarkModule
from tabom.evaluation.writer import BenchmarkWriter

__all__ = [
    "Benchmark",
    "BenchmarkDataModule",
    "BenchmarkModule",
    "BenchmarkWriter",
    "LmEvalBenchmark",
    "MonteCarlo",
    "PaperBenchmark",
    "TaskBenchmark",
]
