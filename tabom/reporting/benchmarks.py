"""What runs of benchmarks say: scores, two models on the same questions, and what decoding cost."""

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tabom.reporting.comparison import MISSING, Column
from tabom.reporting.page import Rows, Section, Table
from tabom.reporting.paired import Paired, pair
from tabom.reporting.paper import paper_scores
from tabom.reporting.results import BENCHMARK, base_model, differences, trainings
from tabom.reporting.sensitivity import short_names, show_value
from tabom.storage.run_record import BenchmarkResult, RunRecord
from tabom.storage.settings import flat

_KNOWN = {  # title and number of questions, in the paper's order
    "gsm8k": ("GSM8K", 1319),
    "math500": ("MATH500", 500),
    "humaneval": ("HumanEval", 164),
    "mbpp": ("MBPP", 500),
    "ifeval": ("IFEval", 541),
}
_TOKENS_PER_STEP = "sampler.tokens_per_step"
_SEED = "sampler.seed"
_PERCENT = Column("", "", scale=100)
_COSTS = (
    Column("num_steps", "network calls a response"),
    Column("num_tokens", "tokens a response"),
    Column("tokens_per_second", "tokens a second"),
    Column("num_decoded", "responses timed", digits=0),
)


@dataclass(frozen=True)
class Answers:
    """One model on one benchmark.

    Attributes:
        record: Of the run.
        result: What it reached.
        base_model: What the model is, or was trained from.
        seed: Of its training, where that is among the runs; else of the run.
        settings: What decides the decoding and the score, by dotted key; no seed is among them.
    """

    record: RunRecord
    result: BenchmarkResult
    base_model: str
    seed: int
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
        model = (self.base_model, self.result.trained_on, self.checkpoint, self.result.model)
        return *model, self.name, settings, seeds


@dataclass(frozen=True)
class Comparison:
    """Models that were measured in the same way: one table.

    Attributes:
        base_model: Of all of them.
        trained_on: Domain; None where no model says its own.
        tokens_per_step: None where the sampler has no such number.
        varied: Settings in which this table differs from others of the model, by dotted key.
        answers: The base's first.
    """

    base_model: str
    trained_on: str | None
    tokens_per_step: float | None
    varied: dict[str, Any]
    answers: list[Answers]

    @property
    def title(self) -> str:
        """What the models share."""
        names = short_names(list(self.varied))
        return ", ".join(
            [
                self.base_model or "no base model",
                *([f"post-trained on {self.trained_on}"] if self.trained_on else []),
                f"tokens a step: {show_value(self.tokens_per_step)}",
                *(f"{names[key]}: {MISSING if value is None else value}" for key, value in self.varied.items()),
            ]
        )

    @property
    def rows(self) -> list[tuple[bool, str]]:
        """Models, the base first."""
        return list(dict.fromkeys(answers.row for answers in self.answers))

    @property
    def benchmarks(self) -> dict[str, str]:
        """Domains by benchmark: the one that was trained on first, and then as in the paper."""
        domains = {answers.name: answers.result.domain for answers in self.answers}
        order = [*_KNOWN, *(name for name in domains if name not in _KNOWN)]
        return dict(sorted(domains.items(), key=lambda item: (item[1] != self.trained_on, order.index(item[0]))))

    def of(self, benchmark: str, row: tuple[bool, str] | None = None) -> list[Answers]:
        """Runs on a benchmark, of one model or of all."""
        return [answers for answers in self.answers if answers.name == benchmark and row in (answers.row, None)]


@dataclass(frozen=True)
class Benchmarks:
    """What is reported.

    Attributes:
        comparisons: One a table.
        answers: All that count.
        roles: What each run of benchmarks counts as, by the path of its record.
    """

    comparisons: list[Comparison]
    answers: list[Answers]
    roles: dict[Path, str]

    @property
    def models(self) -> list[str]:
        """Names, in order of first appearance."""
        return list(dict.fromkeys(answers.result.model for answers in self.answers))

    @property
    def summary(self) -> str:
        """How much there is."""
        num_runs = len({answers.record.path for answers in self.answers})
        num_benchmarks = len({answers.name for answers in self.answers})
        return (
            f"Runs of benchmarks: {num_runs}. Models: {len(self.models)}. Benchmarks: {num_benchmarks}. "
            "Their numbers are of the benchmarks' own questions."
        )


def collect_benchmarks(records: Sequence[RunRecord], roles: Mapping[Path, str]) -> Benchmarks:
    """Find out which results count and which may stand in one table.

    Of several runs of a model with the same settings and seeds the one with the most questions counts, of several such
    the last.

    Args:
        records: By time.
        roles: Of all runs, by the path of their records; those of :data:`BENCHMARK` are read.
    """
    fits = [record for record in records if record.verb == "fit"]
    own = [record for record in records if roles[record.path] == BENCHMARK]
    counted: dict[tuple[Any, ...], Answers] = {}
    replaced: dict[tuple[Path, str], str] = {}
    for answers in (_answers(record, result, fits) for record in own for result in record.benchmarks):
        earlier = counted.get(answers.identity)
        if earlier is None:
            counted[answers.identity] = answers
        elif len(answers.result.scores) >= len(earlier.result.scores):
            counted[answers.identity] = answers
            replaced[earlier.record.path, earlier.name] = f"repeated by {answers.record.run_id}"
        else:
            replaced[answers.record.path, answers.name] = f"fewer questions than in {earlier.record.run_id}"
    results = list(counted.values())
    return Benchmarks(_comparisons(results), results, {r.path: _role(r, results, replaced) for r in own})


def benchmark_sections(benchmarks: Benchmarks, baseline: str) -> list[Section]:
    """Scores, pairs and cost; empty where no benchmark was run.

    Args:
        benchmarks: That count.
        baseline: Model that the others are compared with beside the base.
    """
    if not benchmarks.answers:
        return []
    scores = [_scores(comparison) for comparison in benchmarks.comparisons]
    texts = [
        "Scores in %, ± their standard error over the questions; where runs of several seeds count, the mean over them "
        "± its standard deviation over the seeds, as the cell says. In brackets: how many questions were answered, "
        "where it is not all of them (all that were asked in the table, where the benchmark's size is not known). All "
        "rows of a table were decoded with the same settings.",
    ]
    if any("(paper)" in row[0] for table in scores for row in table.rows):
        texts.append(
            "Rows with (paper) are the paper's numbers, measured with its own harness, on other hardware: a difference "
            "to them may come from either."
        )
    return [
        Section("Benchmarks", texts, tables=scores, warnings=_warnings(benchmarks)),
        *_pairs(benchmarks, baseline),
        _cost(benchmarks),
    ]


def _answers(record: RunRecord, result: BenchmarkResult, fits: Sequence[RunRecord]) -> Answers:
    training = (trainings(record, fits) or [record])[-1]
    settings = dict(flat(result.settings)) | {"task": result.task, "metric": result.metric}
    settings.pop(_SEED, None)
    return Answers(record, result, base_model(training), training.seed, settings)


def _role(record: RunRecord, counted: Iterable[Answers], replaced: Mapping[tuple[Path, str], str]) -> str:
    names = [answers.name for answers in counted if answers.record.path == record.path]
    others = [f"{name} {why}" for (path, name), why in replaced.items() if path == record.path and name not in names]
    return "; ".join([f"{BENCHMARK}: {', '.join(names)}"] * bool(names) + others)


def _comparisons(answers: Sequence[Answers]) -> list[Comparison]:
    """One a base model, tokens a step, domain, and combination of what else differs between runs of one benchmark."""
    alike = _grouped(answers, lambda one: (one.base_model, one.settings.get(_TOKENS_PER_STEP))).values()
    return [comparison for group in alike for part in _split(group) for comparison in _by_domain(*part)]


def _split(answers: Sequence[Answers]) -> list[tuple[dict[str, Any], list[Answers]]]:
    """By the settings that differ between runs of one benchmark; with these settings."""
    by_benchmark = _grouped(answers, lambda one: one.name).values()
    names = dict.fromkeys(key for one in answers for key in one.settings)
    varied = [key for key in names if any(len({str(one.settings.get(key)) for one in own}) > 1 for own in by_benchmark)]
    parts = _grouped(answers, lambda one: tuple(str(one.settings.get(key)) for key in varied)).values()
    return [({key: part[0].settings.get(key) for key in varied}, part) for part in parts]


def _by_domain(varied: dict[str, Any], answers: Sequence[Answers]) -> list[Comparison]:
    """The models of each domain, beside the base and what else has no domain."""
    domains = _grouped(sorted(answers, key=lambda one: one.row[0]), lambda one: one.result.trained_on)
    others = domains.pop(None, [])
    first = answers[0]
    return [
        Comparison(first.base_model, domain, first.settings.get(_TOKENS_PER_STEP), varied, [*others, *own])
        for domain, own in (domains or {None: []}).items()
    ]


def _grouped(answers: Iterable[Answers], key: Callable[[Answers], Any]) -> dict[Any, list[Answers]]:
    groups: dict[Any, list[Answers]] = {}
    for one in answers:
        groups.setdefault(key(one), []).append(one)
    return groups


def _title(benchmark: str) -> str:
    return _KNOWN[benchmark][0] if benchmark in _KNOWN else benchmark


def _scores(comparison: Comparison) -> Table:
    marks = {True: " (in domain)", False: " (out of domain)"}
    heads = [
        _title(name) + (marks[domain == comparison.trained_on] if domain and comparison.trained_on else "")
        for name, domain in comparison.benchmarks.items()
    ]
    wholes = {name: _num_questions(name, comparison.of(name)) for name in comparison.benchmarks}
    rows = [
        [row[1], *(_score(comparison.of(name, row), whole) for name, whole in wholes.items())]
        for row in comparison.rows
    ]
    caption = comparison.title
    paper = paper_scores(comparison.base_model, comparison.trained_on, comparison.tokens_per_step)
    if paper is not None:
        caption += f"; (paper): {paper.source}"
        rows += [
            [f"{method} (paper)", *(scores.get(_title(name), MISSING) for name in wholes)]
            for method, scores in paper.scores.items()
        ]
    return Table(caption, [["model", *heads], *rows])


def _num_questions(benchmark: str, answers: Iterable[Answers]) -> int:
    """Of the whole benchmark, as far as that is known."""
    asked = {question for one in answers for question in one.result.scores}
    return max(_KNOWN.get(benchmark, ("", 0))[1], len(asked))


def _score(answers: Sequence[Answers], whole: int) -> str:
    """Of one model on one benchmark."""
    if not answers:
        return MISSING
    text = _PERCENT.show([one.result.score for one in answers])
    error = answers[0].result.standard_error
    if len(answers) > 1:
        text += f" over seeds {', '.join(str(one.seed) for one in answers)}"
    elif error is not None:
        text += f" ± {100 * error:.1f}"
    fewest = min(len(one.result.scores) for one in answers)
    return text if fewest == whole else f"{text} ({fewest:,} of {whole:,})"


def _pairs(benchmarks: Benchmarks, baseline: str) -> list[Section]:
    """Nothing where no two models can be compared."""
    tables = []
    left_out: dict[str, None] = {}
    for comparison in benchmarks.comparisons:
        rows = []
        for first, second in _couples(comparison, baseline):
            if {*first.result.scores.values(), *second.result.scores.values()} <= {0, 1}:
                rows.append(_pair_row(comparison, first, second))
            else:
                left_out.setdefault(f"{first.result.model} and {second.result.model} on {_title(first.name)}")
        if rows:
            head = ["benchmark", "A", "B", "questions of both", "both right", "only A", "only B", "both wrong"]
            tables.append(Table(comparison.title, [[*head, "A less B, points", "p"], *rows]))
    num_tests = sum(row[-1] != MISSING for table in tables for row in table.rows[1:])
    texts = [
        "Two models on the questions that both answered; the standard error is that of the mean difference of a "
        f"question. p: McNemar's test, exact, two-sided. Comparisons made here: {num_tests}; p is not corrected for "
        "their number."
    ]
    if left_out:
        texts.append(f"Left out, since scores other than right and wrong were given: {', '.join(left_out)}.")
    return [Section("Benchmarks, question by question", texts, tables=tables)] if tables or left_out else []


def _couples(comparison: Comparison, baseline: str) -> Iterable[tuple[Answers, Answers]]:
    """Every model beside the base, and every other trained one beside the baseline, by benchmark.

    A run is compared with that of the same seed, or with the first where there is none.
    """
    references = [row for row in comparison.rows if not row[0]][:1]
    references += [row for row in comparison.rows if row == (True, baseline)]
    for name, reference in itertools.product(comparison.benchmarks, references):
        others = comparison.of(name, reference)
        for one in comparison.of(name) if others else ():
            if one.row != reference and one.row[0] >= reference[0]:
                yield one, next((other for other in others if other.seed == one.seed), others[0])


def _pair_row(comparison: Comparison, first: Answers, second: Answers) -> list[str]:
    names = [
        one.result.model + (f", seed {one.seed}" if len(comparison.of(one.name, one.row)) > 1 else "")
        for one in (first, second)
    ]
    paired = pair(first.result.scores, second.result.scores)
    counts = (paired.num_questions, paired.both, paired.only_first, paired.only_second, paired.neither)
    return [_title(first.name), *names, *map(str, counts), *_difference(paired)]


def _difference(paired: Paired) -> tuple[str, str]:
    """In points, and p."""
    if paired.num_questions == 0:
        return MISSING, MISSING
    error = "" if paired.standard_error is None else f" ± {100 * paired.standard_error:.1f}"
    p = "< 0.001" if paired.p_value < 0.001 else f"{paired.p_value:.3f}"
    return f"{100 * paired.difference:+.1f}{error}", p


def _cost(benchmarks: Benchmarks) -> Section:
    tables = []
    for comparison in benchmarks.comparisons:
        rows: Rows = [["model", "benchmark", "response length", *(column.title for column in _COSTS), "hardware"]]
        for row, name in itertools.product(comparison.rows, comparison.benchmarks):
            machines = _grouped(comparison.of(name, row), _machine)
            rows += [
                [row[1], _title(name), _length(own[0]), *(_mean_cost(own, column) for column in _COSTS), machine]
                for machine, own in machines.items()
            ]
        tables.append(Table(comparison.title, rows))
    text = (
        "Means over the responses, and ± standard deviation over the seeds where there are several. Tokens of a "
        "response count up to its end. Tokens a second compare on the same machine only, with nothing else on it, and "
        "are of the responses that the run decoded itself."
    )
    return Section("Cost of decoding", [text], tables=tables)


def _machine(answers: Answers) -> str:
    content = answers.record.environment
    return ", ".join(content["gpus"]) or f"{content['num_cpus']} x {content['cpu']}"


def _mean_cost(answers: Sequence[Answers], column: Column) -> str:
    values = [one.result.cost[column.metric] for one in answers if column.metric in one.result.cost]
    return column.show(values) if values else MISSING


def _length(answers: Answers) -> str:
    """Of a response's canvas, which bounds the network calls."""
    return show_value(answers.settings.get("response_length"))


def _warnings(benchmarks: Benchmarks) -> list[str]:
    records = {answers.record.path: answers.record for answers in benchmarks.answers}
    return differences("The runs of benchmarks", list(records.values()))
