"""Methods at equal forgetting: each one's curve over learning rates, read at the same distances from the base.

At one learning rate the methods differ in how far they went from the base as well as in what they learnt. Here a method
is a curve, accuracy against KL(base || model), through the base (KL 0) and its models of all learning rates; curves are
compared where their KL is equal, and only as far as each of them goes.
"""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, Context
from typing import NamedTuple

from tabom.errors import require
from tabom.reporting.comparison import MISSING, PERCENT, POINTS, MethodResult, Rows, grouped, table_rows

NUM_LEVELS = 4


class Point(NamedTuple):
    """One model on a curve.

    Attributes:
        kl: KL(base || model), nats a token.
        accuracy: In [0, 1].
    """

    kl: float
    accuracy: float


Curve = Sequence[Point]
Curves = Mapping[str, Mapping[int, Curve]]


@dataclass(frozen=True)
class Matched:
    """One method at one KL.

    Attributes:
        accuracy: Mean over its seeds, in [0, 1].
        difference: Mean over its seeds of accuracy less that of the baseline with the same seed; None where a seed of
            the baseline is missing or does not go so far.
        standard_error: Of the difference; None without one or with one seed.
    """

    accuracy: float
    difference: float | None = None
    standard_error: float | None = None

    def __str__(self) -> str:
        """In %, with the difference in points."""
        text = PERCENT.with_error(self.accuracy, None)
        return (
            text if self.difference is None else f"{text} ({POINTS.with_error(self.difference, self.standard_error)})"
        )


def seed_curves(results: Sequence[MethodResult], base: MethodResult, metric: str) -> Curves:
    """One curve a method and seed: the base and the method's models of all learning rates, by ascending KL.

    Args:
        results: Models that were post-trained from the base; ``kl`` and ``metric`` are read.
        base: The base itself, which stands at KL 0.
        metric: Accuracy in question, by name.
    """
    start = Point(0.0, base.metrics[metric])
    return {
        method: {
            seed: sorted([start, *(Point(model.metrics["kl"], model.metrics[metric]) for model in models)])
            for seed, models in grouped(own, lambda model: model.seed).items()
        }
        for method, own in grouped(results, lambda model: model.method).items()
    }


def accuracy_at(curve: Curve, kl: float) -> float | None:
    """Accuracy at a given forgetting, linear in sqrt(KL) between the two models beside it.

    Args:
        curve: By ascending KL, the base first. It need not rise with the learning rate, nor in accuracy.
        kl: At least 0, nats a token.

    Returns:
        None beyond the curve's last model: nothing is extrapolated.
    """
    for low, high in itertools.pairwise(curve):
        if low.kl <= kl <= high.kl:
            width = math.sqrt(high.kl) - math.sqrt(low.kl)
            weight = (math.sqrt(kl) - math.sqrt(low.kl)) / width if width > 0 else 0.0
            return low.accuracy + weight * (high.accuracy - low.accuracy)
    return None


def reached(seeds: Mapping[int, Curve]) -> float:
    """The largest KL that every seed of one method reaches."""
    return min(curve[-1].kl for curve in seeds.values())


def matched_levels(curves: Curves, num_levels: int = NUM_LEVELS) -> list[float]:
    """KL values that every method reaches with every seed.

    The last is the largest such value, the others divide the way there from the base into equal parts of sqrt(KL); all
    are rounded down to two significant digits.
    """
    end = min(reached(seeds) for seeds in curves.values())
    parts = [repr(end * (part / num_levels) ** 2) for part in range(1, num_levels + 1)]
    return [float(Context(prec=2, rounding=ROUND_DOWN).create_decimal(part)) for part in parts]


def match(curves: Curves, method: str, kl: float, baseline: str) -> Matched | None:
    """One method at one KL, and how far it stands from the baseline there.

    Returns:
        None unless every seed of the method reaches this KL, since a mean over those that do would favour them.
    """
    own = {seed: accuracy_at(curve, kl) for seed, curve in curves[method].items()}
    values = [value for value in own.values() if value is not None]
    if len(values) < len(own):
        return None
    mean = statistics.mean(values)
    others = [accuracy_at(curves.get(baseline, {}).get(seed, ()), kl) for seed in own]
    differences = [value - other for value, other in zip(values, others, strict=True) if other is not None]
    if method == baseline or len(differences) < len(values):
        return Matched(mean)
    is_repeated = len(differences) > 1
    error = statistics.stdev(differences) / math.sqrt(len(differences)) if is_repeated else None
    return Matched(mean, statistics.mean(differences), error)


def frontier_rows(curves: Curves, levels: Sequence[float], baseline: str) -> Rows:
    """Head, then one row a method: name, number of seeds, the KL that it reaches, then one cell a level.

    A cell holds the accuracy in % and, in brackets, the difference to the baseline with its standard error, in points;
    a dash where the method does not go so far.

    Raises:
        TabomError: If a level is not above 0.
    """
    require(all(level > 0 for level in levels), f"kl_levels: expected numbers above 0 nats, got {list(levels)}")
    return table_rows(
        {"method": method, "seeds": str(len(seeds)), "KL up to": f"{reached(seeds):.3f}"}
        | {f"KL {level:g}": str(match(curves, method, level, baseline) or MISSING) for level in levels}
        for method, seeds in curves.items()
    )
