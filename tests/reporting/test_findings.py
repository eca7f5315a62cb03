"""The sentences say what the numbers say, worked out by hand."""

import math

import pytest
from records import benchmark_line, check, write_record

from tabom.reporting.benchmarks import collect_benchmarks
from tabom.reporting.findings import benchmark_finding, finding, verdict
from tabom.reporting.results import collect
from tabom.storage.run_record import find_records


@pytest.fixture
def write(tmp_path):
    def call(method, accuracy, kl=0.1, error=0.03, *, seed=1, **options):
        name = f"{method}-{seed}-{options.get('lr', 0)}"
        values = {"accuracy_1_per_step": accuracy, "kl": kl, "accuracy_1_per_step_error": error}
        lines = [check("test", **{key: value for key, value in values.items() if value is not None})]
        checkpoint = None if method == "base" else f"{name}.ckpt"
        files = [f"configs/demo/{'tabom' if method == 'base' else method}.yaml"]
        write_record(tmp_path / name, "test", name, files, lines, ckpt_path=checkpoint, seed=seed, **options)

    return call


@pytest.fixture
def read(tmp_path):
    return lambda **options: finding(collect(find_records([tmp_path])), **options)


def test_gain_forgetting_baseline_and_chance(write, read):
    """Errors: of the base 4 points, of the others 3, and of SFT-SD's seeds 4; sqrt(3^2 + 3^2 + 4^2) = 5.8."""
    write("base", 0.4, 0.0, 0.04)
    write("tabom", 0.65, 0.02, 0.03, seed=1)
    write("tabom", 0.65, 0.04, 0.03, seed=2)
    write("sft_sd", 0.55, 0.05, 0.03, seed=1)
    write("sft_sd", 0.63, 0.05, 0.03, seed=2)
    write("sft_gt", 0.2, 2.5, 0.03)
    assert read() == (
        "TABOM reaches the highest accuracy at 1 token per step after post-training (65.0 %, KL 0.030): "
        "+25.0 ± 5.0 points against the base (40.0 %), more than chance. "
        "Against SFT-SD (59.0 %, KL 0.050) it is +6.0 ± 5.8 points: no more than chance. "
        "Below the base by more than chance: SFT-GT (-20.0 ± 5.0 points)."
    )
    assert "Against SFT-GT (20.0 %, KL 2.500) it is +45.0 ± 4.2 points: more than chance." in read(baseline="sft_gt")


def test_where_the_baseline_is_the_best_the_next_one_is_beside_it(write, read):
    write("base", 0.4)
    write("sft_sd", 0.6, 0.1)
    write("tabom", 0.55, 0.2)
    assert read().split(". ")[1] == "Against TABOM (55.0 %, KL 0.200) it is +5.0 ± 4.2 points: no more than chance."


def test_at_equal_forgetting_where_both_have_several_learning_rates(write, read):
    """At KL 0.04 both have a model; SFT-SD goes on to 0.16 and is better there, for more forgetting."""
    write("base", 0.4, 0.0, 0.0)
    for method, points in {
        "tabom": [(1e-3, 0.01, 0.5), (2e-3, 0.04, 0.7)],
        "sft_sd": [(1e-3, 0.04, 0.6), (2e-3, 0.16, 0.8)],
    }.items():
        for rate, kl, accuracy in points:
            write(method, accuracy, kl, 0.03, lr=rate)
    first, second, third = read().split(". ")
    assert first.startswith("SFT-SD (lr 0.002) reaches the highest")
    assert second == "Against TABOM (lr 0.002) (70.0 %, KL 0.040) it is +10.0 ± 4.2 points: more than chance"
    assert third == "At equal forgetting (KL 0.04) it is -10.0 ± 4.2 points: more than chance."


def test_without_a_base_the_best_and_the_worst(write, read):
    for window, accuracy in ((4, 0.5), (8, 0.56), (16, 0.6)):
        write("tabom", accuracy, None, objective={"window": window}, seed=window)
    assert read() == (
        "TABOM, window 16 reaches 60.0 ± 3.0 % accuracy at 1 token per step, the most of 3 methods or settings, and "
        "TABOM, window 4 the least, 50.0 %: 10.0 ± 4.2 points apart, no more than chance."
    )


def test_what_is_alone(write, read):
    write("base", 0.4)
    assert read() == "The base alone was measured: 40.0 %, KL 0.100 accuracy at 1 token per step."


def test_one_model_without_its_base(write, read):
    write("tabom", 0.5)
    assert read() == "TABOM reaches 50.0 ± 3.0 % accuracy at 1 token per step. The base was not measured."


def test_errors_that_were_not_recorded_are_no_errors_of_nought(write, read):
    write("base", 0.4, error=None)
    write("tabom", 0.6)
    assert read() == (
        "TABOM reaches the highest accuracy at 1 token per step after post-training (60.0 %, KL 0.100): +20.0 points "
        "against the base (40.0 %), chance unknown. Chance is unknown where the runs did not record the error over "
        "their questions."
    )


@pytest.mark.parametrize(
    ("difference", "num", "expected"),
    [(1.97, 1, "more"), (1.95, 1, "no more"), (-1.97, 1, "more"), (2.3, 2, "more"), (2.2, 2, "no more")],
)
def test_the_level_is_divided_by_the_number_of_comparisons(difference, num, expected):
    """The two-sided 95 % quantile is 1.96, the 97.5 % one 2.24."""
    assert verdict(difference, 1.0, num) == f"{expected} than chance"
    assert verdict(difference, math.nan, num) == "chance unknown"


def test_benchmarks(tmp_path):
    lines = [benchmark_line("base", (0, 0, 1, 0), "own"), benchmark_line("worse", (0, 0, 0, 0), "own", "maths")]
    lines.append(benchmark_line("ours", (1, 1, 1, 0), "own", "maths", standard_error=0.25))
    for number, line in enumerate(lines):
        write_record(tmp_path / str(number), "evaluate", str(number), ["evaluate.yaml"], [line], seed=number)
    records = find_records([tmp_path])
    answers, _ = collect_benchmarks(records, collect(records))
    assert benchmark_finding(answers) == (
        "On own, ours answers 75.0 ± 25.0 % and the base 25.0 %: +50.0 ± 28.9 points on the 4 questions of both, no "
        "more than chance."
    )
    assert benchmark_finding(answers[:1]) == ""


@pytest.mark.parametrize(("num", "text"), [(6, "no more than chance."), (7, ", more than chance.")])
def test_benchmarks_and_chance(tmp_path, num, text):
    """A model alone is right in six or seven: p is 2 / 2^6 = 0.031 and 0.016, and the level for two models 0.025."""
    scores = {"base": [0] * num, "ours": [1] * num, "worse": [0] * num}
    for number, (model, own) in enumerate(scores.items()):
        line = benchmark_line(model, own, "own", None if model == "base" else "maths")
        write_record(tmp_path / model, "evaluate", model, ["evaluate.yaml"], [line], seed=number)
    records = find_records([tmp_path])
    answers, _ = collect_benchmarks(records, collect(records))
    assert benchmark_finding(answers).endswith(text)
