import io

from rich.console import Console

from tabom.reporting.comparison import Column, comparison_rows, markdown_table, measurements, rich_table

COLUMNS = (Column("accuracy_1_per_step", "full %", scale=100), Column("kl", "KL", digits=3, is_signed=True))
RESULTS = measurements(
    [
        ("base", 0, None, {"accuracy_1_per_step": 0.4, "accuracy_1_per_step_error": 0.02, "kl": 0.0}),
        ("TABOM", 1, None, {"accuracy_1_per_step": 0.5, "accuracy_1_per_step_error": 0.02, "kl": 0.01}),
        ("TABOM", 2, None, {"accuracy_1_per_step": 0.7, "accuracy_1_per_step_error": 0.04, "kl": 0.03}),
    ]
)


def test_errors_over_the_questions_are_apart_from_those_over_the_seeds():
    """Mean of 2 and 4 points over the questions; standard deviation of 50 and 70: sqrt(10^2 + 10^2) = 14.14."""
    assert markdown_table(comparison_rows(RESULTS, COLUMNS)).splitlines() == [
        "| method | seeds | full % | KL |",
        "| --- | --- | --- | --- |",
        "| base | 1 | 40.0 ± 2.0 | +0.000 |",
        "| TABOM | 2 | 60.0 ± 3.0 (seeds ± 14.1) | +0.020 (seeds ± 0.014) |",
    ]


def test_learning_rates_that_differ_have_a_column_and_rows_of_their_own():
    results = [
        ("base", 0, None, {"kl": 0.0}),
        ("TABOM", 1, 3e-4, {"kl": 0.1}),
        ("TABOM", 1, 1e-3, {"kl": 0.3}),
        ("TABOM", 2, 1e-3, {"kl": 0.5}),
    ]
    assert comparison_rows(measurements(results), [Column("kl", "KL", digits=2)]) == [
        ["method", "learning rate", "seeds", "KL"],
        ["base", "-", "1", "0.00"],
        ["TABOM", "0.0003", "1", "0.10"],
        ["TABOM", "0.001", "2", "0.40 (seeds ± 0.14)"],
    ]


def test_terminal_table_shows_every_cell():
    console = Console(width=100, file=io.StringIO())
    console.print(rich_table(comparison_rows(RESULTS, COLUMNS), "a title"))
    text = console.file.getvalue()
    assert all(cell in text for cell in ("a title", "TABOM", "60.0 ± 3.0 (seeds ± 14.1)", "+0.020 (seeds ± 0.014)"))


def test_a_metric_that_not_all_have():
    results = [("base", 0, None, {"kl": 0.0}), ("TABOM", 1, None, {"tds": 0.25}), ("TABOM", 2, None, {"kl": 0.5})]
    columns = [Column(name, name, digits=2) for name in ("kl", "tds", "other")]
    assert comparison_rows(measurements(results), columns)[1:] == [
        ["base", "1", "0.00", "-", "-"],
        ["TABOM", "2", "0.50", "0.25", "-"],
    ]
