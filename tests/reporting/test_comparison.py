import io

from rich.console import Console

from tabom.reporting.comparison import Column, MethodResult, comparison_rows, markdown_table, rich_table
from tabom.reporting.figures import plot_gain_against_forgetting

COLUMNS = (Column("accuracy_1_per_step", "full %", scale=100), Column("kl", "KL", digits=3, is_signed=True))
RESULTS = [
    MethodResult("base", 0, {"accuracy_1_per_step": 0.4, "kl": 0.0}),
    MethodResult("TABOM", 1, {"accuracy_1_per_step": 0.5, "kl": 0.01}),
    MethodResult("TABOM", 2, {"accuracy_1_per_step": 0.7, "kl": 0.03}),
]


def test_mean_and_standard_deviation_over_seeds():
    """Standard deviation of 50 and 70: sqrt(10^2 + 10^2) = 14.14."""
    assert markdown_table(comparison_rows(RESULTS, COLUMNS)).splitlines() == [
        "| method | seeds | full % | KL |",
        "| --- | --- | --- | --- |",
        "| base | 1 | 40.0 | +0.000 |",
        "| TABOM | 2 | 60.0 ± 14.1 | +0.020 ± 0.014 |",
    ]


def test_learning_rates_have_a_column_and_rows_of_their_own():
    results = [
        MethodResult("base", 0, {"kl": 0.0}),
        MethodResult("TABOM", 1, {"kl": 0.1}, 3e-4),
        MethodResult("TABOM", 1, {"kl": 0.3}, 1e-3),
        MethodResult("TABOM", 2, {"kl": 0.5}, 1e-3),
    ]
    assert comparison_rows(results, [Column("kl", "KL", digits=2)]) == [
        ["method", "learning rate", "seeds", "KL"],
        ["base", "-", "1", "0.00"],
        ["TABOM", "0.0003", "1", "0.10"],
        ["TABOM", "0.001", "2", "0.40 ± 0.14"],
    ]


def test_terminal_table_shows_every_cell():
    console = Console(width=100, file=io.StringIO())
    console.print(rich_table(comparison_rows(RESULTS, COLUMNS), "a title"))
    text = console.file.getvalue()
    assert all(cell in text for cell in ("a title", "TABOM", "60.0 ± 14.1", "+0.020 ± 0.014"))


def test_figure_has_one_point_a_method(tmp_path):
    figure = plot_gain_against_forgetting(RESULTS[1:], base_accuracy=0.4)
    (axes,) = figure.axes
    seeds, mean = axes.collections[:2]
    assert len(axes.collections) == 2
    assert seeds.get_offsets().round(6).tolist() == [[0.01, 10.0], [0.03, 30.0]]
    assert mean.get_offsets().round(6).tolist() == [[0.02, 20.0]]
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["TABOM"]
    figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 1000
