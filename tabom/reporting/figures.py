"""Figures that compare runs, drawn without a display."""

import statistics
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from tabom.reporting.comparison import MethodResult, grouped
from tabom.reporting.curves import line_style


def mean_gains(results: Sequence[MethodResult], base_accuracy: float, metric: str) -> pd.DataFrame:
    """One row a method and learning rate: these, the number of seeds, mean KL (nats) and mean gain (points)."""
    points = [(r.method, r.learning_rate, r.metrics["kl"], 100 * (r.metrics[metric] - base_accuracy)) for r in results]
    frame = pd.DataFrame(points, columns=["method", "learning_rate", "kl", "gain"])
    groups = frame.groupby(["method", "learning_rate"], sort=False, dropna=False)
    return groups.agg(seeds=("kl", "size"), kl=("kl", "mean"), gain=("gain", "mean")).reset_index()


def plot_gain_against_forgetting(results: Sequence[MethodResult], base_accuracy: float) -> Figure:
    """Accuracy gained over the base against KL from it: a large point a method, small ones for its seeds.

    Each method stands at one learning rate; only points of equal forgetting may be compared.
    """
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    for index, (method, group) in enumerate(grouped(results, lambda result: result.method).items()):
        kl = [result.metrics["kl"] for result in group]
        gain = [100 * (result.metrics["accuracy_1_per_step"] - base_accuracy) for result in group]
        axes.scatter(kl, gain, s=14, color=f"C{index}", alpha=0.5)
        axes.scatter(statistics.mean(kl), statistics.mean(gain), s=70, color=f"C{index}", label=method)
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
    means = mean_gains(results, base.metrics[metric], metric)
    for index, (method, own) in enumerate(means.groupby("method", sort=False)):
        line = sorted(([(0.0, 0.0)] if len(own) > 1 else []) + list(zip(own["kl"], own["gain"], strict=True)))
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
