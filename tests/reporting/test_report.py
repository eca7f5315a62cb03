"""What the page says, and that it can be read: by eye, on a phone, in the dark, and without seeing its figures."""

import re
import sys

import pytest
from records import benchmark_line, check, curves, write_record

from tabom.cli.main import main
from tabom.reporting.comparison import measurements
from tabom.reporting.frontier import frontier_rows, matched_levels
from tabom.reporting.page import Section, Table, html_page
from tabom.reporting.report import sections
from tabom.reporting.results import collect
from tabom.storage.run_record import find_records

CURVES = {"tds": [0.3, 0.2, None], "unmask_entropy": [0.1, 0.2], "ce_self_distilled": [0.5, 0.7]}
METHODS = {"sft_sd": "SFT-SD", "tabom": "TABOM", "dinfer": "dInfer"}
# method: learning rate, seed, KL, accuracy
POINTS = {
    "sft_sd": [(1e-3, 1, 0.04, 0.6), (2e-3, 1, 0.16, 0.8), (1e-3, 2, 0.04, 0.5), (2e-3, 2, 0.16, 0.9)],
    "tabom": [(1e-3, 1, 0.01, 0.5), (2e-3, 1, 0.09, 0.7), (1e-3, 2, 0.01, 0.6), (2e-3, 2, 0.04, 0.7)],
    "dinfer": [(1e-3, 1, 0.01, 0.45)],
}


def samples(method, verdicts):
    rows = enumerate(verdicts)
    content = [
        {"prompt": f"q{i}", "response": f"{method} {i}", "reference": "right", "is_correct": bool(x)} for i, x in rows
    ]
    return {"kind": "samples", "rows": content}


def write_runs(directory, points=POINTS, folder="configs/demo"):
    """The base, and a training and a test for each point."""
    values = {"tds": 0.1, "order_agreement": 0.7, "accuracy_2_per_step": 0.3}
    base = [
        check("test", 0, accuracy_1_per_step=0.4, accuracy_1_per_step_error=0.04, kl=0.0, **values),
        *(curves(step=0, **CURVES), samples("base", [1, 0, 0])),
    ]
    write_record(directory / "base", "test", "base", [f"{folder}/tabom.yaml"], base, num_tokens=0)
    for method, models in points.items():
        for rate, seed, kl, accuracy in models:
            name, files = f"{method}-{rate}-{seed}", [f"{folder}/{method}.yaml"]
            checks = [check("train", step, step / 10, loss=loss) for step, loss in ((10, 1.0), (30, 0.5))]
            checks += [
                check("validate", step, kl=kl * step / 150, accuracy_1_per_step=accuracy - 0.1) for step in (75, 150)
            ]
            write_record(directory / name, "fit", f"f-{name}", files, checks, seed=seed, lr=rate)
            measured = check("test", accuracy_1_per_step=accuracy, accuracy_1_per_step_error=0.03, kl=kl, **values)
            verdicts = [1, method != "dinfer", method == "dinfer"]
            lines = [measured, curves(**CURVES), samples(method, verdicts)]
            write_record(
                directory / name, "test", f"t-{name}", files, lines, f"f-{name}", ckpt_path="last", num_tokens=0
            )


def write_sweep(directory):
    """Margins and weights, of which no run was tested."""
    for margin in (0.1, 0.2):
        for weight in (1.0, 2.0):
            objective = {"margin": margin, "rank_weight": weight}
            lines = [check("validate", accuracy_1_per_step=margin + weight / 10, kl=0.1)]
            write_record(
                directory / f"{margin}-{weight}", "fit", f"{margin}-{weight}", lines=lines, objective=objective
            )


def write_evaluation(directory):
    """The paper's five benchmarks of LLaDA, which the paper's own rows are beside."""
    backbone = {"class_path": "PretrainedBackbone", "init_args": {"path": "GSAI-ML/LLaDA-8B-Instruct"}}
    for model, domain in (("base", None), ("SFT-SD", "maths"), ("TABOM", "maths")):
        lines = [
            benchmark_line(model, [1, 0, 1] * 50, name, domain, standard_error=0.04, cost={"num_steps": 256.0})
            for name in ("gsm8k", "math500", "humaneval", "mbpp", "ifeval")
        ]
        files = ["configs/evaluate/llada_gsm8k.yaml"]
        write_record(directory / model, "evaluate", model, files, lines, backbone=backbone, ckpt_path=domain and "last")


def read(directory, **options):
    records = find_records([directory])
    return {section.title: section for section in sections(records, collect(records), **options)}


def tables(section):
    return {table.caption: table.rows for table in section.tables}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    directory = tmp_path_factory.mktemp("runs")
    write_runs(directory)
    return directory


@pytest.fixture(scope="module")
def page(runs):
    return read(runs)


def test_sections_in_order(page):
    assert list(page) == [
        "In short",
        "Results",
        "Gain against forgetting",
        "An answer before and after",
        "By denoising step and mask ratio",
        "Over training",
        "Speed against accuracy",
        "Cost",
        "The runs",
    ]
    found = page["In short"]
    assert found.paragraphs == [
        "Runs: 19. Models that are compared: 9, of 3 methods. All numbers are measured on the test split.",
    ]
    assert found.lead.startswith("SFT-SD (lr 0.002) reaches the highest accuracy at 1 token per step")
    assert found.warnings == []
    assert page["The runs"].paragraphs == [
        "No sensitivity: within no label do settings vary beside learning rate, interpolation and seed."
    ]


def test_the_table_at_matched_forgetting_is_that_of_the_frontier(page):
    results = measurements(
        (METHODS[method], seed, rate, {"kl": kl, "accuracy_1_per_step": accuracy})
        for method, models in POINTS.items()
        for rate, seed, kl, accuracy in models
        if method != "dinfer"
    )
    rows = frontier_rows(results, 0.4, "accuracy_1_per_step", matched_levels(results), "SFT-SD")
    section = page["Gain against forgetting"]
    assert list(tables(section).values()) == [rows]
    assert rows[2] == [
        "TABOM", "2", "0.040", "47.5 (+3.7 ± 3.7)", "55.0 (+7.5 ± 7.5)", "59.8 (+8.7 ± 8.7)", "65.0 (+10.0 ± 10.0)",
    ]  # fmt: skip
    assert section.paragraphs[1] == "With one learning rate, a method is a point and not compared: dInfer."


def test_the_figure_of_the_frontier_in_words_and_numbers(page):
    (plot,) = page["Gain against forgetting"].plots
    assert plot.text == (
        "Accuracy points gained over the base against KL from it. SFT-SD: +15.0 at KL 0.0400, +45.0 at KL 0.1600; "
        "TABOM: +15.0 at KL 0.0100, +30.0 at KL 0.0650; dInfer: +5.0 at KL 0.0100."
    )
    assert plot.rows[:2] == [
        ["method", "learning rate or weight", "seeds", "KL", "gain, points"],
        ["SFT-SD", "0.001", "2", "0.0400", "+15.0"],
    ]
    lines = {line.get_label(): len(line.get_xdata()) for line in plot.figure.axes[0].lines[:-1]}
    assert lines == {"SFT-SD": 3, "TABOM": 3, "dInfer": 1}


def test_another_baseline_and_metric(runs):
    section = read(runs, metric="accuracy_2_per_step", baseline="tabom")["Gain against forgetting"]
    (caption,) = tables(section)
    assert caption == (
        "Accuracy at matched forgetting: accuracy at 2 tokens per step in %, KL(base || model) in nats per token; in "
        "brackets the difference to TABOM with the same seed ± its standard error; -: not every seed goes so far"
    )


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"baseline": "t3d"}, "--baseline: expected one of SFT-SD, TABOM, dInfer, got t3d"),
        (
            {"metric": "bleu"},
            "--metric: expected one of accuracy_1_per_step, accuracy_2_per_step, kl, order_agreement, tds, got bleu",
        ),
    ],
)  # fmt: skip
def test_what_the_runs_do_not_have(runs, option, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        read(runs, **option)


def test_results(page):
    """The gain's error: of the base 4 points, of the questions 3, of the seeds 5; sqrt(4^2 + 3^2 + 5^2) = 7.1."""
    (table,) = page["Results"].tables
    titles = [
        *(
            "accuracy at 1 token per step, % ↑",
            "gain, points ↑",
            "accuracy at 2 tokens per step, % ↑",
            "gain, points ↑",
        ),
        *("KL(base ‖ model) ↓", "TDS", "order agreement ↑"),
    ]
    others = ["30.0 (seeds ± 0.0)", "+0.0"]
    assert table.rows[:3] == [
        ["method", "learning rate", "seeds", *titles],
        ["base", "-", "1", "40.0 ± 4.0", "-", "30.0", "-", "0.000", "0.100", "0.70"],
        [
            *("SFT-SD", "0.001", "2", "55.0 ± 3.0 (seeds ± 7.1)", "+15.0 ± 7.1", *others),
            *("0.040 (seeds ± 0.000)", "0.100 (seeds ± 0.000)", "0.70 (seeds ± 0.00)"),
        ],
    ]
    assert [row[:2] for row in table.rows[3:]] == [
        ["SFT-SD", "0.002"], ["TABOM", "0.001"], ["TABOM", "0.002"], ["dInfer", "0.001"],
    ]  # fmt: skip
    best = {column: [row for row, at in sorted(table.best) if table.rows[0][at] == column] for column in titles}
    assert best["accuracy at 1 token per step, % ↑"] == [3]
    assert best["KL(base ‖ model) ↓"] == [4, 6]
    assert best["gain, points ↑"] == best["TDS"] == []


def test_every_accuracy_is_shown_with_its_error(tmp_path):
    names = ("pass_at_8", "base_accuracy", "accuracy_kept", "base_accuracy/maths")
    values = dict.fromkeys(names, 0.5) | {f"{name}_error": 0.04 for name in names}
    write_record(tmp_path, lines=[check("validate", accuracy_1_per_step=0.5, **values)])
    records = find_records([tmp_path])
    _, others = next(one for one in sections(records, collect(records)) if one.title == "Results").tables
    cells = [cell for row in others.rows for cell in row]
    assert cells.count("50.0 ± 4.0") == 4
    assert not [cell for cell in cells if "error" in cell]


def test_an_answer_before_and_after(page):
    """The second question, which the base got wrong and two of three methods right."""
    section = page["An answer before and after"]
    assert section.paragraphs == ["Question: q1", "A right answer: right"]
    assert section.tables[0].rows == [
        ["model", "answer", "verdict"],
        ["base", "base 1", "wrong"],
        ["SFT-SD (lr 0.002)", "sft_sd 1", "right"],
        ["TABOM (lr 0.002)", "tabom 1", "right"],
        ["dInfer", "dinfer 1", "wrong"],
    ]


def test_curves(page):
    plots = {plot.name: plot for plot in page["By denoising step and mask ratio"].plots}
    head = ["SFT-SD (lr 0.002)", "TABOM (lr 0.002)", "dInfer", "base"]
    assert list(plots) == ["test_tds", "test_unmask_entropy", "test_ce_self_distilled"]
    assert plots["test_tds"].rows == [
        ["denoising step", *head], ["0", *["0.3"] * 4], ["1", *["0.2"] * 4], ["2", *["-"] * 4],
    ]  # fmt: skip
    assert plots["test_ce_self_distilled"].rows[1:] == [["0.2", *["0.5"] * 4], ["0.8", *["0.7"] * 4]]
    assert plots["test_unmask_entropy"].text == (
        "Entropy when revealed: mean entropy (nats) against denoising step, one line per method. "
        + "; ".join(f"{name}: from 0.1 at 0 to 0.2 at 1" for name in head)
        + "."
    )


def test_over_training(page):
    kl, accuracy, loss = page["Over training"].plots
    assert kl.rows == [
        ["optimizer step", "SFT-SD (lr 0.002)", "TABOM (lr 0.002)", "dInfer"],
        ["75", "0.08", "0.0325", "0.005"],
        ["150", "0.16", "0.065", "0.01"],
    ]
    assert accuracy.rows[1] == ["75", "75", "60", "35"]
    assert loss.rows[1:] == [["10", "1", "1", "1"], ["30", "0.5", "0.5", "0.5"]]


def test_a_training_that_was_resumed_is_one(tmp_path):
    half = [check("train", 10, 1.0, kl=0.9), check("validate", 50, 9.0, kl=0.1, accuracy_1_per_step=0.1)]
    write_record(tmp_path / "a", "fit", "a", lines=half, state="running")
    lines = [check("validate", 100, kl=0.2, accuracy_1_per_step=0.2)]
    write_record(tmp_path / "b", "fit", "b", lines=lines, parent="a")
    page = read(tmp_path)
    assert page["Over training"].plots[0].rows[1:] == [["50", "0.1"], ["100", "0.2"]]
    assert page["Cost"].tables[0].rows[1] == ["TABOM", "fit", "2", "0.8", "-", "1,000", f"{9 / 3600 + 0.01:.3f}"]
    assert page["In short"].paragraphs == [
        "Runs: 2. Models that are compared: 1, of 1 methods. All numbers are measured on the validation split, of a "
        "training at its last check.",
        "Runs that do not count: 1. The table of the runs says why of each.",
    ]


def test_cost(page):
    assert page["Cost"].tables[0].rows == [
        ["method", "verb", "runs", "minutes each", "steps per second", "tokens each", "device hours"],
        ["base", "test", "1", "0.6", "-", "-", "0.010"],
        ["SFT-SD", "fit", "4", "0.6 ± 0.0", "10.0 ± 0.0", "1,000", "0.040"],
        ["SFT-SD", "test", "4", "0.6 ± 0.0", "-", "-", "0.040"],
        ["TABOM", "fit", "4", "0.6 ± 0.0", "10.0 ± 0.0", "1,000", "0.040"],
        ["TABOM", "test", "4", "0.6 ± 0.0", "-", "-", "0.040"],
        ["dInfer", "fit", "1", "0.6", "10.0", "1,000", "0.010"],
        ["dInfer", "test", "1", "0.6", "-", "-", "0.010"],
    ]


def test_the_runs(runs, page, monkeypatch):
    monkeypatch.chdir(runs)
    rows, commands, environments = tables(read(runs)["The runs"]).values()
    assert rows[3] == ["t-sft_sd-0.001-1", "test", "SFT-SD", "1", "finished", "counted", "f-sft_sd-0.001-1", "-"]
    assert [row[-1] for row in rows if row[1:3] == ["fit", "SFT-SD"]] == ["-", "lr 0.002", "-", "lr 0.002"]
    assert dict(zip(commands[0], commands[3], strict=True)) == {
        "run": "t-sft_sd-0.001-1",
        "command": "tabom test --config configs/demo/sft_sd.yaml",
        "commit": "0123456789",
        "environment": "1",
        "data": "feedfeedfeed",
        "checkpoint": "last",
        "W&B": "-",
        "record": "sft_sd-0.001-1/records/test-2026-11-24-t-sft_sd-0.001-1.jsonl",
    }
    assert environments[1:] == [
        [
            "1",
            "3.11.7",
            "tabom 0.1.0, torch 2.13.0, lightning 2.6.0",
            "Linux-6.1",
            "2 x Intel Xeon",
            "1",
            "8.0",
            "-",
            "1",
        ]
    ]


def test_sensitivity(tmp_path):
    write_sweep(tmp_path)
    page = read(tmp_path)
    assert list(page)[:2] == ["In short", "Sensitivity"]
    section = page["Sensitivity"]
    rows = [
        ["margin", "rank weight", "seeds", "accuracy at 1 token per step, % ↑"],
        ["0.2", "2", "1", "40.0 (best)"],
        ["0.1", "2", "1", "30.0"],
        ["0.2", "1", "1", "30.0"],
        ["0.1", "1", "1", "20.0"],
    ]
    assert tables(section) == {"TABOM by margin and rank weight, the best first": rows}
    (plot,) = section.plots
    assert (plot.name, plot.rows) == ("sensitivity_tabom", rows)
    assert plot.text == (
        "accuracy at 1 token per step, % of TABOM by margin and rank weight. Best: margin: 0.2, rank weight: 2, seeds: "
        "1, accuracy at 1 token per step, % ↑: 40.0 (best)."
    )


def test_what_is_missing_is_said(tmp_path):
    write_record(tmp_path, "test", "a", lines=[check("test", accuracy_1_per_step=0.5)], ckpt_path="x")
    assert read(tmp_path)["The runs"].paragraphs == [
        "No sensitivity: within no label do settings vary beside learning rate, interpolation and seed.",
        "No frontier: no model has a KL from its base beside its accuracy.",
        "No answers before and after: the tests did not keep any, or there is none of the base.",
        "No curves by step or mask ratio: the runs recorded none.",
        "No curves over training: no training with its checks on validation is among the runs.",
        "No curve of accuracy against speed: no model was measured at several numbers of tokens per step.",
    ]
    other = {"class_path": "PretrainedBackbone", "init_args": {"path": "other"}}
    lines = [check("test", accuracy_1_per_step=0.5, kl=0.1)]
    write_record(tmp_path, "test", "b", lines=lines, ckpt_path="x", seed=2, backbone=other)
    assert read(tmp_path)["The runs"].paragraphs[1] == (
        "No frontier: the base itself was not measured. Run tabom test with the config of one of the methods and "
        "without a checkpoint, and give its directory as well."
    )
    write_record(tmp_path, "test", "c", lines=[check("test", 0, accuracy_1_per_step=0.4)])
    page = read(tmp_path)
    assert page["The runs"].paragraphs[1] == (
        "No frontier: the runs start from different base models, of which not every one was measured. Run tabom test "
        "without a checkpoint for each, or give the runs of one base model at a time."
    )
    assert page["In short"].warnings == ["The runs differ in their base model: runs/demo/base (2), other (1)."]


# -- files ------------------------------------------------------------------------------------------------------------


def test_the_main_table_and_what_was_found_can_be_printed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [check("validate", 200, 9.0, accuracy_1_per_step=0.4)]
    write_record(tmp_path / "runs", "fit", "a", ["x.yaml"], lines, time="2026-11-24T10:00:00+00:00")
    main(["report", "runs", "-o", "page.md", "--print"])
    out = capsys.readouterr().out
    assert out.startswith("page.md: 1 runs\n")
    assert "│" in out
    (lead,) = [line for line in (tmp_path / "page.md").read_text().splitlines() if "was not measured" in line]
    assert out.splitlines()[-1] == lead.strip("*")


def test_markdown_and_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    lines = [check("validate", step, 9.0, accuracy_1_per_step=step / 500) for step in (100, 200)]
    write_record(tmp_path / "runs", "fit", "a|b", ["<x>.yaml"], lines, time="2026-11-24T10:00:00+00:00")
    main(["report", "runs", "-o", "docs/page.md", "--figures", "docs/figures", "--title", "Two * two"])
    assert capsys.readouterr().out == "docs/page.md: 1 runs\n"
    text = (tmp_path / "docs/page.md").read_text()
    assert text == (
        r"""# Two \* two

runs · 24 November 2026 · commit 0123456789

## In short

**\<x\> reaches 40.0 % accuracy at 1 token per step. The base was not measured.**

Runs: 1. Models that are compared: 1, of 1 methods. All numbers are measured on the validation split, of a training at its last check.

## Results

A value is followed by ± its standard error over the questions or texts that it was measured on, where the runs recorded one; in brackets is the standard deviation over the seeds. Bold: the best after post-training. Gain: points over the base ± the standard error of questions and seeds together. KL(base ‖ model) and NELBO change: forgetting on text of the base domain, in nats per token. TDS: trajectory discrimination score. Order agreement: share of the pairs whose entropies are in decoding order. Rows differ in how far they went from the base as well as in what they learnt: the frontier compares methods at equal forgetting.

**After post-training**

| method | seeds | accuracy at 1 token per step, % ↑ |
| --- | --- | --- |
| \<x\> | 1 | 40.0 |

## Over training

Means over the seeds. A method with several learning rates is shown at the one with the highest mean accuracy at 1 token per step.

![Accuracy over training: accuracy at 1 token per step, % against optimizer step, one line per method. \<x\>: from 20 at 100 to 40 at 200.](figures/training_accuracy_1_per_step.png)

## Cost

Minutes, steps per second and tokens (positions of the canvases that were trained on) are those of the finished runs, with the runs that they resumed; steps per second leave out the checks on validation. Device hours are those of all runs, also of the ones that were stopped or repeated. A killed run is known until it last wrote, and its tokens are not.

**Time, throughput, tokens and device hours**

| method | verb | runs | minutes each | steps per second | tokens each | device hours |
| --- | --- | --- | --- | --- | --- | --- |
| \<x\> | fit | 1 | 0.6 | - | 1,000 | 0.010 |

## The runs

No sensitivity: within no label do settings vary beside learning rate, interpolation and seed.

No frontier: no model has a KL from its base beside its accuracy.

No answers before and after: the tests did not keep any, or there is none of the base.

No curves by step or mask ratio: the runs recorded none.

No curve of accuracy against speed: no model was measured at several numbers of tokens per step.

**Every run**

| run | verb | method | seed | state | counts as | made from | changed against the first of its verb |
| --- | --- | --- | --- | --- | --- | --- | --- |
| a\|b | fit | \<x\> | 1 | finished | counted | - | - |

**How to make each run again**

| run | command | commit | environment | data | checkpoint | W&B | record |
| --- | --- | --- | --- | --- | --- | --- | --- |
| a\|b | tabom fit --config '\<x\>.yaml' | 0123456789 | 1 | feedfeedfeed | - | - | runs/records/fit-2026-11-24-a\|b.jsonl |

**Where they ran**

| environment | Python | versions | platform | processor | threads | memory, GiB | GPUs | processes |
| --- | --- | --- | --- | --- | --- | --- | --- | --- |
| 1 | 3.11.7 | tabom 0.1.0, torch 2.13.0, lightning 2.6.0 | Linux-6.1 | 2 x Intel Xeon | 1 | 8.0 | - | 1 |
"""  # noqa: E501
    )
    figures = {path.name: path.read_bytes()[:5] for path in (tmp_path / "docs/figures").iterdir()}
    name = "training_accuracy_1_per_step"
    assert figures == {f"{name}.png": b"\x89PNG\r", f"{name}.svg": b"<?xml"}


def test_without_a_directory_for_figures_markdown_has_tables_alone(runs, tmp_path):
    main(["report", str(runs), "-o", str(tmp_path / "page.md"), "-o", str(tmp_path / "page.html")])
    text = (tmp_path / "page.md").read_text()
    assert re.findall("^## (.*)", text, re.MULTILINE) == [
        "In short", "Results", "Gain against forgetting", "An answer before and after",
        "Speed against accuracy", "Cost", "The runs",
    ]  # fmt: skip
    assert "![" not in text
    assert (tmp_path / "page.html").read_text().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["runs", "-o", "page.pdf"], "--output: expected a file ending in .html or .md, got page.pdf"),
        (["none", "-o", "page.md"], "none: expected a run's directory or record, found no such file"),
    ],
)
def test_bad_options(tmp_path, monkeypatch, capsys, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as error:
        main(["report", *words])
    assert error.value.code == 1
    assert capsys.readouterr().err == f"tabom: error: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_help_needs_no_figures(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main(["report", "--help"])
    assert "--baseline LABEL" in capsys.readouterr().out


# -- the page, opened -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def written(tmp_path_factory, runs):
    directory = tmp_path_factory.mktemp("page")
    write_sweep(directory / "sweep")
    write_runs(directory / "runs", POINTS | {"<b>&bold": [(1e-3, 1, 0.01, 0.5)]})
    write_evaluation(directory / "evaluation")
    pages = []
    for name in ("runs", "sweep", "evaluation"):
        pages.append(directory / f"{name}.html")
        pages[-1].write_text(html_page("<i>title", "runs", list(read(directory / name).values())))
    return pages


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_the_screen_and_can_be_read(open_page, written, width, scheme):
    for path in written:
        page = open_page(path, width=width, color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") == width
        page.evaluate("document.querySelectorAll('details').forEach((part) => (part.open = true))")
        parts = "[...document.querySelectorAll('.scroll')].map((e) => [e.ariaLabel, e.scrollWidth, e.clientWidth])"
        assert [part for part in page.evaluate(parts) if part[1] > part[2]] == []
        assert page.evaluate("document.documentElement.scrollWidth") == width
        rights = "[...document.querySelectorAll('main *:not(.scroll *)')].map(e => e.getBoundingClientRect().right)"
        assert max(page.evaluate(rights)) <= width
        if page.locator("svg").count() == 0:  # a page of benchmarks has tables alone
            continue
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        ink = page.evaluate("getComputedStyle(document.querySelector('svg text')).fill")
        strokes = page.evaluate("[...document.querySelectorAll('svg *')].map(e => getComputedStyle(e).stroke)")
        assert ink in strokes
        assert "rgb(0, 0, 0)" not in strokes
        expected = {
            "light": ("rgb(255, 255, 255)", "rgb(26, 26, 26)"),
            "dark": ("rgb(22, 24, 27)", "rgb(236, 236, 236)"),
        }
        assert (paper, ink) == expected[scheme]


def test_on_a_phone_a_row_of_numbers_says_what_its_first_one_is(open_page, tmp_path):
    rows = [["rank weight", "accuracy at 2 tokens per step, % ↑"], ["2", "71.5 ± 3.0"], ["SFT-SD", "60.0"]]
    path = tmp_path / "page.html"
    path.write_text(html_page("page", "runs", [Section("Sensitivity", tables=[Table("cells", rows)])]))
    page = open_page(path, width=390)
    labels = page.evaluate(
        "[...document.querySelectorAll('tbody :is(th, td)')].map((cell) => getComputedStyle(cell, '::before').content)"
    )
    accuracy = '"accuracy at 2 tokens per step,\u00a0%\u00a0↑"'
    assert labels == ['"rank weight "', accuracy, "none", accuracy]


def test_figures_have_a_text_and_a_table(open_page, written):
    for path in written[:2]:
        page = open_page(path)
        figures = page.locator("figure")
        assert figures.count() >= 2
        for figure in figures.all():
            svg = figure.locator("svg")
            label = svg.get_attribute("aria-label")
            assert svg.get_attribute("role") == "img"
            assert len(label) > 40
            figure.locator("summary").click()
            assert figure.locator("table").is_visible()
            assert figure.locator("tbody tr").count() >= 1
        assert page.evaluate("document.querySelectorAll('img:not([alt])').length") == 0


POINT = "SFT-SD: 0.04, 15"


def test_points_can_be_hovered_with_and_without_the_script(open_page, written):
    """The mean of SFT-SD at its lower rate; away from every point nothing is shown, and a touch does as well."""
    page = open_page(written[0], java_script_enabled=False)
    titles = page.locator("figure").first.locator("use").evaluate_all("marks => marks.map((mark) => mark.textContent)")
    assert titles.count(POINT) == 1
    page = open_page(written[0])
    mark = page.locator("figure").first.locator("use").nth(titles.index(POINT))
    mark.scroll_into_view_if_needed()
    box = mark.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    tip = page.locator(".tip")
    for shift, is_shown in ((2, True), (-60, False), (2, True)):
        page.mouse.move(x + shift, y + shift)
        assert tip.is_visible() == is_shown
    assert tip.text_content() == POINT
    page.mouse.move(1, 1)
    assert tip.is_hidden()


def test_headings_and_links(open_page, written):
    page = open_page(written[0])
    levels = page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map(e => e.tagName)")
    assert levels == ["H1", *["H2"] * 9]
    targets = page.evaluate(
        "[...document.querySelectorAll('nav a')].map(a => document.querySelector(a.hash).textContent)"
    )
    assert targets == page.locator("nav a").all_text_contents()
    identifiers = page.evaluate("[...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(identifiers) == len(set(identifiers))


def test_the_best_is_bold(open_page, written, runs, tmp_path):
    page = open_page(written[0])
    bold = "85.0 ± 3.0 (seeds ± 7.1)"
    assert page.locator("td strong", has_text="85.0").first.text_content().replace("\u00a0", " ") == bold
    main(["report", str(runs), "-o", str(tmp_path / "page.md")])
    assert f"| **{bold}** |" in (tmp_path / "page.md").read_text()


def test_names_are_escaped(open_page, written):
    page = open_page(written[0])
    assert page.evaluate("document.querySelectorAll('i, b').length") == 0
    assert page.locator("h1").text_content() == "<i>title"
    assert page.locator("figure svg text", has_text="<b>&bold").count() >= 1
    assert page.locator("th", has_text="<b>&bold").count() >= 1
