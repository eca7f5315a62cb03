"""Accuracy at each number of tokens per network call, as curves and as one number."""

import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence

from tabom.reporting.benchmarks import Answers
from tabom.reporting.comparison import MISSING, grouped, table_rows
from tabom.reporting.curves import plot_lines
from tabom.reporting.names import human_name
from tabom.reporting.page import Plot, Section, Table
from tabom.reporting.results import Model

Points = list[tuple[float, float]]
"""Tokens per network call, and accuracy in %."""

_PENALTY, _TOLERANCE = 3.0, 5.0
_SPEED = re.compile(r"sampler\.(tokens_per_step|schedule)(\.|$)")
_TEXT = """AUP, accuracy under parallelism (arXiv 2601.07568): area under a curve, in % times tokens per network call, \
where accuracy below the best of all models counts less; points more than 5 points below a curve's slowest one do not \
count. It compares models with the same settings for the same questions only."""


def accuracy_under_parallelism(points: Sequence[tuple[float, float]], best: float) -> float:
    """Area under the curve of accuracy against tokens per network call, weighted towards accuracy.

    ``rho_1 y_1 + sum_i (rho_i - rho_{i-1}) (y_i W(y_i) + y_{i-1} W(y_{i-1})) / 2`` with
    ``W(y) = min(exp(-3 (1 - y / y_max)), 1)``, over the points with ``y >= y_1 - 5``, by rising ``rho``.

    Args:
        points: Tokens per network call (rho), and accuracy in % (y); at least one.
        best: Highest accuracy of all models that are compared, in % (y_max), above 0.

    References:
        Qian et al. 2026, arXiv:2601.07568; hao-ai-lab/d3LLM ``aup_utils.py``, which refuses curves whose fastest point
        is more than 5 points below the slowest one, where we leave such points out.

    >>> accuracy_under_parallelism([(1, 80), (2, 80)], best=80)
    160.0
    """
    ordered = sorted(points)
    kept = [point for point in ordered if point[1] >= ordered[0][1] - _TOLERANCE]

    def weighted(accuracy: float) -> float:
        return accuracy * min(math.exp(-_PENALTY * (1 - accuracy / best)), 1.0)

    area = kept[0][0] * kept[0][1]
    for (slower, before), (faster, after) in itertools.pairwise(kept):
        area += (faster - slower) * (weighted(before) + weighted(after)) / 2
    return area


def speed_section(shown: Mapping[str, Sequence[Model]], answers: Sequence[Answers]) -> Section | str:
    """Curves of all models that were measured at several speeds.

    Args:
        shown: Methods and their models, of trainings' tests at fixed numbers of tokens per step.
        answers: Runs of benchmarks, with any sampler.

    Returns:
        A sentence where no model was measured at more than one speed.
    """
    curves = [*_of_tests(shown), *_of_benchmarks(answers)]
    if not curves:
        return "No curve of accuracy against speed: no model was measured at several numbers of tokens per step."
    plots, tables = [], []
    for number, (title, lines) in enumerate(curves):
        best = max(accuracy for points in lines.values() for _, accuracy in points)
        rows = table_rows(
            {
                "model": name,
                "AUP ↑": f"{accuracy_under_parallelism(points, best):.1f}" if best else MISSING,
                "accuracy, %, at tokens per network call": ", ".join(f"{y:.1f} at {x:.2f}" for x, y in points),
            }
            for name, points in lines.items()
        )
        drawn = {name: ([x for x, _ in points], [y for _, y in points]) for name, points in lines.items()}
        figure = plot_lines(drawn, title, "tokens per network call", "accuracy (%)")
        text = f"{title}: accuracy against tokens per network call, one line a model."
        plots.append(Plot(f"speed_{number}", text, text, figure, rows))
        tables.append(Table(title, rows))
    return Section("Speed against accuracy", [_TEXT], plots, tables)


def _of_tests(shown: Mapping[str, Sequence[Model]]) -> Iterator[tuple[str, dict[str, Points]]]:
    """Means over the seeds; a test decodes a fixed number of tokens per step."""
    lines: dict[str, Points] = {}
    for method, models in shown.items():
        names = [match for name in models[0].values if (match := re.fullmatch(r"accuracy_(\d+)_per_step", name))]
        points = [
            (float(match[1]), 100 * sum(model.values[match[0]] for model in models) / len(models))
            for match in names
            if all(match[0] in model.values for model in models)
        ]
        if len(points) > 1:
            lines[human_name(method)] = sorted(points)
    if lines:
        yield "Questions of the task", lines


def _of_benchmarks(answers: Sequence[Answers]) -> Iterator[tuple[str, dict[str, Points]]]:
    """One a benchmark, base model and settings apart from speed; tokens up to the end of a response count."""
    measured = [one for one in answers if one.result.cost.get("num_steps")]

    def alike(one: Answers) -> tuple[str, str, str]:
        others = {key: value for key, value in one.settings.items() if not _SPEED.match(key)}
        return one.training.base_model, one.name, str(sorted((key, str(value)) for key, value in others.items()))

    for (base, name, _), own in grouped(measured, alike).items():
        lines = {
            model: sorted(
                (one.result.cost["num_tokens"] / one.result.cost["num_steps"], 100 * one.result.score) for one in same
            )
            for (_, model), same in grouped(own, lambda one: one.row).items()
            if len({str(one.settings) for one in same}) > 1
        }
        if lines:
            yield f"{name}, {base}", lines
