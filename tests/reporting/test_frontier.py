"""Hand-made curves; roots of the KL are round: 0.04 is 0.2 squared."""

import math

import numpy as np
import pytest

from tabom.reporting.comparison import measurements
from tabom.reporting.frontier import accuracies_at, frontier_rows, matched_levels, plot_frontiers

BASE = 0.4
METRIC = "accuracy_1_per_step"


def result(method, seed, rate, kl, accuracy):
    return method, seed, rate, {"kl": kl, METRIC: accuracy}


RESULTS = measurements(
    [
        result("SFT-SD", 1, 1e-3, 0.04, 0.6),
        result("SFT-SD", 1, 2e-3, 0.16, 0.8),
        result("SFT-SD", 2, 1e-3, 0.04, 0.5),
        result("SFT-SD", 2, 2e-3, 0.16, 0.9),
        result("TABOM", 1, 1e-3, 0.01, 0.5),
        result("TABOM", 1, 2e-3, 0.09, 0.7),
        result("TABOM", 2, 1e-3, 0.01, 0.6),
        result("TABOM", 2, 2e-3, 0.04, 0.7),
    ]
)
SEEDS, METHODS = RESULTS["seed"], RESULTS["method"]


def cells(method, level, baseline="SFT-SD", results=RESULTS):
    head, *rows = frontier_rows(results, BASE, METRIC, [level], baseline)
    assert head[-1] == f"KL {level:g}"
    return next(row[-1] for row in rows if row[0] == method)


@pytest.mark.parametrize(
    ("kl", "accuracy"),
    [(1e-12, 0.4), (0.01, 0.5), (0.04, 0.6), (0.09, 0.5), (0.16, 0.4), (0.1601, math.nan)],
)
def test_linear_in_the_root_of_the_kl_between_neighbours_and_nothing_beyond(kl, accuracy):
    """A curve that falls again, given in any order; 0.01 and 0.09 are half-way in the root."""
    curve = measurements([result("a", 1, 2e-3, 0.16, 0.4), result("a", 1, 1e-3, 0.04, 0.6)])
    found = accuracies_at(curve, BASE, METRIC, [kl]).loc[("a", 1), kl]
    assert found == pytest.approx(accuracy, abs=1e-5, nan_ok=True)


def test_models_of_equal_kl():
    curve = measurements([result("a", 1, 1e-3, 0.0, 0.5), result("a", 1, 2e-3, 0.04, 0.7)])
    assert accuracies_at(curve, BASE, METRIC, [0.01]).to_numpy() == pytest.approx(0.6)


def test_levels_are_what_all_seeds_of_all_methods_reach():
    """TABOM's second seed ends at 0.04, with root 0.2: parts 0.05, 0.1, 0.15, 0.2; 0.0225 is rounded down."""
    assert matched_levels(RESULTS) == [0.0025, 0.01, 0.022, 0.04]


def test_difference_to_the_same_seed_of_the_baseline():
    """At 0.04: TABOM 60 and 70, SFT-SD 60 and 50; differences 0 and 20, standard error 10."""
    assert cells("TABOM", 0.04) == "65.0 (+10.0 ± 10.0)"
    assert cells("SFT-SD", 0.04) == "55.0"


def test_no_number_unless_every_seed_goes_so_far():
    """0.09 is reached by TABOM's first seed alone; then SFT-SD lacks a seed, or does not go so far, or is missing."""
    assert cells("TABOM", 0.09) == "-"
    assert cells("TABOM", 0.04, results=RESULTS[(METHODS == "TABOM") | (SEEDS == 1)]) == "65.0"
    assert cells("SFT-SD", 0.16, baseline="TABOM") == "85.0"
    assert cells("TABOM", 0.04, baseline="T3D") == "65.0"


def test_table():
    assert frontier_rows(RESULTS, BASE, METRIC, [0.04, 0.16], "SFT-SD") == [
        ["method", "seeds", "KL up to", "KL 0.04", "KL 0.16"],
        ["SFT-SD", "2", "0.160", "55.0", "85.0"],
        ["TABOM", "2", "0.040", "65.0 (+10.0 ± 10.0)", "-"],
    ]
    one_seed = frontier_rows(RESULTS[SEEDS == 2], BASE, METRIC, [0.04], "SFT-SD")
    assert one_seed[2] == ["TABOM", "1", "0.040", "70.0 (+20.0)"]


def test_figure_has_one_line_a_method_from_the_base_through_the_means_over_seeds(tmp_path):
    figure = plot_frontiers(RESULTS, BASE)
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_xydata() for line in axes.lines[:-1]}
    np.testing.assert_allclose(lines["SFT-SD"], [[0, 0], [0.04, 15], [0.16, 45]])
    np.testing.assert_allclose(lines["TABOM"], [[0, 0], [0.01, 15], [0.065, 30]])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["SFT-SD", "TABOM"]
    left, middle, right = (axes.transData.transform((kl, 0))[0] for kl in (0, 0.01, 0.04))
    assert middle - left == pytest.approx(right - middle)
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000


def test_a_method_far_off_does_not_hide_the_others():
    results = measurements(result(name, 1, 1e-3, kl, 0.5) for name, kl in (("a", 0.02), ("b", 0.04), ("far", 5.0)))
    (axes,) = plot_frontiers(results, BASE).axes
    start, first, second, end = (axes.transData.transform((kl, 0))[0] for kl in (0, 0.02, 0.04, 5.0))
    assert min(first - start, second - first) > 0.08 * (end - start)
    assert "logarithmic" in axes.get_xlabel()


def test_ten_methods_are_told_apart():
    results = measurements(result(f"method {index}", 1, 1e-3, 0.01, 0.5) for index in range(10))
    lines = plot_frontiers(results, BASE).axes[0].lines[:-1]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 10
    assert len({line.get_marker() for line in lines}) == 10
