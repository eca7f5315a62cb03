"""Reads what a sweep keeps of its runs, also while it runs."""

import re
from types import SimpleNamespace

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tabom.reporting.comparison import short_names, show_value
from tabom.storage.run_record import read_record

_NAME = re.compile(r"(?:(\d{3})|(.*?))(?:-?seed=?(\d+))?(?:-(\d{3}))?")
"""A number, as earlier versions named them, or settings; the seed; a number again where settings look alike."""


def made_runs(directory, metric):
    """By directory: setting, seed, records in order, state of the last (``none`` without one), and what it reached."""
    if not (directory / "search.journal").is_file():
        return []
    storage = JournalStorage(JournalFileBackend(str(directory / "search.journal")))
    summaries = optuna.get_all_study_summaries(storage)
    if not summaries:  # the file is there a moment before the study is in it
        return []
    (study,) = summaries
    trials = optuna.load_study(study_name=study.study_name, storage=storage).trials
    runs = []
    keys = short_names(list(trials[0].params)) if trials else {}
    settings = [
        re.sub(r"[^\w.+=-]+", "_", "-".join(f"{keys[key]}={show_value(value)}" for key, value in trial.params.items()))
        for trial in trials
    ]
    for path in sorted(path.parent for path in directory.glob("*/lock")):
        former, setting, seed, again = _NAME.fullmatch(path.name).groups()
        number = int(former or again or 0) if former or again or not setting else settings.index(setting)
        files = sorted(path.glob("records/*.jsonl"))
        records = [read_record(file) for file in files if b"\n" in file.read_bytes()]
        stage, name = metric.split("/")
        runs.append(
            SimpleNamespace(
                name=path.name,
                number=number,
                values=trials[number].params,
                is_pruned=trials[number].state == optuna.trial.TrialState.PRUNED,
                seed=seed and int(seed),
                records=records,
                state=records[-1].state if records else "none",
                metric=records[-1].last(stage).get(name) if records else None,
                pid=int((path / "lock").read_text() or 0) if (path / "lock").exists() else 0,
            )
        )
    return sorted(runs, key=lambda run: (run.number, run.seed or 0))
