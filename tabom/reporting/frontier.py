"""Methods at equal forgetting: each one's curve over learning rates, read at the same distances from the base.

At one learning rate the methods differ in how far they went from the base as well as in what they learnt. Here a method
is a curve, accuracy against KL(base ‖ model), through the base (KL 0) and its models of all learning rates; curves are
compared where their KL is equal, and only as far as each of them goes.
"""

from collections.abc import Sequence
from decimal import ROUND_DOWN, Context
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tabom.reporting.comparison import MISSING, PERCENT, POINTS, Frame, Rows, table_rows
from tabom.reporting.curves import line_style

NUM_LEVELS = 4
_SEEDS = ["method", "seed"]
_WIDE = 100  # how many times farther one model is than another, from where the nearest would be drawn as one


def accuracies_at(results: Frame, base: float, metric: str, levels: Sequence[float]) -> Frame:
    """Accuracy at given forgetting, linear in sqrt(KL) between the two models beside it.

    Args:
        results: Models that were post-trained from the base: ``method``, ``seed``, ``kl`` (nats per token), and
            ``metric`` in [0, 1]. It need not rise with the learning rate, nor with KL.
        base: The accuracy of the base itself, which stands at KL 0.
        metric: Accuracy in question, by name.
        levels: KL values above 0.

    Returns:
        One row a method and seed, one column a level; NaN beyond the last model: nothing is extrapolated.
    """

    def read(models: Frame) -> pd.Series:
        curve = models.sort_values(["kl", metric])
        roots, accuracies = np.sqrt([0.0, *curve["kl"]]), [base, *curve[metric]]
        return pd.Series(np.interp(np.sqrt(levels), roots, accuracies, right=np.nan), levels)

    return results.groupby(_SEEDS, sort=False)[["kl", metric]].apply(read)


def matched_levels(results: Frame, num_levels: int = NUM_LEVELS) -> list[float]:
    """KL values that every method reaches with every seed.

    The last is the largest such value, the others divide the way there from the base into equal parts of sqrt(KL); all
    are rounded down to two significant digits.
    """
    end = results.groupby(_SEEDS)["kl"].max().min()
    parts = [repr(float(end * (part / num_levels) ** 2)) for part in range(1, num_levels + 1)]
    return [float(Context(prec=2, rounding=ROUND_DOWN).create_decimal(part)) for part in parts]


def frontier_rows(results: Frame, base: float, metric: str, levels: Sequence[float], baseline: str) -> Rows:
    """Head, then one row a method: name, number of seeds, the KL that it reaches, then one cell a level.

    A cell holds the accuracy in % and, in brackets, the difference to the baseline with the same seed and its standard
    error, in points; a dash unless every seed goes so far, since a mean over those that do would favour the method.
    """
    accuracies = accuracies_at(results, base, metric, levels)
    beside = accuracies.reindex([(baseline, seed) for _, seed in accuracies.index])
    differences = accuracies - beside.to_numpy()
    reached = results.groupby(_SEEDS)["kl"].max().groupby("method").min()
    return table_rows(
        {"method": str(method), "seeds": str(len(own)), "KL up to": f"{reached[method]:.3f}"}
        | {
            f"KL {level:g}": _cell(own[level], None if method == baseline else differences.loc[own.index, level])
            for level in levels
        }
        for method, own in accuracies.groupby("method", sort=False)
    )


def _cell(accuracies: Any, differences: Any) -> str:
    """Means over the seeds; no difference where a seed of the baseline is missing or does not go so far."""
    if accuracies.hasnans:
        return MISSING
    text = PERCENT.with_error(accuracies.mean(), None)
    if differences is None or differences.hasnans:
        return text
    return f"{text} ({POINTS.with_error(differences.mean(), differences.sem())})"


def mean_gains(results: Frame, base_accuracy: float, metric: str) -> Frame:
    """One row a method and learning rate: these, the number of seeds, mean KL (nats), mean gain and its error (points).

    The error is that of the accuracy over the questions; NaN where ``results`` has no ``<metric>_error``.
    """
    errors = results.get(f"{metric}_error", np.nan)
    gains = results.assign(gain=100 * (results[metric] - base_accuracy), error=100 * errors)
    groups = gains.groupby(["method", "learning_rate"], sort=False, dropna=False)
    names = {name: (name, "mean") for name in ("kl", "gain", "error")}
    return groups.agg(seeds=("kl", "size"), **names).reset_index()


def plot_frontiers(results: Frame, base_accuracy: float, metric: str = "accuracy_1_per_step") -> Figure:
    """Accuracy gained over the base against KL from it: one line a method, through its learning rates.

    A marker is the mean over the seeds of one learning rate, with the error over the questions; every line starts at
    the base. A method with a single learning rate is a point without a line. Methods differ in marker and line as well
    as in colour.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    means = mean_gains(results, base_accuracy, metric)
    for index, (method, own) in enumerate(means.groupby("method", sort=False)):
        line = sorted(([(0.0, 0.0)] if len(own) > 1 else []) + list(zip(own["kl"], own["gain"], strict=True)))
        style = line_style(index)
        axes.plot(*zip(*line, strict=True), **style, markersize=5, linewidth=1.3, label=method)
        axes.errorbar(own["kl"], own["gain"], own["error"], fmt="none", ecolor=style["color"], alpha=0.35)
    far, near = means["kl"].max(), means["kl"][means["kl"] > 0].min()
    if is_wide := far > _WIDE * near:
        axes.set_xscale("symlog", linthresh=near)
        axes.set_xlim(right=1.5 * far)
    dress_frontier(axes, "Gain against forgetting over learning rates", is_wide=is_wide)
    figure.legend(loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    return figure


def dress_frontier(axes: Axes, title: str, *, is_wide: bool = False) -> None:
    """Name the axes of a figure of gain against forgetting, and mark where nothing is gained.

    Args:
        axes: Of the figure.
        title: Above them.
        is_wide: Whether forgetting has a logarithmic scale already; else it gets one by its square root.
    """
    if not is_wide:
        axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(
        title=title,
        xlabel="forgetting: KL(base ‖ model) on base-domain text\n"
        f"(nats, {'logarithmic' if is_wide else 'square-root'} scale)",
        ylabel="accuracy gained (points)",
    )
    axes.set_xlim(left=0)
    axes.grid(alpha=0.3)
