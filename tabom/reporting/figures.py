"""Figures, drawn without a display."""

import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure

from tabom.reporting.comparison import MethodResult


def plot_discrimination_curve(curve: Sequence[float]) -> Figure:
    """Variance of the entropy over still-masked positions, by denoising step."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(curve)), curve, marker="o", markersize=3)
    axes.set(xlabel="denoising step", ylabel="entropy variance (nats²)", title="Trajectory discrimination")
    axes.grid(alpha=0.3)
    return figure


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
