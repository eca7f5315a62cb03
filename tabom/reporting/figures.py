"""Figures that compare runs, drawn without a display."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tabom.reporting.comparison import MethodResult
from tabom.reporting.curves import line_style


def gains(results: Sequence[MethodResult], base_accuracy: float, metric: str) -> pd.DataFrame:
    """``kl`` (nats) and ``gain`` (points over the base) of every result, by method and learning rate."""
    return pd.DataFrame(
        {
            "method": [result.method for result in results],
            "learning_rate": [result.learning_rate for result in results],
            "kl": [result.metrics["kl"] for result in results],
            "gain": [100 * (result.metrics[metric] - base_accuracy) for result in results],
        }
    ).set_index(["method", "learning_rate"])


def plot_gain_against_forgetting(results: Sequence[MethodResult], base_accuracy: float) -> Figure:
    """Accuracy gained over the base against KL from it: a large point a method, small ones for its seeds.

    Each method stands at one learning rate; only points of equal forgetting may be compared.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    points = gains(results, base_accuracy, "accuracy_1_per_step")
    for index, (method, group) in enumerate(points.groupby("method", sort=False)):
        color = f"C{index}"
        axes.scatter(group["kl"], group["gain"], s=14, color=color, alpha=0.5)
        axes.scatter(group["kl"].mean(), group["gain"].mean(), s=70, color=color, label=method)
    _label_axes(axes, "forgetting: KL(base || model) on base-domain text (nats)")
    axes.set(xscale="log", title="New-domain gain against base-domain forgetting")
    axes.legend()
    return figure


def plot_frontiers(results: Sequence[MethodResult], base: MethodResult, metric: str = "accuracy_1_per_step") -> Figure:
    """Accuracy gained over the base against KL from it: one line a method, through its learning rates.

    A marker is the mean over the seeds of one learning rate; every line starts at the base. A method with a single
    learning rate is a point without a line. Methods differ in marker and line as well as in colour.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    points = gains(results, base.metrics[metric], metric)
    for index, (method, own) in enumerate(points.groupby("method", sort=False)):
        means = own.groupby("learning_rate", dropna=False).mean().to_numpy().tolist()
        line = sorted([[0.0, 0.0], *means] if len(means) > 1 else means)
        axes.plot(*zip(*line, strict=True), **line_style(index), markersize=5, linewidth=1.3, label=method)
    axes.set_xlim(left=0)
    axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    _label_axes(axes, "forgetting: KL(base || model) on base-domain text\n(nats, square-root scale)")
    axes.set(title="Gain against forgetting over learning rates")
    figure.legend(loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    return figure


def _label_axes(axes: Axes, xlabel: str) -> None:
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(xlabel=xlabel, ylabel="accuracy gained (points)")
    axes.grid(alpha=0.3)
