"""Tables and figures over settings; every expected number is worked out by hand."""

import numpy as np
import pytest

from tabom.reporting.comparison import Column, short_names
from tabom.reporting.sensitivity import Setting, plot_sensitivity, sensitivity_rows

PERCENT = Column("accuracy", "accuracy, %", scale=100)
MARGIN, WEIGHT = "objective.margin", "objective.rank_weight"
GRID = [
    Setting({MARGIN: 0.1, WEIGHT: 1.0}, 0.4, 0.02),
    Setting({MARGIN: 0.1, WEIGHT: 1.0}, 0.6),
    Setting({MARGIN: 0.2, WEIGHT: 1.0}, 0.7),
    Setting({MARGIN: 0.1, WEIGHT: 2.0}, 0.3),
]
ONE_KEY = [Setting({MARGIN: s.values[MARGIN]}, s.metric) for s in GRID[:3]]


@pytest.mark.parametrize(
    ("keys", "names"),
    [
        ([], []),
        (["a.init_args.lr"], ["lr"]),
        (["a.x.lr", "b.x.lr", "b.margin"], ["a.x.lr", "b.x.lr", "margin"]),
        (["a.y.lr", "a.x.lr"], ["y.lr", "x.lr"]),
        (["lr", "x.lr"], ["lr", "x.lr"]),
    ],
)
def test_names_are_as_short_as_they_can_be(keys, names):
    assert short_names(keys) == dict(zip(keys, names, strict=True))


def test_rows():
    """Mean of 40 and 60 is 50, their standard deviation 14.14; one of them has an error over its questions."""
    assert sensitivity_rows(GRID, PERCENT) == [
        ["margin", "rank weight", "seeds", "accuracy, %"],
        ["0.2", "1", "1", "70.0 (best)"],
        ["0.1", "1", "2", "50.0 ± 2.0 (seeds ± 14.1)"],
        ["0.1", "2", "1", "30.0"],
    ]


def test_the_lowest_is_the_best_where_it_is_to_be_minimized():
    rows = sensitivity_rows(GRID, Column("kl", "KL", digits=2), "minimize")
    assert [row[3] for row in rows[1:]] == ["0.30 (best)", "0.50 ± 0.02 (seeds ± 0.14)", "0.70"]


def test_a_single_combination_is_no_best_one():
    settings = [Setting({"surrogate": "logistic"}, 0.5)]
    assert sensitivity_rows(settings, Column("kl", "KL"))[1] == ["logistic", "1", "0.5"]


def test_one_numeric_key_is_a_curve_with_the_spread_over_seeds():
    (axes,) = plot_sensitivity(ONE_KEY, "tabom", PERCENT).axes
    (bars,) = axes.containers
    line, _, (spread,) = bars.lines
    np.testing.assert_allclose(line.get_xydata(), [[0.1, 50], [0.2, 70]])
    (first, second) = spread.get_segments()
    np.testing.assert_allclose(first, [[0.1, 50 - 200**0.5], [0.1, 50 + 200**0.5]])
    np.testing.assert_allclose(second, [[0.2, 70], [0.2, 70]])
    np.testing.assert_allclose(axes.collections[0].get_offsets(), [[0.1, 40], [0.1, 60], [0.2, 70]])
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_xscale()) == ("margin", "accuracy, %", "linear")


def test_two_keys_are_a_heat_map():
    axes, _ = plot_sensitivity(GRID, "tabom", PERCENT).axes
    np.testing.assert_allclose(axes.images[0].get_array().filled(np.nan), [[50, 30], [70, np.nan]])
    assert {text.get_position(): text.get_text() for text in axes.texts} == {
        (0, 0): "50.0\n± 14.1",
        (1, 0): "30.0",
        (0, 1): "70.0",
    }
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["0.1", "0.2"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("rank weight", "margin")


def test_dark_cells_have_light_numbers():
    axes, _ = plot_sensitivity(GRID, "", Column("", "", digits=2)).axes
    colors = {text.get_text(): text.get_color() for text in axes.texts}
    assert colors == {"0.50\n± 0.14": "#111111", "0.30": "#ffffff", "0.70": "#111111"}


def test_two_keys_that_form_no_grid_and_more_keys_are_panels():
    scattered = [Setting({"a": index / 7, "b": 10.0 ** (index - 2)}, index / 10) for index in range(5)]
    first, second = plot_sensitivity(scattered, "bayes", Column("", "accuracy")).axes
    assert (first.get_xscale(), second.get_xscale()) == ("linear", "log")
    assert first.containers == second.containers == []
    np.testing.assert_allclose(first.collections[0].get_offsets()[:, 1], [0, 0.1, 0.2, 0.3, 0.4])

    three = [Setting({**s.values, "surrogate": kind}, s.metric) for s in GRID for kind in ("hinge", "logistic")]
    panels = [axes for axes in plot_sensitivity(three, "", Column("", "")).axes if axes.axison]
    assert [axes.get_xlabel() for axes in panels] == ["margin", "rank weight", "surrogate"]
    line = panels[0].containers[0].lines[0].get_xydata()
    np.testing.assert_allclose(line, [[0.1, (0.4 + 0.6 + 0.3) / 3], [0.2, 0.7]])
    assert [label.get_text() for label in panels[2].get_xticklabels()] == ["hinge", "logistic"]
