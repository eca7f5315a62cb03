"""What the runs cost, what they changed, and how to make each of them again."""

import os
import shlex
import statistics
from collections.abc import Mapping, Sequence

from tabom.reporting.comparison import MISSING, Column, grouped, short_names, show_value, table_rows
from tabom.reporting.names import human_name
from tabom.reporting.page import Section, Table
from tabom.reporting.results import INTERPOLATION, RATE, Results, is_setting, value_of
from tabom.storage.run_record import RunRecord
from tabom.storage.settings import flat_config

_COST = """Minutes, steps per second and tokens (positions of the canvases that were trained on) are those of the \
finished runs, with the runs that they resumed; steps per second leave out the checks on validation. Device hours are \
those of all runs, also of the ones that were stopped or repeated. A killed run is known until it last wrote, and its \
tokens are not."""


def cost_section(records: Sequence[RunRecord], results: Results) -> Section:
    """Time, throughput and tokens by method and verb."""
    rows = []
    for (label, verb), own in grouped(records, lambda record: (results.labels[record.path], record.verb)).items():
        whole = [
            results.trainings[record.path] if verb == "fit" else [record]
            for record in own
            if record.state == "finished" and not results.roles[record.path].startswith("resumed")
        ]
        tokens = [sum(part.num_tokens or 0 for part in parts) for parts in whole]
        rows.append(
            {
                "method": human_name(label),
                "verb": verb,
                "runs": str(len(own)),
                "minutes each": Column("", "").show(sum(part.known_seconds for part in parts) / 60 for parts in whole),
                "steps per second": Column("", "").show(_steps_per_second(parts) for parts in whole),
                "tokens each": f"{statistics.mean(tokens):,.0f}" if any(tokens) else MISSING,
                "device hours": f"{sum(record.known_device_hours for record in own):.3f}",
            }
        )
    return Section("Cost", [_COST], tables=[Table("Time, throughput, tokens and device hours", table_rows(rows))])


def runs_section(records: Sequence[RunRecord], results: Results) -> Section:
    """Every run: what it counts as, what it changed, its command, checkpoint and place, and its machine."""
    seeds = {model.record.path: model.seed for model in results.compared}
    environments = list(dict.fromkeys(tuple(_environment(record).items()) for record in records))
    first: dict[str, Mapping[str, object]] = {}
    rows, commands = [], []
    for record in records:
        role, keys = results.roles[record.path], _settings(record)
        is_counted = role in ("base", "counted", "training", "trajectories")
        reference = first.setdefault(record.verb, keys) if is_counted else first.get(record.verb, keys)
        rows.append(
            {
                "run": record.run_id,
                "verb": record.verb,
                "method": human_name(results.labels[record.path]),
                "seed": str(seeds.get(record.path, record.seed)),
                "state": f"{record.state} {record.reason}".strip(),
                "counts as": role,
                "made from": record.parent or MISSING,
                "changed against the first of its verb": _changes(keys, reference),
            }
        )
        commands.append(
            {
                "run": record.run_id,
                "command": f"tabom {shlex.join(record.command)}" if record.command else "(a Python program)",
                "commit": record.commit + (" + changes" if record.environment["is_git_dirty"] else ""),
                "environment": str(environments.index(tuple(_environment(record).items())) + 1),
                "data": record.data[:12] or MISSING,
                "checkpoint": str(keys.get("ckpt_path") or keys.get("checkpoint.dirpath") or MISSING),
                "W&B": MISSING if record.wandb is None else str(record.wandb.get("directory", record.wandb.get("id"))),
                "record": os.path.relpath(record.path),
            }
        )
    where = table_rows({"environment": str(number)} | dict(parts) for number, parts in enumerate(environments, 1))
    tables = {
        "Every run": table_rows(rows),
        "How to make each run again": table_rows(commands),
        "Where they ran": where,
    }
    return Section("The runs", tables=[Table(caption, cells, is_folded=True) for caption, cells in tables.items()])


def _settings(record: RunRecord) -> dict[str, object]:
    return flat_config(record.config)


def _changes(keys: Mapping[str, object], first: Mapping[str, object]) -> str:
    """Settings, learning rate and interpolation that differ from the first run's, by their short names."""
    shown = [
        key
        for key, value in keys.items()
        if (is_setting(key) or key in (RATE, INTERPOLATION)) and value != first.get(key)
    ]
    names = short_names(shown)
    return ", ".join(f"{human_name(names[key])} {show_value(value_of(keys[key]))}" for key in shown) or MISSING


def _steps_per_second(parts: Sequence[RunRecord]) -> float | None:
    """Median over the times between two logged steps with no check on validation in between; None without any."""
    rates = [
        (after.step - before.step) / (after.seconds - before.seconds)
        for part in parts
        for before, after in zip(part.checks, part.checks[1:], strict=False)
        if before.stage == after.stage == "train" and after.seconds > before.seconds
    ]
    return statistics.median(rates) if rates else None


def _environment(record: RunRecord) -> dict[str, str]:
    content = record.environment
    return {
        "Python": content["python"],
        "versions": ", ".join(f"{name} {version}" for name, version in content["versions"].items()),
        "platform": content["platform"],
        "processor": f"{content['num_cpus']} x {content['cpu']}",
        "threads": str(content["num_threads"]),
        "memory, GiB": str(content["memory_gib"]),
        "GPUs": ", ".join(content["gpus"]) or MISSING,
        "processes": str(content["num_processes"]),
    }
