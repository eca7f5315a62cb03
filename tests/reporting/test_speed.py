"""Accuracy against tokens per network call."""

import math

import pytest
from records import benchmark_line, check, write_record

from tabom.reporting.report import sections
from tabom.reporting.results import collect
from tabom.reporting.speed import accuracy_under_parallelism
from tabom.storage.run_record import find_records


def test_area_by_hand():
    """Curve of three points, of which the last is more than five points below the first."""
    points = [(3.0, 70.0), (1.0, 80.0), (2.0, 78.0)]
    weight = math.exp(-3 * (1 - 78 / 84)), math.exp(-3 * (1 - 80 / 84))
    assert accuracy_under_parallelism(points, 84.0) == pytest.approx(80 + (78 * weight[0] + 80 * weight[1]) / 2)


def test_points_five_points_below_still_count():
    points = [(1.0, 80.0), (2.0, 75.0)]
    weight = math.exp(-3 * (1 - 75 / 80))
    assert accuracy_under_parallelism(points, 80.0) == pytest.approx(80 + (75 * weight + 80) / 2)


def test_one_point_is_its_rectangle():
    assert accuracy_under_parallelism([(2.0, 50.0)], 90.0) == pytest.approx(100)


def read(directory):
    records = find_records([directory])
    return {part.title: part for part in sections(records, collect(records))}


def test_tests_at_several_numbers_of_tokens(tmp_path):
    speeds = {"accuracy_1_per_step": 0.8, "accuracy_2_per_step": 0.78, "accuracy_4_per_step": 0.7}
    write_record(tmp_path, "test", "b", lines=[check("test", 0, kl=0.0, **speeds)])
    weight = math.exp(-3 * (1 - 78 / 80))
    (table,) = read(tmp_path)["Speed against accuracy"].tables
    assert table.rows == [
        ["model", "AUP ↑", "accuracy, %, at tokens per network call"],
        ["base", f"{80 + (78 * weight + 80) / 2:.1f}", "80.0 at 1.00, 78.0 at 2.00, 70.0 at 4.00"],
    ]


def test_benchmarks_by_what_a_response_cost(tmp_path):
    """Two schedules of one model; a model at one speed alone has no curve."""
    for number, (steps, scores, sampler) in enumerate(
        [(100, (1, 1, 1, 0), {}), (40, (1, 1, 0, 0), {"schedule": {"threshold": 0.9}})]
    ):
        line = benchmark_line("mine", scores, cost={"num_steps": steps, "num_tokens": 100}, sampler=sampler)
        write_record(tmp_path / f"m{number}", "evaluate", f"m{number}", lines=[line], num_tokens=0)
    other = benchmark_line("other", (1, 0, 0, 0), cost={"num_steps": 100, "num_tokens": 100})
    write_record(tmp_path / "o", "evaluate", "o", lines=[other], num_tokens=0)
    (table,) = read(tmp_path)["Speed against accuracy"].tables
    assert table.caption.startswith("gsm8k")
    assert [row[0] for row in table.rows[1:]] == ["mine"]
    assert table.rows[1][1:] == ["75.0", "75.0 at 1.00, 50.0 at 2.50"]


def test_no_curve_is_said(tmp_path):
    write_record(tmp_path, "test", "b", lines=[check("test", 0, accuracy_1_per_step=0.5)])
    texts = [text for part in read(tmp_path).values() for text in part.paragraphs]
    assert any(text.startswith("No curve of accuracy against speed") for text in texts)
