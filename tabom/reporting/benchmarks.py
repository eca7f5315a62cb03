"""What runs of benchmarks say: scores, two models on the same questions, and what decoding cost."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from tabom.reporting.comparison import (
    MISSING,
    PERCENT,
    Column,
    grouped,
    short_names,
    show_value,
    table_rows,
)
from tabom.reporting.curves import CURVES, plot_lines
from tabom.reporting.page import Plot, Section, Table
from tabom.reporting.paired import paired_cells
from tabom.reporting.paper import BENCHMARKS, DIFFERENCES, LM_EVAL, PaperScores, paper_discrimination, paper_scores
from tabom.reporting.results import BENCHMARK, Results, differences
from tabom.storage.run_record import BenchmarkResult, RunRecord
from tabom.storage.settings import flat

_TOKENS_PER_STEP = "sampler.tokens_per_step"
_SEED = "sampler.seed"
_VARIANT = "benchmark.variant"
_COSTS = (
    Column("num_steps", "network calls a response"),
    Column("num_tokens", "tokens a response"),
    Column("tokens_per_second", "tokens per second"),
    Column("num_decoded", "responses decoded", digits=0),
)
_SCORES = """Scores in %, ± their standard error over the questions; where runs of several seeds count, the mean over \
them ± its standard deviation over the seeds, as the cell says. In brackets: how many questions were answered, where \
it is not all of them (all that were asked in the table, where the benchmark's size is not known). All rows of a table \
were decoded with the same settings."""
_PAPER = """Rows with (paper) are the paper's numbers, measured with its own harness, on other hardware: a difference \
to them may come from either. The last table says in what the harness differs, as far as its release tells."""
_PAIRS = """Two models on the questions that both answered; the standard error is that of the mean difference of a \
question. p: McNemar's test, exact, two-sided. Comparisons made here: {}; p is not corrected for their number."""
_TDS = """Variance of the entropy (nats²) over the positions that are masked before a step, where there are at least \
two, averaged over responses and then over steps; in brackets how many responses. Lines are means over the seeds, with \
responses that end so far. It rises with any entropy bonus: no measure of quality by itself."""
_TDS_COLUMN = Column("", "TDS", digits=3)
_ENDS = {
    "so_far": "responses end at the first end of sequence revealed so far (the paper's code)",
    "final": "responses end at their final end of sequence",
}
_COST = """Means over the responses, and ± standard deviation over the seeds where there are several. Tokens of a \
response count up to its end. Tokens a second compare on the same machine only, with nothing else on it, and are of \
the responses that the run decoded itself."""


@dataclass(frozen=True)
class Answers:
    """One model on one benchmark.

    Attributes:
        record: Of the run.
        result: What it reached.
        training: The last one of the model, where that is among the runs; else the run itself.
        settings: What decides the decoding and the score, by dotted key; no seed is among them.
    """

    record: RunRecord
    result: BenchmarkResult
    training: RunRecord
    settings: dict[str, Any]

    @property
    def row(self) -> tuple[bool, str]:
        """Model that it is a row of: whether it was post-trained, and its name."""
        return self.result.trained_on is not None or self.checkpoint is not None, self.result.model

    @property
    def checkpoint(self) -> str | None:
        """Run or path that the weights are of; None for those of a base model."""
        return self.record.parent or self.record.config.get("ckpt_path")

    @property
    def name(self) -> str:
        """Benchmark."""
        return self.result.benchmark

    @property
    def identity(self) -> tuple[Any, ...]:
        """What two runs share that measured the same."""
        settings = tuple(sorted((key, str(value)) for key, value in self.settings.items()))
        seeds = (self.record.seed, dict(flat(self.result.settings)).get(_SEED))
        return self.training.base_model, self.result.trained_on, self.checkpoint, *self.row, self.name, settings, seeds


@dataclass(frozen=True)
class Comparison:
    """Models that were measured in the same way: one table.

    Attributes:
        title: What they share.
        trained_on: Domain; None where no model says its own.
        paper: What the paper measured in the same way.
        answers: The base's first.
    """

    title: str
    trained_on: str | None
    paper: PaperScores | None
    answers: list[Answers]

    @property
    def rows(self) -> list[tuple[bool, str]]:
        """Models, the base first."""
        return list(dict.fromkeys(one.row for one in self.answers))

    @property
    def benchmarks(self) -> dict[str, str]:
        """Domains by benchmark: the one that was trained on first, and then as in the paper."""
        domains = {one.name: one.result.domain for one in self.answers}
        order = [*BENCHMARKS, *(name for name in domains if name not in BENCHMARKS)]
        return dict(sorted(domains.items(), key=lambda item: (item[1] != self.trained_on, order.index(item[0]))))

    def of(self, benchmark: str, row: tuple[bool, str] | None = None) -> list[Answers]:
        """Runs on a benchmark, of one model or of all."""
        return [one for one in self.answers if one.name == benchmark and row in (one.row, None)]


def collect_benchmarks(records: Sequence[RunRecord], results: Results) -> tuple[list[Answers], dict[Path, str]]:
    """Find out which results count, and what each run of benchmarks counts as, by the path of its record.

    Of several runs of a model with the same settings and seeds the one with the most questions counts, of several such
    the last.

    Args:
        records: By time.
        results: Of the same records: those with the role :data:`BENCHMARK` are read.
    """
    own = [record for record in records if results.roles[record.path] == BENCHMARK]
    answers = []
    for record in own:
        for result in record.benchmarks:
            settings = dict(flat(result.settings)) | {"task": result.task, "metric": result.metric}
            settings.pop(_SEED, None)
            answers.append(Answers(record, result, (results.trainings[record.path] or [record])[-1], settings))
    counted: list[Answers] = []
    others: dict[tuple[Path, str], str] = {}
    for same in grouped(answers, lambda one: one.identity).values():
        place = max(range(len(same)), key=lambda index: (len(same[index].result.scores), index))
        best = same[place]
        counted.append(best)
        for index, one in enumerate(same):
            if index != place:
                why = "repeated by" if index < place else "fewer questions than in"
                others[one.record.path, one.name] = f"{one.name} {why} {best.record.run_id}"
    roles = {}
    for path in (record.path for record in own):
        names = [one.name for one in counted if one.record.path == path]
        why = [text for (other, name), text in others.items() if other == path and name not in names]
        roles[path] = "; ".join([f"{BENCHMARK}: {', '.join(names)}"] * bool(names) + why)
    return counted, roles


def benchmark_sections(answers: Sequence[Answers], baseline: str) -> list[Section]:
    """Scores, pairs and cost; empty where no benchmark was run.

    Args:
        answers: That count.
        baseline: Model that the others are compared with beside the base.
    """
    if not answers:
        return []
    comparisons = list(_comparisons(answers))
    texts = [_SCORES, _PAPER] if any(comparison.paper for comparison in comparisons) else [_SCORES]
    warnings = differences("The runs of benchmarks", [*{one.record.path: one.record for one in answers}.values()])
    cost = [Table(comparison.title, table_rows(_cost(comparison))) for comparison in comparisons]
    return [
        Section(
            "Benchmarks", texts, tables=[*map(_scores, comparisons), *_differences(comparisons)], warnings=warnings
        ),
        *_pairs(comparisons, baseline),
        *_discrimination(comparisons),
        Section("Cost of decoding", [_COST], tables=cost),
    ]


def _comparisons(answers: Sequence[Answers]) -> Iterator[Comparison]:
    """One a base model, tokens per step, domain, and combination of what else differs between runs of one benchmark."""
    alike = grouped(answers, lambda one: (one.training.base_model, one.settings.get(_TOKENS_PER_STEP)))
    for (base, tokens), own in alike.items():
        by_benchmark = grouped(own, lambda one: one.name).values()
        keys = dict.fromkeys(key for one in own for key in one.settings)
        varied = [key for key in keys if any(len({_setting(one, key) for one in same}) > 1 for same in by_benchmark)]
        names = short_names(varied).values()
        for values, part in grouped(own, lambda one, keys=varied: tuple(_setting(one, key) for key in keys)).items():
            domains = grouped(sorted(part, key=lambda one: one.row[0]), lambda one: one.result.trained_on)
            others = domains.pop(None, [])  # the base, beside the models of each domain
            for domain, models in (domains or {None: []}).items():
                shared = [
                    base or "no base model",
                    *([f"post-trained on {domain}"] if domain else []),
                    f"tokens per step: {show_value(tokens)}",
                    *(f"{name}: {value}" for name, value in zip(names, values, strict=True)),
                ]
                yield Comparison(", ".join(shared), domain, paper_scores(base, domain, tokens), [*others, *models])


def _setting(answers: Answers, key: str) -> str:
    value = answers.settings.get(key)
    return MISSING if value is None else str(value)


def _title(benchmark: str) -> str:
    return BENCHMARKS[benchmark][0] if benchmark in BENCHMARKS else benchmark


def _scores(comparison: Comparison) -> Table:
    heads, wholes = [], {}
    for name, domain in comparison.benchmarks.items():
        mark = f" ({'in' if domain == comparison.trained_on else 'out of'} domain)"
        heads.append(_title(name) + (mark if domain and comparison.trained_on else ""))
        asked = {question for one in comparison.of(name) for question in one.result.scores}
        wholes[name] = max(BENCHMARKS.get(name, ("", 0))[1], len(asked))
    rows = [
        [row[1], *(_score(comparison.of(name, row), whole) for name, whole in wholes.items())]
        for row in comparison.rows
    ]
    caption = comparison.title
    if comparison.paper is not None:
        caption += f"; (paper): {comparison.paper.source}"
        rows += [
            [f"{method} (paper)", *(scores.get(_title(name), MISSING) for name in wholes)]
            for method, scores in comparison.paper.scores.items()
        ]
    return Table(caption, [["model", *heads], *rows])


def _differences(comparisons: Sequence[Comparison]) -> Iterator[Table]:
    """In what the rows differ from the paper's below them; nothing where there are none."""
    shown = {
        (str(one.settings.get(_VARIANT, LM_EVAL)), one.name)
        for comparison in comparisons
        for one in comparison.answers
        if comparison.paper is not None
    }
    rows = [
        [_title(benchmark), variant, text]
        for variant, texts in DIFFERENCES.items()
        for benchmark, text in texts.items()
        if (variant, benchmark) in shown
    ]
    if rows:
        yield Table("In what our rows differ from the paper's", [["benchmark", "variant", "difference"], *rows])


def _score(answers: Sequence[Answers], whole: int) -> str:
    """Of one model on one benchmark, which has so many questions as far as that is known."""
    if len(answers) == 1:
        text = PERCENT.with_error(answers[0].result.score, answers[0].result.standard_error)
    else:
        text = PERCENT.show(one.result.score for one in answers)
        text += f" over seeds {', '.join(str(one.training.seed) for one in answers)}" if answers else ""
    fewest = min((len(one.result.scores) for one in answers), default=whole)
    return text if fewest == whole else f"{text} ({fewest:,} of {whole:,})"


def _pairs(comparisons: Sequence[Comparison], baseline: str) -> list[Section]:
    """Nothing where no two models can be compared."""
    tables = []
    left_out: dict[str, None] = {}
    for comparison in comparisons:
        rows = []
        for first, second in _couples(comparison, baseline):
            if {*first.result.scores.values(), *second.result.scores.values()} <= {0, 1}:
                rows.append(_pair_row(comparison, first, second))
            else:
                left_out.setdefault(f"{first.result.model} and {second.result.model} on {_title(first.name)}")
        if rows:
            tables.append(Table(comparison.title, table_rows(rows)))
    texts = [_PAIRS.format(sum(row[-1] != MISSING for table in tables for row in table.rows[1:]))]
    if left_out:
        texts.append(f"Left out, since scores other than right and wrong were given: {', '.join(left_out)}.")
    return [Section("Benchmarks, question by question", texts, tables=tables)] if tables or left_out else []


def _couples(comparison: Comparison, baseline: str) -> Iterator[tuple[Answers, Answers]]:
    """Every model beside the base, and every other trained one beside the baseline, by benchmark.

    A run is compared with that of the same seed, or with the first where there is none.
    """
    references = [row for row in comparison.rows if not row[0]][:1]
    references += [row for row in comparison.rows if row == (True, baseline)]
    for name, reference in itertools.product(comparison.benchmarks, references):
        others = comparison.of(name, reference)
        for one in comparison.of(name) if others else ():
            if one.row != reference and one.row[0] >= reference[0]:
                yield one, next((other for other in others if other.training.seed == one.training.seed), others[0])


def _pair_row(comparison: Comparison, *couple: Answers) -> dict[str, str]:
    first, second = (
        one.result.model + (f", seed {one.training.seed}" if len(comparison.of(one.name, one.row)) > 1 else "")
        for one in couple
    )
    cells = paired_cells(*(one.result.scores for one in couple))
    return {"benchmark": _title(couple[0].name), "A": first, "B": second, **cells}


def _discrimination(comparisons: Sequence[Comparison]) -> Iterator[Section]:
    """Scores beside the paper's Table 6, and curves by step (its Fig. 2); nothing where no entropies were recorded."""
    tables, plots = [], []
    for number, comparison in enumerate(comparisons):
        measured = [one for one in comparison.answers if one.result.discrimination is not None]
        names = [name for name in comparison.benchmarks if name in {one.name for one in measured}]
        for end, words in _ENDS.items():
            rows = [
                [row[1], *(_discrimination_cell(comparison.of(name, row), end) for name in names)]
                for row in dict.fromkeys(one.row for one in measured)
            ]
            if end == "so_far" and rows:
                paper = paper_discrimination(
                    measured[0].training.base_model, measured[0].settings.get(_TOKENS_PER_STEP)
                )
                rows += [
                    [f"{method} (paper)", *(scores.get(_title(name), MISSING) for name in names)]
                    for method, scores in paper.items()
                ]
            if rows:
                tables.append(Table(f"{comparison.title}; {words}", [["model", *map(_title, names)], *rows]))
        plots += [_curves(f"tds_{number}_{name}", comparison, name) for name in names]
    if tables:
        yield Section("Trajectory discrimination on benchmarks", [_TDS], plots, tables)


def _discrimination_cell(answers: Sequence[Answers], end: str) -> str:
    measured = [one.result.discrimination for one in answers if one.result.discrimination is not None]
    scores = [one.scores[end] for one in measured if end in one.scores]
    numbers = sorted({f"{one.num_responses:,}" for one in measured})
    return f"{_TDS_COLUMN.show(scores)} ({' and '.join(numbers)})" if scores else MISSING


def _curves(name: str, comparison: Comparison, benchmark: str) -> Plot:
    """One line a model, the mean over its seeds."""
    lines = {}
    for row in comparison.rows:
        found = [one.result.discrimination for one in comparison.of(benchmark, row)]
        points = [one.curves["so_far"] for one in found if one is not None and "so_far" in one.curves]
        if points:
            lines[row[1]] = pd.DataFrame(points, dtype=float).mean()
    title, xlabel, ylabel = CURVES["tds"]
    title = f"{title} on {_title(benchmark)}"
    rows = [
        [str(step), *(MISSING if pd.isna(value) else f"{value:.4g}" for value in values)]
        for step, *values in pd.DataFrame(lines).itertuples()
    ]
    figure = plot_lines({model: (list(line.index), list(line)) for model, line in lines.items()}, title, xlabel, ylabel)
    text = f"{title}: {ylabel} against {xlabel}, one line a model."
    return Plot(name, f"{title}: {comparison.title}.", text, figure, [[xlabel, *lines], *rows])


def _cost(comparison: Comparison) -> Iterator[dict[str, str]]:
    """One row a model, benchmark and machine; the response's length is its canvas, which bounds the network calls."""
    for row, name in itertools.product(comparison.rows, comparison.benchmarks):
        for machine, own in grouped(comparison.of(name, row), lambda one: one.record.machine).items():
            length = {"response length": show_value(own[0].settings.get("response_length"))}
            cells = {column.title: column.show(one.result.cost.get(column.metric) for one in own) for column in _COSTS}
            yield {"model": row[1], "benchmark": _title(name), **length, **cells, "hardware": machine}
