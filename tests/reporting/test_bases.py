"""Several base models: pairs within a base, errors over bases."""

import numpy as np
import pandas as pd
import pytest
from records import check, write_record
from scipy import stats

from tabom.cli.main import main
from tabom.reporting.bases import (
    common_levels,
    difference_rows,
    frontier_points,
    gains_at,
    paired_differences,
    plot_gain_bands,
)
from tabom.reporting.findings import finding
from tabom.reporting.report import sections
from tabom.reporting.results import collect
from tabom.storage.run_record import find_records

METRIC = "accuracy_1_per_step"
LEVELS = [0.01, 0.04]
BASES = {"a": 0.4, "b": 0.5, "c": 0.3}
# accuracy at KL .01 and .04, by method, base and seed
ACCURACIES = {
    "sft_sd": {"a": [(0.50, 0.60)], "b": [(0.60, 0.70)], "c": [(0.40, 0.50)]},
    "tabom": {"a": [(0.50, 0.64), (0.54, 0.68)], "b": [(0.62, 0.75)], "c": [(0.40, 0.54)]},
}


def write_base(directory, base, measured_base=True):
    backbone = {"class_path": "PretrainedBackbone", "init_args": {"path": f"runs/{base}"}}
    if measured_base:
        values = {METRIC: BASES[base], f"{METRIC}_error": 0.02, "kl": 0.0}
        write_record(directory / f"{base}", "test", base, ["configs/demo/tabom.yaml"], [check("test", 0, **values)],
                     backbone=backbone)  # fmt: skip
    for method, by_base in ACCURACIES.items():
        for seed, accuracies in enumerate(by_base[base], 1):
            for rate, kl, accuracy in zip((1e-3, 2e-3), LEVELS, accuracies, strict=True):
                name, files = f"{base}-{method}-{rate}-{seed}", [f"configs/demo/{method}.yaml"]
                values = {METRIC: accuracy, f"{METRIC}_error": 0.02, "kl": kl}
                options = {"seed": seed, "lr": rate, "backbone": backbone}
                write_record(directory / name, "fit", f"f-{name}", files, **options)
                lines = [check("test", **values)]
                write_record(directory / name, "test", f"t-{name}", files, lines, f"f-{name}", ckpt_path="x", **options)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    for base in BASES:
        write_base(directory, base)
    return directory


@pytest.fixture(scope="module")
def results(runs):
    return collect(find_records([runs]))


@pytest.fixture(scope="module")
def gains(results):
    return gains_at(frontier_points(results, METRIC), METRIC, LEVELS)


def test_gains_are_over_ones_own_base_and_means_over_its_seeds(gains):
    assert gains.loc[("SFT-SD", "runs/b")].tolist() == pytest.approx([10, 20])
    assert gains.loc[("TABOM", "runs/a")].tolist() == pytest.approx([12, 26])
    assert gains.loc[("TABOM", "runs/c")].tolist() == pytest.approx([10, 24])


def test_a_base_of_which_one_seed_does_not_go_so_far_has_no_gain(results):
    points = frontier_points(results, METRIC)
    short = points[~((points["base"] == "runs/a") & (points["seed"] == 2) & (points["kl"] > 0.02))]
    gains = gains_at(short, METRIC, LEVELS)
    assert np.isnan(gains.loc[("TABOM", "runs/a"), 0.04])
    assert not np.isnan(gains.loc[("TABOM", "runs/b"), 0.04])
    assert difference_rows(gains, "SFT-SD")[2][-1] == "-"
    assert common_levels(short)[-1] == 0.01


def test_differences_are_those_of_a_paired_t_test(gains):
    rows = paired_differences(gains, "SFT-SD").set_index("level")
    differences = {0.01: [2.0, 2.0, 0.0], 0.04: [6.0, 5.0, 4.0]}
    expected = {level: stats.ttest_1samp(values, 0) for level, values in differences.items()}
    for level, values in differences.items():
        interval = expected[level].confidence_interval(0.95)
        assert rows.loc[level, "mean"] == pytest.approx(np.mean(values))
        assert (rows.loc[level, "low"], rows.loc[level, "high"]) == pytest.approx((interval.low, interval.high))
        error = stats.sem(values)
        assert rows.loc[level, "visible"] == pytest.approx(error * (stats.t.ppf(0.975, 2) + stats.t.ppf(0.8, 2)))
    smaller, larger = expected[0.04].pvalue, expected[0.01].pvalue
    assert rows.loc[0.04, "p"] == pytest.approx(2 * smaller)  # after Holm
    assert rows.loc[0.01, "p"] == pytest.approx(max(2 * smaller, larger))


def test_holm_keeps_the_order_and_never_passes_one():
    index = pd.MultiIndex.from_product([["base", "x", "y"], list("abc")], names=["method", "base"])
    gains = pd.DataFrame({0.01: [0, 0, 0, 1, -1, 0.5, 3, 3.1, 3.2]}, index=index)
    p = paired_differences(gains, "base").set_index("method")["p"]
    assert p["x"] <= 1
    alone = stats.ttest_1samp([3, 3.1, 3.2], 0).pvalue
    assert p["y"] == pytest.approx(2 * alone)


def test_the_table_and_the_finding(gains, results):
    head, baseline, tabom = difference_rows(gains, "SFT-SD")
    assert head == ["method", "bases", "KL 0.01", "KL 0.04"]
    assert baseline == ["SFT-SD", "3", "+10.0", "+20.0"]
    assert tabom == ["TABOM", "3", "+11.3 (+1.3 [-1.5, +4.2])", "+25.0 (+5.0* [+2.5, +7.5])"]
    assert finding(results, METRIC, "sft_sd", LEVELS) == (
        "At KL 0.01, TABOM gains most in accuracy at 1 token per step: +11.3 ± 0.7 points over its base (mean of 3 "
        "bases ± standard error); against SFT-SD +1.3 [-1.5, +4.2], no more than chance. At KL 0.04, TABOM gains most "
        "in accuracy at 1 token per step: +25.0 ± 0.6 points over its base (mean of 3 bases ± standard error); against "
        "SFT-SD +5.0 [+2.5, +7.5], more than chance."
    )


def test_the_figure_is_a_median_within_a_band(results):
    figure = plot_gain_bands(frontier_points(results, METRIC), METRIC)
    axes = figure.axes[0]
    lines = {line.get_label(): line for line in axes.lines}
    assert lines["SFT-SD"].get_xdata()[[0, -1]].tolist() == pytest.approx([0, 0.04])
    assert lines["TABOM"].get_ydata()[[0, -1]].tolist() == pytest.approx([0, 25])
    assert axes.collections[1].get_datalim(axes.transData).ymax == pytest.approx(26)


def test_the_page(runs, results):
    content = {part.title: part for part in sections(find_records([runs]), results, METRIC, None, LEVELS)}
    assert not content["In short"].warnings
    rows = content["Results"].tables[0].rows
    assert [row[:3] for row in rows[:2]] == [
        ["method", "learning rate", "bases"],
        ["base", "-", "3"],
    ]
    assert rows[1][3].endswith("(bases ± 10.0)")
    gain = rows[0].index("gain, points ↑")
    found = {(row[0], row[1]): row[gain] for row in rows[1:]}
    assert found["SFT-SD", "0.002"] == "+20.0 ± 0.0"
    assert found["TABOM", "0.002"] == "+25.0 ± 0.6"
    tables = content["Gain against forgetting"].tables
    assert tables[0].rows[2][-1].startswith("+25.0 (+5.0*")
    assert tables[1].is_folded
    assert tables[1].rows[0] == ["method", "KL 0.01", "KL 0.04"]


def test_a_base_that_was_not_measured_makes_no_replicate(tmp_path):
    for base in ("a", "b"):
        write_base(tmp_path, base, measured_base=base == "a")
    records = find_records([tmp_path])
    content = sections(records, collect(records), METRIC)
    assert any("differ in their base model" in warning for warning in content[0].warnings)
    assert any("not every one was measured" in text for part in content for text in part.paragraphs)


@pytest.mark.parametrize("value", ["0", "-0.1"])
def test_levels_are_above_zero(runs, monkeypatch, capsys, value):
    monkeypatch.setattr("sys.argv", ["tabom", "report", str(runs), "-o", "x.html", "--levels", value])
    with pytest.raises(SystemExit):
        main()
    assert "--levels: expected" in capsys.readouterr().err
