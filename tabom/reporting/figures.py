"""Figures that compare runs, drawn without a display."""

import statistics
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tabom.reporting.comparison import MethodResult

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow that is faint on white.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP*Xph"
LINES = ("-", "--", ":")


def plot_gain_against_forgetting(results: Sequence[MethodResult], base_accuracy: float) -> Figure:
    """Accuracy gained over the base against KL from it: a large point a method, small ones for its seeds.

    Each method stands at one learning rate; only points of equal forgetting may be compared.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for index, method in enumerate(dict.fromkeys(result.method for result in results)):
        group = [result.metrics for result in results if result.method == method]
        forgetting = [metrics["kl"] for metrics in group]
        gain = [100 * (metrics["accuracy_1_per_step"] - base_accuracy) for metrics in group]
        color = f"C{index}"
        axes.scatter(forgetting, gain, s=14, color=color, alpha=0.5)
        axes.scatter(statistics.mean(forgetting), statistics.mean(gain), s=70, color=color, label=method)
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(
        xscale="log",
        xlabel="forgetting: KL(base || model) on base-domain text (nats)",
        ylabel="accuracy gained (points)",
        title="New-domain gain against base-domain forgetting",
    )
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of one of several methods, which differ in all of them."""
    return {
        "color": COLORS[index % len(COLORS)],
        "marker": MARKERS[index % len(MARKERS)],
        "linestyle": LINES[index % len(LINES)],
    }


def plot_frontiers(results: Sequence[MethodResult], base: MethodResult, metric: str = "accuracy_1_per_step") -> Figure:
    """Accuracy gained over the base against KL from it: one line a method, through its learning rates.

    A marker is the mean over the seeds of one learning rate; every line starts at the base. A method with a single
    learning rate is a point without a line. Methods differ in marker and line as well as in colour.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    for index, method in enumerate(dict.fromkeys(result.method for result in results)):
        own = [result for result in results if result.method == method]
        rates = dict.fromkeys(result.learning_rate for result in own)
        points = [(0.0, 0.0)] if len(rates) > 1 else []
        for rate in rates:
            group = [result.metrics for result in own if result.learning_rate == rate]
            gain = statistics.mean(metrics[metric] for metrics in group) - base.metrics[metric]
            points.append((statistics.mean(metrics["kl"] for metrics in group), 100 * gain))
        axes.plot(
            *zip(*sorted(points), strict=True),
            **line_style(index),
            markersize=5,
            linewidth=1.3,
            label=method,
        )
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set_xlim(left=0)
    axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    axes.set(
        xlabel="forgetting: KL(base || model) on base-domain text\n(nats, square-root scale)",
        ylabel="accuracy gained (points)",
        title="Gain against forgetting over learning rates",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    return figure
