"""Figures of one run, drawn without a display."""

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers tell apart, without the yellow that is faint on white.
COLORS = ("#000000", "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = "osD^vP*Xph"
LINES = ("-", "--", ":")
CURVES = {
    "tds": ("Trajectory discrimination", "denoising step", "entropy variance (nats²)"),
    "tds_by_share": ("Trajectory discrimination by share", "share of the response decoded", "entropy variance (nats²)"),
    "unmask_entropy": ("Entropy when revealed", "denoising step", "mean entropy (nats)"),
}
"""Title and axes by the names in ``Validation.curves``, without those of the cross-entropies."""
_WIDE = 5  # times the usual highest value, from where one line would flatten the others
_MAX_LEGEND = 3  # lines up to which the legend stands among them
Line = tuple[Sequence[float], Sequence[float]]


def curve_positions(name: str, num: int, mask_ratios: Sequence[float]) -> Sequence[float]:
    """Where the points of a curve stand: at mask ratios, at the middles of shares, or at steps."""
    if name.startswith("ce_"):
        return mask_ratios
    return [(index + 0.5) / num for index in range(num)] if name == "tds_by_share" else range(num)


def validation_figures(curves: Mapping[str, Sequence[float]], mask_ratios: Sequence[float]) -> dict[str, Figure]:
    """What one validation measured along a curve.

    Args:
        curves: By the names in ``Validation.curves``; NaN where there is no point.
        mask_ratios: At which the cross-entropies were measured.

    Returns:
        By name: ``tds_curve`` (Fig. 2 of the paper), ``tds_by_share``, ``entropy_by_step`` and ``ce_by_mask_ratio``
        (Fig. 3), as far as their curves are there.
    """
    names = {"tds": "tds_curve", "tds_by_share": "tds_by_share", "unmask_entropy": "entropy_by_step"}
    lines = {name: (curve_positions(name, len(curve), mask_ratios), curve) for name, curve in curves.items()}
    figures = {figure: plot_lines({"": lines[name]}, *CURVES[name]) for name, figure in names.items() if name in lines}
    ratios = {name[3:].replace("_", " "): line for name, line in lines.items() if name.startswith("ce_")}
    if ratios:
        titles = ("Cross-entropy of held-out answers", "mask ratio", "nats per masked token")
        figures["ce_by_mask_ratio"] = plot_lines(ratios, *titles)
    return figures


def training_figures(
    violations: Sequence[tuple[int, float]], checks: Sequence[tuple[float, float]]
) -> dict[str, Figure]:
    """What changed over a training.

    Args:
        violations: Optimizer step, and share of the segments' pairs whose entropies contradict the decoding order.
        checks: KL from the base (nats) and accuracy at every check on validation.

    Returns:
        By name: ``ranking_violations`` and ``accuracy_against_forgetting``, as far as there are points.
    """
    figures: dict[str, Figure] = {}
    if violations:
        steps, shares = zip(*violations, strict=True)
        titles = ("Ranking violations", "optimizer step", "share of the pairs")
        figures["ranking_violations"] = plot_lines({"": (steps, shares)}, *titles)
    if checks:
        kl, accuracy = zip(*checks, strict=True)
        titles = ("Checks on validation, in order", "forgetting: KL(base || model) (nats)", "accuracy (%)")
        line = kl, [100 * value for value in accuracy]
        figures["accuracy_against_forgetting"] = plot_lines({"": line}, *titles)
    return figures


def line_style(index: int) -> dict[str, Any]:
    """Colour, marker and line of one of several methods, which differ in all of them."""
    parts = {"color": COLORS, "marker": MARKERS, "linestyle": LINES}
    return {name: values[index % len(values)] for name, values in parts.items()}


def plot_lines(lines: Mapping[str, Line], title: str, xlabel: str, ylabel: str) -> Figure:
    """Lines by name with markers; an empty name gets no legend, and many names one below the axes.

    Values are on a logarithmic scale where one line goes so much higher that it would flatten the others.
    """
    is_crowded = len(lines) > _MAX_LEGEND
    layout = "constrained" if is_crowded else "tight"  # the slower one knows legends outside
    figure = Figure(figsize=(5, 3.2 + 0.1 * len(lines) * is_crowded), layout=layout)
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, **line_style(index), markersize=3, linewidth=1.3, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    if _is_wide([y for _, y in lines.values()]):
        axes.set_yscale("log")
    axes.grid(alpha=0.3)
    if is_crowded:
        figure.legend(loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    elif all(lines):
        axes.legend(frameon=False, fontsize="small")
    return figure


def _is_wide(lines: Sequence[Sequence[float]]) -> bool:
    """Whether one of several lines goes far beyond the others, and all values are above 0."""
    known = [[value for value in line if value == value] for line in lines]
    highest = [max(line) for line in known if line]
    return len(highest) > 1 and min(map(min, filter(None, known))) > 0 and max(highest) > _WIDE * median(highest)
