"""Figures of one run, drawn without a display."""

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from tabom.reporting.figures import line_style

_BY_STEP = "denoising step"
_MAX_LEGEND = 3  # lines up to which the legend stands among them


def validation_figures(curves: Mapping[str, Sequence[float]], mask_ratios: Sequence[float]) -> dict[str, Figure]:
    """What one validation measured along a curve.

    Args:
        curves: By the names in ``Validation.curves``; NaN where there is no point.
        mask_ratios: At which the cross-entropies were measured.

    Returns:
        By name: ``tds_curve`` (Fig. 2 of the paper), ``tds_by_share``, ``entropy_by_step`` and ``ce_by_mask_ratio``
        (Fig. 3), as far as their curves are there.
    """
    figures: dict[str, Figure] = {}
    if "tds" in curves:
        lines = {"": (range(len(curves["tds"])), curves["tds"])}
        figures["tds_curve"] = plot_lines(lines, "Trajectory discrimination", _BY_STEP, "entropy variance (nats²)")
    if "tds_by_share" in curves:
        num_bins = len(curves["tds_by_share"])
        middles = [(index + 0.5) / num_bins for index in range(num_bins)]
        figures["tds_by_share"] = plot_lines(
            {"": (middles, curves["tds_by_share"])},
            "Trajectory discrimination",
            "share of the response decoded",
            "entropy variance (nats²)",
        )
    if "unmask_entropy" in curves:
        lines = {"": (range(len(curves["unmask_entropy"])), curves["unmask_entropy"])}
        figures["entropy_by_step"] = plot_lines(lines, "Entropy when revealed", _BY_STEP, "mean entropy (nats)")
    by_ratio = {
        name.removeprefix("ce_").replace("_", " "): (mask_ratios, curve)
        for name, curve in curves.items()
        if name.startswith("ce_")
    }
    if by_ratio:
        figures["ce_by_mask_ratio"] = plot_lines(
            by_ratio, "Cross-entropy of held-out answers", "mask ratio", "nats a masked token"
        )
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
        figures["ranking_violations"] = plot_lines(
            {"": (steps, shares)}, "Ranking violations", "optimizer step", "share of the pairs"
        )
    if checks:
        kl, accuracy = zip(*checks, strict=True)
        figures["accuracy_against_forgetting"] = plot_lines(
            {"": (kl, [100 * value for value in accuracy])},
            "Checks on validation, in order",
            "forgetting: KL(base || model) (nats)",
            "accuracy (%)",
        )
    return figures


def plot_lines(
    lines: Mapping[str, tuple[Sequence[float], Sequence[float]]], title: str, xlabel: str, ylabel: str
) -> Figure:
    """Lines by name with markers; an empty name gets no legend, and many names one below the axes."""
    is_crowded = len(lines) > _MAX_LEGEND
    layout = "constrained" if is_crowded else "tight"  # the slower one knows legends outside
    figure = Figure(figsize=(5, 3.2 + 0.1 * len(lines) * is_crowded), layout=layout)
    axes = figure.subplots()
    for index, (name, (x, y)) in enumerate(lines.items()):
        axes.plot(x, y, **line_style(index), markersize=3, linewidth=1.3, label=name)
    axes.set(xlabel=xlabel, ylabel=ylabel, title=title)
    axes.grid(alpha=0.3)
    if is_crowded:
        figure.legend(loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    elif all(lines):
        axes.legend(frameon=False, fontsize="small")
    return figure
