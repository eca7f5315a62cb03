"""Figures of one run: which there are, and that their lines hold the values."""

import numpy as np
import pytest

from tabom.reporting.curves import plot_lines, training_figures, validation_figures

NAN = float("nan")
CURVES = {
    "tds": [0.3, 0.2, NAN],
    "tds_by_share": [0.4, 0.1],
    "unmask_entropy": [0.1, 0.2, 0.3],
    "ce_self_distilled": [0.5, 0.7],
    "ce_ground_truth": [2.0, 3.0],
}


def lines(figure):
    (axes,) = figure.axes
    return {line.get_label(): line.get_xydata().tolist() for line in axes.lines}


def test_lines_of_an_evaluation():
    figures = validation_figures(CURVES, mask_ratios=[0.2, 0.8])
    assert set(figures) == {"tds_curve", "tds_by_share", "entropy_by_step", "ce_by_mask_ratio"}
    (tds,) = lines(figures["tds_curve"]).values()
    np.testing.assert_equal(tds, [[0, 0.3], [1, 0.2], [2, NAN]])
    assert list(lines(figures["tds_by_share"]).values()) == [[[0.25, 0.4], [0.75, 0.1]]]
    assert list(lines(figures["entropy_by_step"]).values()) == [[[0, 0.1], [1, 0.2], [2, 0.3]]]
    assert lines(figures["ce_by_mask_ratio"]) == {
        "self distilled": [[0.2, 0.5], [0.8, 0.7]],
        "ground truth": [[0.2, 2.0], [0.8, 3.0]],
    }


def test_a_legend_where_lines_have_names():
    figures = validation_figures(CURVES, mask_ratios=[0.2, 0.8])
    has_legend = {name: figure.axes[0].get_legend() is not None for name, figure in figures.items()}
    assert [name for name, has in has_legend.items() if has] == ["ce_by_mask_ratio"]


@pytest.mark.parametrize(("name", "figure"), [("tds", "tds_curve"), ("ce_self_distilled", "ce_by_mask_ratio")])
def test_what_was_not_measured_is_not_drawn(name, figure):
    assert set(validation_figures({name: CURVES[name]}, mask_ratios=[0.2, 0.8])) == {figure}


@pytest.mark.parametrize(
    ("others", "scale"),
    [([[0.1, 0.2], [0.3, 0.2]], "log"), ([[2.0, 3.0], [0.1, 0.2]], "linear"), ([[0.0, 0.2], [0.3, 0.2]], "linear")],
)
def test_a_line_far_above_does_not_flatten_the_others(others, scale):
    """Two of three of the same height; a logarithmic axis has no place for 0."""
    lines = {str(number): ([1, 2], line) for number, line in enumerate([[5.0, NAN], *others])}
    (axes,) = plot_lines(lines, "", "", "").axes
    assert axes.get_yscale() == scale


def test_lines_of_a_training():
    figures = training_figures([(10, 0.4), (20, 0.3)], [(0.01, 0.5), (0.03, 0.6)])
    assert list(lines(figures["ranking_violations"]).values()) == [[[10, 0.4], [20, 0.3]]]
    assert list(lines(figures["accuracy_against_forgetting"]).values()) == [[[0.01, 50.0], [0.03, 60.0]]]
    assert training_figures([], []) == {}
