"""Questions of an evaluation, as tasks of lm-eval."""

from tabom.evaluation.benchmarks.base import Benchmark
from tabom.evaluation.benchmarks.examples import TaskBenchmark
from tabom.evaluation.benchmarks.named import LmEvalBenchmark
from tabom.evaluation.benchmarks.paper import PaperBenchmark

__all__ = ["Benchmark", "LmEvalBenchmark", "PaperBenchmark", "TaskBenchmark"]
