"""Figures that compare runs, drawn without a display."""

import numpy as np
from matplotlib.figure import Figure

from tabom.reporting.comparison import Frame
from tabom.reporting.curves import line_style


def mean_gains(results: Frame, base_accuracy: float, metric: str) -> Frame:
    """One row a method and learning rate: these, the number of seeds, mean KL (nats) and mean gain (points)."""
    gains = results.assign(gain=100 * (results[metric] - base_accuracy))
    groups = gains.groupby(["method", "learning_rate"], sort=False, dropna=False)
    return groups.agg(seeds=("kl", "size"), kl=("kl", "mean"), gain=("gain", "mean")).reset_index()


def plot_frontiers(results: Frame, base_accuracy: float, metric: str = "accuracy_1_per_step") -> Figure:
    """Accuracy gained over the base against KL from it: one line a method, through its learning rates.

    A marker is the mean over the seeds of one learning rate; every line starts at the base. A method with a single
    learning rate is a point without a line. Methods differ in marker and line as well as in colour.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    means = mean_gains(results, base_accuracy, metric)
    for index, (method, own) in enumerate(means.groupby("method", sort=False)):
        line = sorted(([(0.0, 0.0)] if len(own) > 1 else []) + list(zip(own["kl"], own["gain"], strict=True)))
        axes.plot(*zip(*line, strict=True), **line_style(index), markersize=5, linewidth=1.3, label=method)
    axes.set_xlim(left=0)
    axes.set_xscale("function", functions=(lambda kl: np.sqrt(np.maximum(kl, 0)), np.square))
    axes.axhline(0, color="grey", linewidth=0.8)
    axes.set(
        title="Gain against forgetting over learning rates",
        xlabel="forgetting: KL(base || model) on base-domain text\n(nats, square-root scale)",
        ylabel="accuracy gained (points)",
    )
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    return figure
