"""Records of runs that never ran, for what reads them."""

import datetime
import inspect
import itertools
import json

BACKBONE = {"class_path": "PretrainedBackbone", "init_args": {"path": "runs/demo/base"}}
TIMES = (
    (datetime.datetime(2026, 11, 24, tzinfo=datetime.UTC) + datetime.timedelta(minutes=number)).isoformat()
    for number in itertools.count()
)
ENVIRONMENT = {
    "git_commit": "0123456789abcdef",
    "is_git_dirty": False,
    "versions": {"tabom": "0.1.0", "torch": "2.13.0", "lightning": "2.6.0"},
    "python": "3.11.7",
    "platform": "Linux-6.1",
    "cpu": "Intel Xeon",
    "num_cpus": 2,
    "num_threads": 1,
    "memory_gib": 8.0,
    "gpus": [],
    "num_processes": 1,
}


def config(
    seed=1,
    lr=1e-3,
    interpolation=1.0,
    objective=None,
    ckpt_path=None,
    backbone=BACKBONE,
    test_file=None,
    trainer=None,
    validation=None,
    replay=None,
):
    """What of a resolved configuration is read."""
    return {
        "seed_everything": seed,
        "trainer": {"default_root_dir": "runs/demo/tabom", "max_steps": 150, "logger": None} | (trainer or {}),
        "model": {
            "class_path": "TrainingModule",
            "init_args": {
                "backbone": backbone,
                "objective": {"class_path": "TabomObjective", "init_args": {"window": 8} | (objective or {})},
                "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": lr}},
                "interpolation": interpolation,
            },
        },
        "data": {
            "class_path": "TrajectoryDataModule",
            "init_args": {
                "path": "runs/demo/trajectories",
                "task": {"class_path": "Sudoku4x4", "init_args": {"test_file": test_file}},
                "num_workers": 0,
                "validation": validation or {},
                "replay": replay,
            },
        },
        "ckpt_path": ckpt_path,
    }


def check(stage, step=150, seconds=20.0, **values):
    """One line of metrics."""
    return {"kind": "metrics", "stage": stage, "step": step, "seconds": seconds, "values": values}


def curves(stage="test", step=150, **values):
    """One line of curves."""
    return {"kind": "curves", "stage": stage, "step": step, "mask_ratios": [0.2, 0.8], "curves": values}


def benchmark_line(
    model="base",
    scores=(1, 0),
    benchmark="gsm8k",
    trained_on=None,
    cost=None,
    standard_error=None,
    sampler=None,
    metric="exact_match,flexible-extract",
    discrimination=None,
    **settings,
):
    """One line of a benchmark.

    Args:
        model: What it is called.
        scores: Of the questions q0, q1 and so on, or by question.
        benchmark: Its domain is the paper's; that of another name is empty.
        trained_on: None for a base model.
        cost: What is known of it.
        standard_error: In ``values``; None is left out.
        sampler: Beside one token per step.
        metric: Name and filter.
        discrimination: Curves by where a response ends, of 64 responses; or None.
        settings: Beside the sampler.
    """
    domains = {"gsm8k": "maths", "math500": "maths", "humaneval": "code", "mbpp": "code", "ifeval": "instructions"}
    name, _, filtering = metric.partition(",")
    error = {} if standard_error is None else {f"{name}_stderr,{filtering}": standard_error}
    scores = scores if isinstance(scores, dict) else {f"q{index}": score for index, score in enumerate(scores)}
    return {
        "kind": "benchmark",
        "benchmark": benchmark,
        "domain": domains.get(benchmark, ""),
        "task": f"{benchmark}_task",
        "metric": metric,
        "model": model,
        "trained_on": trained_on,
        "scores": scores,
        "values": {metric: sum(scores.values()) / len(scores)} | error,
        "cost": cost or {},
        "settings": {"sampler": {"tokens_per_step": 1, "seed": 0} | (sampler or {}), "response_length": 256} | settings,
        "discrimination": None if discrimination is None else {"num_responses": 64, "curves": discrimination},
    }


def write_record(
    directory,
    verb="fit",
    run_id="r1",
    config_files=("configs/demo/tabom.yaml",),
    lines=(),
    parent=None,
    state="finished",
    num_tokens=1000,
    **changes,
):
    """Write a record below the directory, and return its path.

    Args:
        directory: Of the run; its ``records/`` is made.
        verb: First word of the command.
        run_id: Unique.
        config_files: Those of ``--config``.
        lines: What was measured, by :func:`check`, :func:`curves` and :func:`benchmark_line`.
        parent: Run whose checkpoint was loaded.
        state: How it ended; ``running`` leaves the end out.
        num_tokens: In the end.
        changes: Of the first line; ``config``'s arguments as well. Each record's ``time`` is later than the last one's.
    """
    settings = {key: changes.pop(key) for key in inspect.signature(config).parameters if key in changes}
    time = changes.pop("time", None) or next(TIMES)
    start = {
        "kind": "start",
        "verb": verb,
        "run_id": run_id,
        "time": time,
        "command": [verb, *(word for file in config_files for word in ("--config", file))],
        "config_files": list(config_files),
        "config": config(**settings),
        "environment": ENVIRONMENT,
        "seed": settings.get("seed", 1),
        "inputs": {"trajectories": {"path": "runs/demo/trajectories", "manifest_sha256": "feed" * 16}},
        "wandb": None,
    }
    end = {"kind": "end", "state": state, "reason": "", "seconds": 36.0}
    end |= {"num_tokens": num_tokens, "device_hours": 0.01}
    parents = [] if parent is None else [{"kind": "parent", "run_id": parent}]
    content = [start | changes, *parents, *lines, *([] if state == "running" else [end])]
    path = directory / "records" / f"{verb}-{time[:10]}-{run_id}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(line)}\n" for line in content))
    return path
