"""Methods over several base models: each base is one replicate, and methods are paired within it.

How much a method gains depends on the base more than on the method, so that seeds of one base say little about the
next one. Here the seeds of a base are averaged, and every error is one over bases.
"""

import statistics
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from scipy.special import stdtr, stdtrit  # Student's distribution and its quantiles

from tabom.reporting.comparison import MISSING, POINTS, Frame, Rows, table_rows
from tabom.reporting.curves import line_style
from tabom.reporting.frontier import accuracies_at, dress_frontier, matched_levels
from tabom.reporting.names import title_of
from tabom.reporting.page import Plot, Section, Table
from tabom.reporting.results import Results

CONFIDENCE, POWER = 0.95, 0.8
_NUM_POINTS = 24


def frontier_of_bases(results: Results, metric: str, baseline: str, levels: Sequence[float] | None) -> Section | str:
    """The section on gain against forgetting, where every base model is one replicate.

    Args:
        results: Of several bases, each of them measured.
        metric: Accuracy that is set against forgetting.
        baseline: Method that differences are taken to, as it is shown.
        levels: KL at which methods are compared; None are those that all of them reach.

    Returns:
        A sentence where there is nothing to compare.
    """
    points = frontier_points(results, metric)
    rates = points.groupby("method")["learning_rate"].nunique()
    compared = points[points["method"].isin(rates.index[rates > 1])]
    if compared.empty:
        return "No frontier: no method has several learning rates and a KL from its base beside its accuracy."
    what, num = title_of(metric), len(results.base_models)
    gains = gains_at(compared, metric, levels or common_levels(compared))
    known = baseline if baseline in gains.index.unique("method") else None
    rows = difference_rows(gains, known)
    caption = f"Points gained in {what} at matched forgetting, KL(base || model) in nats per token"
    tables = []
    if known:
        caption += (
            f"; in brackets the difference to {known} on the same bases with its 95 % interval; *: more than chance, "
            "corrected for all comparisons of the table (Holm)"
        )
        title = "Smallest true difference that would have been found in 80 % of such studies, points"
        tables = [Table(title, _visible_rows(gains, known), is_folded=True)]
    text = (
        f"{num} base models; each is one replicate, its seeds are averaged. Methods are compared at equal KL "
        "from their base, on the same bases."
    )
    plot = Plot(
        "frontier",
        f"Points gained over the base in {what}, against KL: median over the bases, and their range.",
        f"Median gain over {num} bases against KL, one line a method. {' '.join(base_findings(gains, baseline, what))}",
        plot_gain_bands(compared, metric),
        rows,
    )
    tables = [Table(f"{caption}; {MISSING}: not every base goes so far", rows), *tables]
    return Section("Gain against forgetting", [text], [plot], tables)


def frontier_points(results: Results, metric: str) -> Frame:
    """What :meth:`Results.on_frontier` gives, with the columns ``base`` and ``base_accuracy`` of each model's base.

    Args:
        results: Of several bases, each of them measured.
        metric: Accuracy that has to be known, beside ``kl``.
    """
    parts = []
    for name, own in results.by_base().items():
        points = own.on_frontier().reindex(columns=["method", "seed", "learning_rate", "kl", metric])
        accuracy = statistics.mean(model.values[metric] for model in own.base)  # noqa: PD011 no frame
        parts.append(points.assign(base=name, base_accuracy=accuracy))
    return pd.concat(parts, ignore_index=True).dropna(subset=["kl", metric])


def common_levels(points: Frame) -> list[float]:
    """KL values that every method reaches with every seed of every base."""
    return matched_levels(points.assign(seed=_place(points)))


def gains_at(points: Frame, metric: str, levels: Sequence[float]) -> Frame:
    """Points that each method gained over its own base at given forgetting.

    Args:
        points: From :func:`frontier_points`.
        metric: Accuracy in question.
        levels: KL values above 0.

    Returns:
        One row a method and base (the index), one column a level; NaN unless every seed of that base goes so far.
    """

    def of_base(own: Frame) -> Frame:
        base = own["base_accuracy"].iloc[0]
        gains = 100 * (accuracies_at(own, base, metric, levels) - base)
        return gains.groupby("method", sort=False).agg(lambda column: column.mean(skipna=False))

    gains = pd.concat({name: of_base(own) for name, own in points.groupby("base", sort=False)}, names=["base"])
    return gains.swaplevel()


def paired_differences(gains: Frame, baseline: str) -> Frame:
    """Each method's gain beside the baseline's on the same bases, at each level.

    Args:
        gains: From :func:`gains_at`.
        baseline: Method that the others are compared with.

    Returns:
        One row a method and level where both are known on at least two bases: ``num`` of bases, ``mean`` (points),
        ``low`` and ``high`` (95 % interval of Student's t over the bases), ``p`` (two-sided, corrected after Holm,
        Scandinavian Journal of Statistics 6, 1979, for all rows together), and ``visible``: the smallest true
        difference that would have been found with a probability of 80 %, before the correction.
    """
    rows = []
    own = gains.loc[baseline]
    for method in gains.index.unique("method").drop(baseline):
        for level, difference in (gains.loc[method] - own).items():
            known = difference.dropna()
            if (num := len(known)) < 2:
                continue
            error = known.sem()
            reach = stdtrit(num - 1, (1 + CONFIDENCE) / 2) * error
            p = 2 * stdtr(num - 1, -abs(known.mean()) / error) if error else float(known.mean() == 0)
            visible = reach + stdtrit(num - 1, POWER) * error
            rows.append([method, level, num, known.mean(), known.mean() - reach, known.mean() + reach, p, visible])
    names = ["method", "level", "num", "mean", "low", "high", "p", "visible"]
    table: Frame = pd.DataFrame(rows, columns=names)
    return table.assign(p=_holm(table["p"].to_numpy(dtype=float)))


def difference_rows(gains: Frame, baseline: str | None) -> Rows:
    """Head, then one row a method: name, then a cell a level.

    A cell holds the mean gain over the bases in points and, in brackets, the difference to the baseline with its
    interval, and a star where that is more than chance; a dash where not every base goes so far.
    """
    differences = paired_differences(gains, baseline) if baseline else None
    cells = {} if differences is None else {(row.method, row.level): row for row in differences.itertuples()}

    def cell(method: str, level: float, own: pd.Series) -> str:
        if own.hasnans:
            return MISSING
        text, beside = f"{own.mean():+.1f}", cells.get((method, level))
        if beside is None:
            return text
        star = "*" if beside.p < 1 - CONFIDENCE else ""
        return f"{text} ({beside.mean:+.1f}{star} [{beside.low:+.1f}, {beside.high:+.1f}])"

    return table_rows(
        {"method": str(method), "bases": str(len(own))}
        | {f"KL {level:g}": cell(method, level, own[level]) for level in gains.columns}
        for method, own in gains.groupby("method", sort=False)
    )


def _visible_rows(gains: Frame, baseline: str) -> Rows:
    groups = paired_differences(gains, baseline).groupby("method", sort=False)
    visible = {method: own.set_index("level")["visible"].reindex(gains.columns) for method, own in groups}
    return table_rows(
        {"method": str(method)}
        | {f"KL {level:g}": MISSING if pd.isna(value) else f"{value:.1f}" for level, value in own.items()}
        for method, own in visible.items()
    )


def base_findings(gains: Frame, baseline: str, what: str) -> Iterator[str]:
    """At each level the method that gained most, beside the baseline; one sentence each."""
    has_baseline = baseline in gains.index.unique("method")
    differences = paired_differences(gains, baseline).set_index(["method", "level"]) if has_baseline else None
    for level in gains.columns:
        means = gains[level].groupby("method").agg(lambda column: column.mean(skipna=False)).dropna()
        if means.empty:
            continue
        best = str(means.idxmax())
        own = gains[level].loc[best]
        text = (
            f"At KL {level:g}, {best} gains most in {what}: {POINTS.with_error(own.mean() / 100, own.sem() / 100)} "
            f"points over its base (mean of {len(own)} bases ± standard error)"
        )
        if differences is not None and (best, level) in differences.index:
            row = differences.loc[best, level]
            chance = "more" if row["p"] < 1 - CONFIDENCE else "no more"
            text += (
                f"; against {baseline} {row['mean']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}], {chance} than chance"
            )
        yield f"{text}."


def plot_gain_bands(points: Frame, metric: str) -> Figure:
    """Median gain over the bases against KL, with a band from the lowest to the highest base: one line a method.

    A line goes as far as every seed of every base does; a method with one learning rate is not drawn.
    """
    figure = Figure(figsize=(5.2, 5), layout="constrained")
    axes = figure.subplots()
    for index, (method, own) in enumerate(points.groupby("method", sort=False)):
        if own["learning_rate"].nunique() < 2:
            continue
        end = own.groupby(["base", "seed"])["kl"].max().min()
        levels = end * np.linspace(1 / _NUM_POINTS, 1, _NUM_POINTS) ** 2
        gains = gains_at(own, metric, levels.tolist())
        style, grid = line_style(index), [0.0, *levels]
        (line,) = axes.plot(grid, [0.0, *gains.median()], **style, linewidth=1.3, label=method)
        line.set_marker("")
        axes.fill_between(grid, [0.0, *gains.min()], [0.0, *gains.max()], color=style["color"], alpha=0.08)
    dress_frontier(axes, "Median gain over the bases, and their range")
    figure.legend(loc="outside lower center", fontsize="small", ncols=2, frameon=False)
    return figure


def _place(points: Frame) -> pd.Series:
    return points["base"] + " " + points["seed"].astype(str)


def _holm(p: np.ndarray) -> np.ndarray:
    """P-values that hold for all comparisons together: the smallest times their number, the next times one less."""
    order = np.argsort(p)
    corrected = np.empty_like(p)
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return corrected.clip(max=1.0)
