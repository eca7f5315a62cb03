"""Settings of all our classes: ranges are refused in one style, and so is what nothing would read."""

import functools
import math

import pytest
import torch
from torch.optim import AdamW

from tabom.callbacks import LastCheckpoint
from tabom.corruption import BlockStates, ComplementaryMasking, TrajectorySegments, UniformMasking
from tabom.data import PretrainingDataModule, PromptDataModule, TrajectoryDataModule, ValidationSizes
from tabom.errors import TabomError
from tabom.evaluation import BenchmarkModule
from tabom.evaluation.likelihood import MonteCarlo
from tabom.modules import CosineWithWarmup, DistillationModule, TrainingModule
from tabom.objectives import (
    DOpsdObjective,
    DParallelObjective,
    GiftObjective,
    LiftObjective,
    NelboObjective,
    PaplObjective,
    Ranking,
    T3DObjective,
    TabomObjective,
    TadObjective,
    Warmup,
)
from tabom.samplers import Sampler
from tabom.samplers.schedules import (
    AncestralUnmasking,
    ConfidenceThreshold,
    EntropyBound,
    EvenSplit,
    LinearTimesteps,
    RoundedTimesteps,
)
from tabom.samplers.trace_credit import TraceCredit
from tabom.tasks import Countdown, PythonSource, Sudoku4x4
from tabom.validation import PassAt, Validation

PROMPTS = functools.partial(PromptDataModule, Sudoku4x4(), 19)
TRAJECTORIES = functools.partial(TrajectoryDataModule, "x", Sudoku4x4(), 19)
PRETRAINING = functools.partial(PretrainingDataModule, Sudoku4x4(), PythonSource(), 19)
TRAINING = functools.partial(TrainingModule, None, NelboObjective(), functools.partial(AdamW, lr=1e-3))
COSINE = functools.partial(CosineWithWarmup, AdamW([torch.zeros(1, requires_grad=True)]))
WARMED = lambda name: lambda start: TabomObjective(**{f"{name}_warmup": Warmup(1, start)})  # noqa: E731

COUNTS = {  # at least 1
    LastCheckpoint: ["every_n_steps"],
    BlockStates: ["block_length"],
    functools.partial(ComplementaryMasking, mask_ratio=0.5, supervise_padding=True): ["block_length"],
    TrajectorySegments: ["window"],
    PROMPTS: ["num_queries", "num_samples", "queries_per_shard"],
    TRAJECTORIES: ["batch_size"],
    PRETRAINING: ["batch_size", "num_base_rows", "num_task_examples"],
    functools.partial(DistillationModule, None, Sampler()): ["batch_size"],
    functools.partial(BenchmarkModule, None, Sampler()): ["batch_size"],
    MonteCarlo: ["num_samples", "batch_size", "context_length"],
    DParallelObjective: ["block_length"],
    T3DObjective: ["block_length", "path_tokens", "reference_interval"],
    TabomObjective: ["window"],
    TadObjective: ["window"],
    DOpsdObjective: ["top_k"],
    Warmup: ["num_steps"],
    Sampler: ["tokens_per_step", "top_k", "block_length"],
    EvenSplit: ["num_steps"],
    RoundedTimesteps: ["num_steps"],
    LinearTimesteps: ["num_steps"],
    functools.partial(LinearTimesteps, 4): ["max_tokens_per_step"],
    AncestralUnmasking: ["num_steps"],
    ValidationSizes: ["num_base_examples", "batch_size"],
}
WEIGHTS = {  # at least 0
    DParallelObjective: ["certainty_weight"],
    PaplObjective: ["alpha"],
    Ranking: ["min_gap"],
    T3DObjective: ["fake_weight", "path_weight", "sample_temperature"],
    NelboObjective: ["late_bias"],
    UniformMasking: ["late_bias"],
    TabomObjective: ["margin", "rank_weight"],
    TadObjective: ["reconstruction_weight", "divergence_weight"],
    LiftObjective: ["tilt"],
    GiftObjective: ["tilt"],
    Sampler: ["temperature", "score_temperature", "cfg_scale"],
    EntropyBound: ["bound"],
    TraceCredit: ["weight", "exponent"],
    functools.partial(Validation, Sampler()): ["forgetting_weight"],
}
COUNTS_OR_NONE = {  # at least 0
    TRAJECTORIES: ["num_workers"],
    PRETRAINING: ["num_workers"],
    COSINE: ["num_warmup_steps"],
    ValidationSizes: ["num_validation_prompts", "num_test_prompts", "num_base_prompts"],
    functools.partial(Validation, Sampler()): ["num_samples"],
}
SHARES = [
    (TRAINING, "interpolation", "at least 0 and at most 1", (-0.1, 1.1)),
    (BlockStates, "random_ratio", "at least 0 and at most 1", (-0.1, 1.1)),
    (TraceCredit, "decay", "at least 0 and at most 1", (-0.1, 1.1)),
    (UniformMasking, "min_mask_ratio", "at least 0 and below 1", (-0.1, 1.0)),
    (TRAJECTORIES, "held_out", "at least 0 and below 1", (-0.1, 1.0)),
    (PRETRAINING, "task_share", "at least 0 and below 1", (-0.1, 1.0)),
    (DParallelObjective, "mask_ratio", "above 0 and below 1", (0.0, 1.0)),
    (functools.partial(AncestralUnmasking, 4), "eps", "above 0 and below 1", (0.0, 1.0)),
    (NelboObjective, "cart_p", "above 0 and at most 1", (0.0, 1.1)),
    (Sampler, "top_p", "above 0 and at most 1", (0.0, 1.1)),
    (ConfidenceThreshold, "threshold", "above 0 and at most 1", (0.0, 1.1)),
    (DParallelObjective, "entropy_temperature", "above 0", (0.0, -1.0)),
    (PaplObjective, "temperature", "above 0", (0.0, -1.0)),
    (T3DObjective, "beta", "above 0", (0.0, -1.0)),
    (Ranking, "inverse_temperature", "above 0", (0.0, -1.0)),
    (DOpsdObjective, "clip", "above 0", (0.0, -1.0)),
    (DOpsdObjective, "retain_ratio", "above 0 and at most 1", (0.0, 1.1)),
]
CASES = [
    *((make, name, "at least 1", (0, -1)) for make, names in COUNTS.items() for name in names),
    *((make, name, "at least 0", (-1, -3)) for make, names in COUNTS_OR_NONE.items() for name in names),
    *((make, name, "at least 0", (-1.0, -0.5)) for make, names in WEIGHTS.items() for name in names),
    *SHARES,
]


def identity(case):
    make, name, *_ = case
    return f"{getattr(make, 'func', make).__name__}.{name}"


@pytest.mark.parametrize("case", CASES, ids=map(identity, CASES))
def test_numbers_out_of_range(case):
    make, name, expected, values = case
    for value in (*values, math.nan, math.inf) if isinstance(values[0], float) else values:
        finite = r" and finite" if value == math.inf else ""
        with pytest.raises(TabomError, match=rf"^(\w+\.)?{name}: expected {expected}{finite}, got {value}$"):
            make(**{name: value})


@pytest.mark.parametrize(("name", "least"), [("rank_weight", 0), ("margin", 0), ("window", 1)])
def test_where_a_warm_up_starts(name, least):
    for start in (least - 1.0, math.nan):
        with pytest.raises(TabomError, match=rf"^{name}_warmup.start: expected at least {least}, got {start}$"):
            WARMED(name)(start)


UNUSED = [
    (functools.partial(NelboObjective, cart_p=0.3), "cart_p: expected 0.1 with weighting mean"),
    (
        functools.partial(NelboObjective, weighting="inverse_ratio", late_bias=1.0),
        "late_bias: expected 0.0 with weighting inverse_ratio",
    ),
    (
        functools.partial(TabomObjective, margin=0.3, ranking=Ranking("plackett_luce")),
        "margin: expected 0.1 with surrogate plackett_luce",
    ),
    (functools.partial(T3DObjective, path_tokens=2), "path_tokens: expected 4 with path rank_weighted"),
    (functools.partial(T3DObjective, random_ratio=0.5), "random_ratio: expected 0.1 with states uniform"),
    (
        functools.partial(TRAJECTORIES, truncate_answers=True),
        "truncate_answers: expected False with answers self_distilled",
    ),
    (
        functools.partial(PRETRAINING, task_share=0.0, num_task_examples=3),
        "num_task_examples: expected 120 with task_share 0",
    ),
    (
        functools.partial(
            PROMPTS, base_domains={"text": PythonSource()}, validation=ValidationSizes(num_base_prompts=2)
        ),
        "validation.num_base_prompts: expected 0 with base_domains of which none has a verifier",
    ),
]


@pytest.mark.parametrize(("make", "message"), UNUSED)
def test_options_that_nothing_reads(make, message):
    with pytest.raises(TabomError, match=rf"^{message}, which ignores it, got "):
        make()


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(NelboObjective, weighting="cart", cart_p=0.3),
        functools.partial(TabomObjective, margin=0.3, ranking=Ranking("logistic")),
        functools.partial(T3DObjective, path="prefix_levels", path_tokens=2, states="one_block", random_ratio=0.5),
        functools.partial(TRAJECTORIES, answers="ground_truth", truncate_answers=True),
        functools.partial(PRETRAINING, num_task_examples=3),
        functools.partial(
            PROMPTS, base_domains={"numbers": Countdown()}, validation=ValidationSizes(num_base_prompts=2)
        ),
    ],
)
def test_the_same_options_where_they_are_read(make):
    make()


@pytest.mark.parametrize(
    "validation",
    [
        Validation(Sampler(), tokens_per_step=(1, 40)),
        Validation(Sampler(), pass_at=PassAt(Sampler(tokens_per_step=20, temperature=1.0))),
    ],
)
def test_a_step_reveals_no_more_than_a_response_has(validation):
    validation.check_response_length(40)
    with pytest.raises(TabomError, match=r"^tokens_per_step: expected at most 19, got (40|20)$"):
        validation.check_response_length(19)
