"""Hand-made curves; roots of the KL are round: 0.04 is 0.2 squared."""

import math

import numpy as np
import pytest

from tabom.errors import TabomError
from tabom.reporting.comparison import MethodResult
from tabom.reporting.figures import plot_frontiers
from tabom.reporting.frontier import (
    Matched,
    Point,
    accuracy_at,
    frontier_rows,
    match,
    matched_levels,
    seed_curves,
)

BASE = MethodResult("base", 0, {"kl": 0.0, "accuracy": 0.4, "accuracy_1_per_step": 0.4})


def result(method, seed, rate, kl, accuracy):
    return MethodResult(method, seed, {"kl": kl, "accuracy": accuracy, "accuracy_1_per_step": accuracy}, rate)


RESULTS = [
    result("SFT-SD", 1, 1e-3, 0.04, 0.6),
    result("SFT-SD", 1, 2e-3, 0.16, 0.8),
    result("SFT-SD", 2, 1e-3, 0.04, 0.5),
    result("SFT-SD", 2, 2e-3, 0.16, 0.9),
    result("TABOM", 1, 1e-3, 0.01, 0.5),
    result("TABOM", 1, 2e-3, 0.09, 0.7),
    result("TABOM", 2, 1e-3, 0.01, 0.6),
    result("TABOM", 2, 2e-3, 0.04, 0.7),
]
CURVES = seed_curves(RESULTS, BASE, "accuracy")


def test_every_curve_starts_at_the_base_and_is_sorted_by_kl():
    shuffled = seed_curves([RESULTS[5], RESULTS[4]], BASE, "accuracy")
    assert shuffled == {"TABOM": {1: [(0.0, 0.4), (0.01, 0.5), (0.09, 0.7)]}}


@pytest.mark.parametrize(
    ("kl", "accuracy"),
    [(0.0, 0.4), (0.01, 0.5), (0.04, 0.6), (0.09, 0.5), (0.16, 0.4), (0.1601, None)],
)
def test_linear_in_the_root_of_the_kl_between_neighbours_and_nothing_beyond(kl, accuracy):
    """A curve that falls again; 0.01 and 0.09 are half-way in the root."""
    curve = [Point(0.0, 0.4), Point(0.04, 0.6), Point(0.16, 0.4)]
    assert accuracy_at(curve, kl) == (None if accuracy is None else pytest.approx(accuracy))


def test_models_of_equal_kl():
    assert accuracy_at([Point(0.0, 0.4), Point(0.0, 0.5), Point(0.04, 0.7)], 0.0) == 0.4
    assert accuracy_at([Point(0.0, 0.4), Point(0.0, 0.5), Point(0.04, 0.7)], 0.01) == pytest.approx(0.6)


def test_levels_are_what_all_seeds_of_all_methods_reach():
    """TABOM's second seed ends at 0.04, with root 0.2: parts 0.05, 0.1, 0.15, 0.2; 0.0225 is rounded down."""
    assert matched_levels(CURVES) == [0.0025, 0.01, 0.022, 0.04]
    ends = {"a": {1: [Point(0.0, 0.1), Point(0.056789, 0.2)]}}
    assert matched_levels(ends, num_levels=1) == [0.056]


def test_difference_is_paired_by_seed():
    """At 0.04 TABOM has 0.5 + (0.2 - 0.1) / 0.2 * 0.2 = 0.6 and 0.7, SFT-SD 0.6 and 0.5: differences 0.0 and 0.2."""
    matched = match(CURVES, "TABOM", 0.04, "SFT-SD")
    assert matched is not None
    assert matched.accuracy == pytest.approx(0.65)
    assert matched.difference == pytest.approx(0.1)
    assert matched.standard_error == pytest.approx(math.sqrt(0.02) / math.sqrt(2))
    assert match(CURVES, "SFT-SD", 0.04, "SFT-SD") == Matched(pytest.approx(0.55))


def test_one_seed_has_no_standard_error():
    curves = seed_curves([r for r in RESULTS if r.seed == 1], BASE, "accuracy")
    assert match(curves, "TABOM", 0.04, "SFT-SD") == Matched(pytest.approx(0.6), pytest.approx(0.0, abs=1e-12), None)


def test_no_number_unless_every_seed_goes_so_far():
    """0.09 is reached by TABOM's first seed alone; then SFT-SD lacks a seed, or does not go so far, or is missing."""
    assert match(CURVES, "TABOM", 0.09, "SFT-SD") is None
    first = {"TABOM": CURVES["TABOM"], "SFT-SD": {1: CURVES["SFT-SD"][1]}}
    assert match(first, "TABOM", 0.04, "SFT-SD") == Matched(pytest.approx(0.65))
    assert match(CURVES, "SFT-SD", 0.16, "TABOM") == Matched(pytest.approx(0.85))
    assert match(CURVES, "TABOM", 0.04, "T3D") == Matched(pytest.approx(0.65))


def test_table():
    one_seed = seed_curves([r for r in RESULTS if r.seed == 2], BASE, "accuracy")
    assert frontier_rows(CURVES, [0.04, 0.16], "SFT-SD") == [
        ["method", "seeds", "KL up to", "KL 0.04", "KL 0.16"],
        ["SFT-SD", "2", "0.160", "55.0", "85.0"],
        ["TABOM", "2", "0.040", "65.0 (+10.0 ± 10.0)", "-"],
    ]
    assert frontier_rows(one_seed, [0.04], "SFT-SD")[2] == ["TABOM", "1", "0.040", "70.0 (+20.0)"]
    with pytest.raises(TabomError) as error:
        frontier_rows(CURVES, [0.1, 0.0], "SFT-SD")
    assert str(error.value) == "kl_levels: expected numbers above 0 nats, got [0.1, 0.0]"


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


def test_ten_methods_are_told_apart():
    results = [result(f"method {index}", 1, 1e-3, 0.01, 0.5) for index in range(10)]
    lines = plot_frontiers(results, BASE).axes[0].lines[:-1]
    assert len({(line.get_color(), line.get_marker(), line.get_linestyle()) for line in lines}) == 10
    assert len({line.get_marker() for line in lines}) == 10
