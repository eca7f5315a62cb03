"""What the runs found, in sentences that depend on their numbers."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist, mean, stdev

from tabom.reporting.bases import base_findings, common_levels, frontier_points, gains_at
from tabom.reporting.benchmarks import Answers
from tabom.reporting.comparison import PERCENT, POINTS, grouped
from tabom.reporting.frontier import accuracies_at, matched_levels
from tabom.reporting.names import BASE, BASELINE, METRIC, human_name, title_of
from tabom.reporting.paired import mcnemar, paired_cells
from tabom.reporting.results import Model, Results

CONFIDENCE = 0.95
"""Of the judgements on chance."""


@dataclass(frozen=True)
class Score:
    """What one method reached in an accuracy, over its seeds.

    Attributes:
        name: Of the method, with its learning rate where it has several.
        method: Without it.
        value: Mean over the seeds, in [0, 1].
        question_error: Standard error over the questions. All seeds answer the same ones, so that more seeds make it
            no smaller. NaN where it was not recorded.
        seed_error: Standard error over the seeds; 0 for a single one.
        kl: Mean KL(base || model) in nats per token; None where it was not measured.
    """

    name: str
    method: str
    value: float
    question_error: float
    seed_error: float
    kl: float | None

    @property
    def error(self) -> float:
        """Standard error of the value."""
        return math.hypot(self.question_error, self.seed_error)

    @property
    def text(self) -> str:
        """Value and forgetting."""
        return f"{PERCENT.with_error(self.value, None)} %" + ("" if self.kl is None else f", KL {self.kl:.3f}")

    def less(self, other: "Score") -> tuple[float, float]:
        """Difference to another, and its standard error."""
        return self.value - other.value, math.hypot(self.error, other.error)


def score_of(name: str, models: Sequence[Model], metric: str) -> Score | None:
    """The score of a method's models, one a seed; None where none of them has the metric."""
    known = [model.values for model in models if metric in model.values]
    if not known:
        return None
    values = [one[metric] for one in known]
    errors = [one.get(f"{metric}_error", math.nan) for one in known]
    forgetting = [one["kl"] for one in known if "kl" in one]
    seed_error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else 0.0
    kl = mean(forgetting) if forgetting else None
    return Score(name, models[0].method, mean(values), mean(errors), seed_error, kl)


def verdict(difference: float, error: float, num_comparisons: int = 1) -> str:
    """Whether a difference is more than chance, by a two-sided normal test.

    Args:
        difference: Between two means.
        error: Its standard error; NaN where it is unknown.
        num_comparisons: Differences that this one was chosen from; the level is divided by it (Bonferroni).
    """
    if math.isnan(error):
        return "chance unknown"
    threshold = NormalDist().inv_cdf(1 - (1 - CONFIDENCE) / 2 / num_comparisons)
    return "more than chance" if abs(difference) > threshold * error else "no more than chance"


def finding(
    results: Results, metric: str = METRIC, baseline: str = BASELINE, levels: Sequence[float] | None = None
) -> str:
    """Which method gained how much over the base and the baseline, for how much forgetting, and whether by chance.

    Args:
        results: Of the runs.
        metric: An accuracy in [0, 1].
        baseline: Method that the best one is compared with beside the base.
        levels: KL at which methods are compared over several bases; None are those that all of them reach.

    Returns:
        A few sentences, over several bases one for each level; without a base among the runs they say how far the best
        method or setting is from the worst.
        Empty where no model has the metric.
    """
    if results.has_bases and results.models:
        points = frontier_points(results, metric)
        gains = gains_at(points, metric, levels or common_levels(points))
        return " ".join(base_findings(gains, human_name(baseline), title_of(metric)))
    scores = {name: score_of(name, models, metric) for name, models in results.shown(metric).items()}
    base = scores.pop(BASE, None)
    methods = sorted((score for score in scores.values() if score), key=lambda score: -score.value)
    what = title_of(metric)
    if not methods:
        return f"The base alone was measured: {base.text} {what}." if base else ""
    if base is None:
        return _apart(methods, what)
    texts = list(_gains(methods, base, what, human_name(baseline), results, metric))
    if any(math.isnan(score.error) for score in (base, *methods)):
        texts.append("Chance is unknown where the runs did not record the error over their questions.")
    return " ".join(texts)


def _apart(methods: Sequence[Score], what: str) -> str:
    best, worst, num = methods[0], methods[-1], len(methods)
    text = f"{best.name} reaches {PERCENT.with_error(best.value, best.error)} % {what}"
    if num == 1:
        return f"{text}. The base was not measured."
    apart = best.less(worst)
    return (
        f"{text}, the most of {num} methods or settings, and {worst.name} the least, {worst.text}: "
        f"{PERCENT.with_error(*apart)} points apart, {verdict(*apart, num * (num - 1) // 2)}."
    )


def _gains(
    methods: Sequence[Score], base: Score, what: str, baseline: str, results: Results, metric: str
) -> Iterator[str]:
    best, num = methods[0], len(methods)
    gain = best.less(base)
    yield (
        f"{best.name} reaches the highest {what} after post-training ({best.text}): {POINTS.with_error(*gain)} points "
        f"against the base ({PERCENT.with_error(base.value, None)} %), {verdict(*gain, num)}."
    )
    other = next((score for score in methods[1:] if baseline in (best.method, score.method)), None)
    if other is not None:
        gain = best.less(other)
        yield f"Against {other.name} ({other.text}) it is {POINTS.with_error(*gain)} points: {verdict(*gain, num - 1)}."
        yield from _at_equal_forgetting(best, other, base, results, metric)
    below = [(score.name, score.less(base)) for score in methods[1:]]
    lost = [
        f"{name} ({POINTS.with_error(*gain)} points)"
        for name, gain in below
        if gain[0] < 0 and verdict(*gain, num) == "more than chance"
    ]
    if lost:
        yield f"Below the base by more than chance: {', '.join(lost)}."


def _at_equal_forgetting(best: Score, other: Score, base: Score, results: Results, metric: str) -> Iterator[str]:
    """Two methods of several learning rates each, where both are equally far from the base, and as far as both go."""
    points = results.on_frontier().reindex(columns=["method", "seed", "learning_rate", "kl", metric]).dropna()
    points = points[points["method"].isin([best.method, other.method])]
    if points.groupby("method")["learning_rate"].nunique().min() < 2 or points["method"].nunique() < 2:
        return
    level = matched_levels(points)[-1]
    accuracies = accuracies_at(points, base.value, metric, [level])[level].unstack("method").dropna()
    differences = accuracies[best.method] - accuracies[other.method]
    if len(differences):
        over_seeds = differences.sem() if len(differences) > 1 else 0.0
        gain = differences.mean(), math.hypot(over_seeds, best.question_error, other.question_error)
        yield f"At equal forgetting (KL {level:g}) it is {POINTS.with_error(*gain)} points: {verdict(*gain)}."


def benchmark_finding(answers: Sequence[Answers]) -> str:
    """On each benchmark the best model beside its base, on the questions that both answered; empty where there is none.

    Whether it is more than chance is McNemar's test, whose level is divided by the number of trained models.

    Args:
        answers: Of the runs of benchmarks that count.
    """
    texts = []
    for own in grouped(answers, lambda one: (one.training.base_model, one.name, str(one.settings))).values():
        bases, trained = ([one for one in own if one.row[0] is is_trained] for is_trained in (False, True))
        if not bases or not trained:
            continue
        best = max(trained, key=lambda one: one.result.score)
        scores = [PERCENT.with_error(one.result.score, one.result.standard_error) for one in (best, bases[0])]
        cells = paired_cells(best.result.scores, bases[0].result.scores)
        is_clear = mcnemar(int(cells["only A"]), int(cells["only B"])) < (1 - CONFIDENCE) / len(trained)
        texts.append(
            f"On {best.name}, {best.result.model} answers {scores[0]} % and the base {scores[1]} %: "
            f"{cells['A less B, points']} points on the {cells['questions of both']} questions of both, "
            f"{'' if is_clear else 'no '}more than chance."
        )
    return " ".join(texts)
