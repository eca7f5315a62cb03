"""Figures, drawn without a display."""

from collections.abc import Sequence

from matplotlib.figure import Figure


def plot_discrimination_curve(curve: Sequence[float]) -> Figure:
    """Variance of the entropy over still-masked positions, by denoising step."""
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(range(len(curve)), curve, marker="o", markersize=3)
    axes.set(xlabel="denoising step", ylabel="entropy variance (nats²)", title="Trajectory discrimination")
    axes.grid(alpha=0.3)
    return figure
