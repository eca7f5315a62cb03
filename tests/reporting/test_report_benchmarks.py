"""What is said of benchmarks: scores by domain, models on the same questions, the paper's numbers, and cost."""

import re

import pytest
from records import ENVIRONMENT, benchmark_line, check, write_record

from tabom.cli.verbs.report import run
from tabom.errors import TabomError
from tabom.reporting.page import html_page
from tabom.reporting.paired import mcnemar, paired_cells
from tabom.reporting.paper import DIFFERENCES, paper_discrimination
from tabom.reporting.report import sections
from tabom.reporting.results import collect
from tabom.storage.run_record import find_records

RELEASED = {"sampler": {"tokens_per_step": 1}, "response_length": 256, "benchmark": {"variant": "released"}}
LLADA, DREAM = "GSAI-ML/LLaDA-8B-Instruct", "Dream-org/Dream-v0-Instruct-7B"


@pytest.fixture
def write(tmp_path):
    """Write a run of benchmarks; the id is the model's name with a number."""
    count = iter(range(100))

    def call(*lines, path="runs/demo/base", seed=1, ckpt_path=None, **changes):
        config = {
            "seed_everything": seed,
            "model": {
                "class_path": "BenchmarkModule",
                "init_args": {"backbone": {"class_path": "PretrainedBackbone", "init_args": {"path": path}}},
            },
            "data": {"class_path": "BenchmarkDataModule", "init_args": {"limit": None}},
            "ckpt_path": ckpt_path,
        }
        name = f"e{next(count)}"
        files = ["configs/benchmarks/tabom.yaml"]
        write_record(
            tmp_path / name,
            "evaluate",
            name,
            files,
            lines,
            config=config,
            seed=seed,
            inputs={},
            num_tokens=0,
            **changes,
        )
        return name

    return call


@pytest.fixture
def read(tmp_path):
    """The page's sections by title."""

    def call(**options):
        records = find_records([tmp_path])
        return {section.title: section for section in sections(records, collect(records), **options)}

    return call


def tables(section):
    return {table.caption: table.rows for table in section.tables}


def roles(page):
    rows = page["The runs"].tables[0].rows
    return {row[0]: row[rows[0].index("counts as")] for row in rows[1:]}


# -- two models on the same questions ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "second", "p"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (2, 3, 1.0),
        (0, 5, 2 / 32),
        (1, 5, 2 * (1 + 6) / 64),
        (8, 2, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar_by_hand(first, second, p):
    assert mcnemar(first, second) == p


@pytest.mark.parametrize(("first", "second"), [(0, 1), (4, 9), (30, 11), (500, 600), (9000, 9300)])
def test_mcnemar_is_the_binomial_test(first, second):
    stats = pytest.importorskip("scipy.stats")
    assert mcnemar(first, second) == pytest.approx(stats.binomtest(first, first + second).pvalue, rel=1e-9)


def test_pairs_are_of_the_same_questions():
    first = {"a": 1, "b": 1, "c": 1, "d": 0, "e": 0, "only here": 1}
    second = {"e": 0, "d": 1, "c": 0, "b": 0, "only there": 1, "a": 1.0}
    cells = paired_cells(first, second)
    assert list(cells.values())[:5] == ["5", "1", "2", "1", "1"]


def test_the_difference_has_the_standard_error_of_its_mean():
    """Differences 0, 1, 1, -1, 0: mean 0.2, sum of squares about it 3 - 5 * 0.04 = 2.8."""
    cells = paired_cells({"a": 1, "b": 1, "c": 1, "d": 0, "e": 0}, {"a": 1, "b": 0, "c": 0, "d": 1, "e": 0})
    assert cells["A less B, points"] == f"+20.0 ± {100 * (2.8 / 4 / 5) ** 0.5:.1f}"
    assert paired_cells({"a": 1}, {"a": 0})["A less B, points"] == "+100.0"


# -- scores -----------------------------------------------------------------------------------------------------------


def test_in_domain_first_and_the_base_first(write, read):
    write(
        benchmark_line("tabom", (1, 1, 1, 0), "own", "code", standard_error=0.25),
        benchmark_line("tabom", (1, 0), "ifeval", "code", standard_error=0.5),
        benchmark_line("tabom", [1] * 123 + [0] * 41, "humaneval", "code", standard_error=0.0339),
    )
    write(benchmark_line("no SFT", [1] * 1319, standard_error=0.0), benchmark_line("no SFT", [1, 0] * 82, "humaneval"))
    page = read()
    assert tables(page["Benchmarks"]) == {
        "runs/demo/base, post-trained on code, tokens per step: 1": [
            ["model", "HumanEval (in domain)", "GSM8K (out of domain)", "IFEval (out of domain)", "own"],
            ["no SFT", "50.0", "100.0 ± 0.0", "-", "-"],
            ["tabom", "75.0 ± 3.4", "-", "50.0 ± 50.0 (2 of 541)", "75.0 ± 25.0"],
        ]
    }
    assert len(page["Benchmarks"].paragraphs) == 1
    assert page["Benchmarks"].warnings == []


def test_a_model_with_fewer_questions_is_marked(write, read):
    """Of a benchmark whose size is not known: fewer than the others were asked."""
    write(benchmark_line("base", (1, 1, 0, 0), "own"))
    write(benchmark_line("tabom", (1, 1, 0), "own", "maths"))
    (rows,) = tables(read()["Benchmarks"]).values()
    assert rows[1:] == [["base", "50.0"], ["tabom", "66.7 (3 of 4)"]]


def test_a_checkpoint_without_a_domain_is_no_base(write, read):
    write(benchmark_line("tabom", (1, 1)), ckpt_path="last.ckpt")
    write(benchmark_line("tabom", (0, 0)), ckpt_path="other.ckpt")
    write(benchmark_line("base", (1, 0)))
    page = read()
    ((caption, rows),) = tables(page["Benchmarks"]).items()
    assert caption == "runs/demo/base, tokens per step: 1"
    assert rows == [
        ["model", "GSM8K"],
        ["base", "50.0 (2 of 1,319)"],
        ["tabom", "50.0 ± 70.7 over seeds 1, 1 (2 of 1,319)"],
    ]
    (rows,) = tables(page["Benchmarks, question by question"]).values()
    assert [row[1:3] for row in rows[1:]] == [["tabom, seed 1", "base"]] * 2


def test_seeds(write, read):
    """Trainings of two seeds under one name: their mean; each is paired with the base by itself."""
    write(benchmark_line("base", (0, 0, 0, 1), "own", standard_error=0.25))
    for seed, scores in ((1, (1, 1, 0, 0)), (2, (1, 1, 1, 1))):
        write(benchmark_line("tabom", scores, "own", "maths", sampler={"seed": seed}, standard_error=0.1), seed=seed)
    page = read()
    (rows,) = tables(page["Benchmarks"]).values()
    assert rows[1:] == [["base", "25.0 ± 25.0"], ["tabom", "75.0 ± 35.4 over seeds 1, 2"]]
    (rows,) = tables(page["Benchmarks, question by question"]).values()
    assert [row[1:8] for row in rows[1:]] == [
        ["tabom, seed 1", "base", "4", "0", "2", "1", "1"],
        ["tabom, seed 2", "base", "4", "1", "3", "0", "0"],
    ]


def test_the_seed_is_that_of_the_training(tmp_path, write, read):
    for seed in (7, 8):
        lines = [check("validate", accuracy_1_per_step=0.5)]
        write_record(tmp_path / f"f{seed}", "fit", f"f{seed}", lines=lines, seed=seed)
        write(benchmark_line("base", (1, 0, seed == 7), "own", sampler={"seed": seed}), seed=seed)
        write(benchmark_line("tabom", (1, 1, 1), "own", "maths"), parent=f"f{seed}", path="runs/export")
    page = read()
    (rows,) = tables(page["Benchmarks, question by question"]).values()
    assert [(*row[1:3], *row[4:8]) for row in rows[1:]] == [
        ("tabom, seed 7", "base, seed 7", "2", "1", "0", "0"),
        ("tabom, seed 8", "base, seed 8", "1", "2", "0", "0"),
    ]


def test_what_was_run_twice_counts_once(write, read):
    names = [
        write(benchmark_line("base", (0, 0), "own"), benchmark_line("base", (0, 0), "other")),
        write(benchmark_line("base", (1, 1), "own")),
        write(benchmark_line("base", (0,), "own")),
        write(benchmark_line("base", (0, 1), "third")),
        write(benchmark_line("base", (1, 1), "third"), state="failed"),
        write(benchmark_line("base", (1, 1), "third")),
    ]
    page = read()
    (rows,) = tables(page["Benchmarks"]).values()
    assert rows == [["model", "own", "other", "third"], ["base", "100.0", "0.0", "100.0"]]
    assert list(roles(page).values()) == [
        f"benchmark: other; own repeated by {names[1]}",
        "benchmark: own",
        f"own fewer questions than in {names[1]}",
        f"third repeated by {names[5]}",
        "unfinished, not counted",
        "benchmark: third",
    ]
    assert page["In short"].paragraphs == [
        "Runs: 6. Runs of benchmarks: 3. Models: 1. Benchmarks: 3. Their numbers are of the benchmarks' own questions.",
        "Runs that do not count: 3. The table of the runs says why of each.",
    ]


def test_settings_that_differ_are_not_mixed(write, read):
    """Among the runs of one benchmark: that another benchmark has other settings is no difference."""
    write(benchmark_line("base", num_fewshot=4), benchmark_line("base", benchmark="humaneval", num_fewshot=0))
    write(benchmark_line("tabom", trained_on="maths", num_fewshot=4))
    write(benchmark_line("sft_sd", trained_on="code", num_fewshot=4))
    captions = [f"runs/demo/base, post-trained on {domain}, tokens per step: 1" for domain in ("maths", "code")]
    assert list(tables(read()["Benchmarks"])) == captions
    write(benchmark_line("tabom", trained_on="maths", num_fewshot=8))
    write(benchmark_line("tabom", trained_on="maths", num_fewshot=4, metric="exact_match,strict-match"))
    write(benchmark_line("tabom", trained_on="maths", sampler={"tokens_per_step": 2}))
    write(benchmark_line("other", num_fewshot=4), path="other/base")
    metrics = ["exact_match,flexible-extract", "exact_match,strict-match"]
    assert {caption: [row[0] for row in rows[1:]] for caption, rows in tables(read()["Benchmarks"]).items()} == {
        f"{captions[0]}, num_fewshot: 4, metric: {metrics[0]}": ["base", "tabom"],
        f"{captions[1]}, num_fewshot: 4, metric: {metrics[0]}": ["base", "sft_sd"],
        f"runs/demo/base, tokens per step: 1, num_fewshot: 0, metric: {metrics[0]}": ["base"],
        f"{captions[0]}, num_fewshot: 8, metric: {metrics[0]}": ["tabom"],
        f"{captions[0]}, num_fewshot: 4, metric: {metrics[1]}": ["tabom"],
        "runs/demo/base, post-trained on maths, tokens per step: 2": ["tabom"],
        "other/base, tokens per step: 1": ["other"],
    }


def test_what_the_runs_differ_in_is_said(write, read):
    write(benchmark_line("base"))
    write(benchmark_line("tabom", trained_on="maths"), environment=ENVIRONMENT | {"git_commit": "f" * 40})
    assert read()["Benchmarks"].warnings == [
        "The runs of benchmarks differ in their commit: 0123456789 (1), ffffffffff (1)."
    ]


# -- the paper's numbers ----------------------------------------------------------------------------------------------


def test_the_papers_rows_of_llada_on_maths(write, read):
    write(benchmark_line("base", [0, 1] * 82, "humaneval"), path=LLADA)
    write(benchmark_line("tabom", [0, 1] * 250, "math500", "maths"), path=LLADA)
    page = read()
    assert tables(page["Benchmarks"]) == {
        f"{LLADA}, post-trained on maths, tokens per step: 1; (paper): arXiv 2605.11854, Table 3: LLaDA-8B-Instruct, "
        "post-trained on maths": [
            ["model", "MATH500 (in domain)", "HumanEval (out of domain)"],
            ["base", "-", "50.0"],
            ["tabom", "50.0", "-"],
            ["No-SFT (paper)", "36.20", "36.01"],
            ["SFT-GT (paper)", "35.50", "31.09"],
            ["SFT-SD (paper)", "35.70", "36.58"],
            ["dInfer (paper)", "36.50", "38.90"],
            ["T3D (paper)", "36.10", "37.74"],
            ["TABOM (paper)", "36.80", "40.30"],
        ],
        "In what our rows differ from the paper's": [
            ["benchmark", "variant", "difference"],
            ["MATH500", "lm_eval", DIFFERENCES["lm_eval"]["math500"]],
            ["HumanEval", "lm_eval", DIFFERENCES["lm_eval"]["humaneval"]],
        ],
    }
    assert page["Benchmarks"].paragraphs[1:] == [
        "Rows with (paper) are the paper's numbers, measured with its own harness, on other hardware: a difference to "
        "them may come from either. The last table says in what the harness differs, as far as its release tells."
    ]


def test_variants_are_not_mixed_and_each_says_in_what_it_differs(write, read):
    write(benchmark_line("base", trained_on="maths"), path=LLADA)
    write(benchmark_line("base", trained_on="maths", benchmark="own"), path=LLADA)
    write(benchmark_line("base", trained_on="maths") | {"settings": RELEASED}, path=LLADA)
    *scores, differences = read()["Benchmarks"].tables
    assert sorted("variant: released" in table.caption for table in scores) == [False, True]
    assert differences.rows[1:] == [["GSM8K", name, DIFFERENCES[name]["gsm8k"]] for name in ("lm_eval", "released")]


@pytest.mark.parametrize(
    ("path", "trained_on", "tokens_per_step", "number", "row"),
    [
        (DREAM, "maths", 2, 4, ["TABOM (paper)", "77.79", "-"]),
        (DREAM, "maths", 1, 3, ["TABOM (paper)", "84.31", "56.19"]),
        (DREAM, "code", 1, 2, ["TABOM (paper)", "81.73", "55.45"]),
        ("models/llada", "code", 1, 2, ["TABOM (paper)", "77.33", "34.19"]),
        (DREAM, None, 2, 4, ["No-SFT (paper)", "74.37", "-"]),
    ],
)
def test_the_papers_table_of_each_base_and_domain(write, read, path, trained_on, tokens_per_step, number, row):
    sampler = {"tokens_per_step": tokens_per_step}
    lines = [benchmark_line("own", (1, 0), name, trained_on, sampler=sampler) for name in ("ifeval", "gsm8k")]
    write(*lines, path=path)
    (caption, rows), _ = tables(read()["Benchmarks"]).items()
    assert f"(paper): arXiv 2605.11854, Table {number}: " in caption
    assert rows[-1] == row
    assert len(rows) == (8 if trained_on else 3)


@pytest.mark.parametrize(("path", "tokens_per_step"), [("runs/demo/base", 1), (DREAM, 4), (LLADA, 2)])
def test_what_the_paper_did_not_measure(write, read, path, tokens_per_step):
    write(benchmark_line("own", trained_on="maths", sampler={"tokens_per_step": tokens_per_step}), path=path)
    ((caption, rows),) = tables(read()["Benchmarks"]).items()
    assert "paper" not in caption
    assert len(rows) == 2


# -- pairs and cost ---------------------------------------------------------------------------------------------------


def write_pairs(write):
    write(benchmark_line("base", {"a": 0, "b": 0, "c": 0, "d": 0, "e": 0, "f": 1, "g": 1, "h": 1}))
    write(benchmark_line("sft_sd", {"x": 1, "h": 1, "g": 0, "f": 1}, trained_on="maths"))
    write(benchmark_line("tabom", {"a": 1, "b": 1, "c": 1, "d": 1, "e": 1, "f": 1, "g": 0}, trained_on="maths"))
    write(benchmark_line("no_overlap", {"z": 1}, trained_on="maths"))
    write(benchmark_line("graded", {"a": 0.5}, trained_on="maths"))


def test_pairs_beside_the_base_and_the_baseline(write, read):
    """Five to one of seven: differences 1 (5 times), 0 and -1, mean 4/7, squares about it 6 - 16/7."""
    write_pairs(write)
    section = read()["Benchmarks, question by question"]
    error = 100 * ((6 - 16 / 7) / 6 / 7) ** 0.5
    assert f"{error:.1f}" == "29.7"
    (rows,) = tables(section).values()
    assert rows == [
        [
            *("benchmark", "A", "B", "questions of both", "both right", "only A", "only B", "both wrong"),
            *("A less B, points", "p"),
        ],
        ["GSM8K", "sft_sd", "base", "3", "2", "0", "1", "0", "-33.3 ± 33.3", "1.000"],
        ["GSM8K", "tabom", "base", "7", "1", "5", "1", "0", "+57.1 ± 29.7", "0.219"],
        ["GSM8K", "no_overlap", "base", "0", "0", "0", "0", "0", "-", "-"],
        ["GSM8K", "tabom", "sft_sd", "2", "1", "0", "0", "1", "+0.0 ± 0.0", "1.000"],
        ["GSM8K", "no_overlap", "sft_sd", "0", "0", "0", "0", "0", "-", "-"],
    ]
    assert section.paragraphs[0].endswith("Comparisons made here: 3; p is not corrected for their number.")
    assert section.paragraphs[1:] == [
        "Left out, since scores other than right and wrong were given: graded and base on GSM8K, graded and sft_sd on "
        "GSM8K."
    ]


def test_another_baseline(write, read):
    write_pairs(write)
    (rows,) = tables(read(baseline="tabom")["Benchmarks, question by question"]).values()
    assert [row[1:3] for row in rows[4:]] == [["sft_sd", "tabom"], ["no_overlap", "tabom"]]
    message = "--baseline: expected one of base, sft_sd, tabom, no_overlap, graded, got t3d"
    with pytest.raises(TabomError, match=re.escape(message)):
        read(baseline="t3d")


def test_a_small_p(write, read):
    write(benchmark_line("base", [0] * 20), benchmark_line("base", [1], "mbpp"))
    write(benchmark_line("tabom", [1] * 20, trained_on="maths"), benchmark_line("tabom", [0], "mbpp", "maths"))
    (rows,) = tables(read()["Benchmarks, question by question"]).values()
    assert [row[-2:] for row in rows[1:]] == [["+100.0 ± 0.0", "< 0.001"], ["-100.0", "1.000"]]


def test_one_model_has_no_pairs(write, read):
    write(benchmark_line("base"))
    assert list(read()) == ["In short", "Benchmarks", "Cost of decoding", "Cost", "The runs"]


def test_cost_by_machine(write, read):
    cost = {"num_steps": 250.0, "num_tokens": 101.25, "tokens_per_second": 20.5, "num_decoded": 1319}
    gpu = ENVIRONMENT | {"gpus": ["H100"]}
    write(benchmark_line("base", cost=cost), environment=gpu)
    for seed, steps in ((1, 100.0), (2, 110.0)):
        write(benchmark_line("tabom", trained_on="maths", cost={"num_steps": steps}), seed=seed)
    write(benchmark_line("tabom", trained_on="maths", cost=cost), seed=3, environment=gpu)
    (rows,) = tables(read()["Cost of decoding"]).values()
    assert rows == [
        [
            *("model", "benchmark", "response length", "network calls a response", "tokens a response"),
            *("tokens per second", "responses decoded", "hardware"),
        ],
        ["base", "GSM8K", "256", "250.0", "101.2", "20.5", "1319", "H100"],
        ["tabom", "GSM8K", "256", "105.0 ± 7.1", "-", "-", "-", "2 x Intel Xeon"],
        ["tabom", "GSM8K", "256", "250.0", "101.2", "20.5", "1319", "H100"],
    ]


# -- trajectory discrimination ----------------------------------------------------------------------------------------


def test_discrimination_beside_the_papers(write, read):
    for model, trained_on, curves in (
        ("base", None, {"so_far": [1.0, 0.5, None], "final": [2.0, None, None]}),
        ("tabom", "maths", {"so_far": [3.0, 1.0, None], "final": [None, None, None]}),
    ):
        write(benchmark_line(model, trained_on=trained_on, discrimination=curves), path=LLADA)
    write(benchmark_line("base", benchmark="mbpp"), path=LLADA)  # not measured
    section = read()["Trajectory discrimination on benchmarks"]
    title = f"{LLADA}, post-trained on maths, tokens per step: 1; responses end at"
    assert tables(section) == {
        f"{title} the first end of sequence revealed so far (the paper's code)": [
            ["model", "GSM8K"],
            ["base", "0.750 (64)"],
            ["tabom", "2.000 (64)"],
            ["Base (paper)", "0.891"],
            ["SFT-SD (paper)", "0.927"],
            ["TABOM (paper)", "0.963"],
        ],
        f"{title} their final end of sequence": [["model", "GSM8K"], ["base", "2.000 (64)"], ["tabom", "-"]],
    }
    (plot,) = section.plots
    expected = [["denoising step", "base", "tabom"], ["0", "1", "3"], ["1", "0.5", "1"], ["2", "-", "-"]]
    assert (plot.name, plot.rows) == ("tds_0_gsm8k", expected)


def test_discrimination_of_several_seeds_and_of_other_bases(write, read):
    for seed, value in ((1, 1.0), (2, 2.0)):
        curves = {"so_far": [value], "final": [value]}
        write(benchmark_line("tabom", trained_on="maths", discrimination=curves), seed=seed)
    section = read()["Trajectory discrimination on benchmarks"]
    assert [rows[1:] for rows in tables(section).values()] == [[["tabom", "1.500 ± 0.707 (64)"]]] * 2
    assert section.plots[0].rows[1:] == [["0", "1.5"]]


def test_the_papers_discrimination_is_printed_as_published(golden):
    published = (golden.parent / "spec/results/table6_tds.csv").read_text().splitlines()
    shown = []
    for path in (LLADA, DREAM):
        for method, scores in paper_discrimination(path, 1).items():
            shown.append([path, method, *(scores[name] for name in ("GSM8K", "HumanEval", "MBPP", "MATH500"))])
    assert [row[1:] for row in shown] == [line.split(",")[1:] for line in published[1:]]
    assert paper_discrimination(LLADA, 2) == paper_discrimination("runs/demo/base", 1) == {}


# -- beside trainings -------------------------------------------------------------------------------------------------


def test_a_report_of_benchmarks_alone(tmp_path, write, monkeypatch, capsys):
    write(benchmark_line("<b>base", (1, 0), "own"))
    write(benchmark_line("<b>tabom", (1, 1), "own", "maths"))
    monkeypatch.chdir(tmp_path)
    run(["report", ".", "-o", "page.html", "-o", "page.md"])
    assert capsys.readouterr().out == "page.html: 2 runs\npage.md: 2 runs\n"
    html, markdown = ((tmp_path / f"page.{ending}").read_text() for ending in ("html", "md"))
    assert "<b>" not in html
    assert re.search(r'<th scope="row">&lt;b&gt;tabom</th>\s*<td data-label="own">100.0</td>', html)
    assert re.findall("^## (.*)", markdown, re.MULTILINE) == [
        "In short", "Benchmarks", "Benchmarks, question by question", "Cost of decoding", "Cost", "The runs",
    ]  # fmt: skip
    assert r"| \<b\>tabom | 100.0 |" in markdown
    assert "No frontier" not in markdown
    assert (
        "\nRuns: 2. Runs of benchmarks: 2. Models: 2. Benchmarks: 1. Their numbers are of the benchmarks' own "
        "questions.\n"
    ) in markdown


def test_beside_trainings(tmp_path, write, read):
    """Their sections stay as they are, the configs of benchmarks name no method, and the training has its own role."""
    lines = [check("test", accuracy_1_per_step=0.5, kl=0.1)]
    write_record(tmp_path / "t", "test", "t", lines=lines, ckpt_path="last")
    write_record(tmp_path / "f", "fit", "f", ["configs/demo/sft_sd.yaml"])
    alone = read()
    assert roles(alone) == {"t": "counted", "f": "no results of test, not counted"}
    write(benchmark_line("base"))
    write(benchmark_line("ours", trained_on="maths"), parent="f")
    both = read()
    assert [title for title in both if title not in alone] == [
        "Benchmarks",
        "Benchmarks, question by question",
        "Cost of decoding",
    ]
    assert both["Results"] == alone["Results"]
    assert roles(both) == {"t": "counted", "f": "training", "e0": "benchmark: gsm8k", "e1": "benchmark: gsm8k"}
    labels = {row[0]: row[2] for row in both["The runs"].tables[0].rows[1:]}
    assert labels == {"t": "TABOM", "f": "SFT-SD", "e0": "base", "e1": "ours"}
    assert [row[:3] for row in both["Cost"].tables[0].rows[1:]] == [
        ["TABOM", "test", "1"], ["SFT-SD", "fit", "1"], ["base", "evaluate", "1"], ["ours", "evaluate", "1"],
    ]  # fmt: skip
    assert both["In short"].paragraphs[0] == (
        "Runs: 4. Models that are compared: 1, of 1 methods. All numbers are measured on the test split. Runs of "
        "benchmarks: 2. Models: 2. Benchmarks: 1. Their numbers are of the benchmarks' own questions."
    )
    assert html_page("both", "here", list(both.values())).count(">GSM8K (in domain)<") == 1


def test_benchmarks_that_count_for_nothing(tmp_path, write, read):
    """Those of a training that was resumed later, or of a run that did not finish."""
    write(benchmark_line("base"), state="running")
    with pytest.raises(TabomError, match=r"^test: expected a finished run with results of this stage, found none$"):
        read()
    write_record(tmp_path / "f", "fit", "f", state="stopped")
    write(benchmark_line("half", trained_on="maths"), parent="f")
    write_record(tmp_path / "g", "fit", "g", parent="f")
    write(benchmark_line("whole", trained_on="maths"), parent="g")
    page = read()
    assert roles(page) == {
        "e0": "unfinished, not counted",
        "f": "resumed by g",
        "e1": "its training was resumed by g",
        "g": "training",
        "e2": "benchmark: gsm8k",
    }
    (rows,) = tables(page["Benchmarks"]).values()
    assert [row[0] for row in rows[1:]] == ["whole"]
