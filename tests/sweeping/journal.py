"""Reads what a sweep keeps of its runs, also while it runs."""

import re
from types import SimpleNamespace

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tabom.storage.run_record import read_record


def made_runs(directory, metric):
    """By directory: setting, seed, records in order, state of the last (``none`` without one), and what it reached."""
    if not (directory / "search.journal").is_file():
        return []
    storage = JournalStorage(JournalFileBackend(str(directory / "search.journal")))
    (study,) = optuna.get_all_study_summaries(storage)
    trials = optuna.load_study(study_name=study.study_name, storage=storage).trials
    runs = []
    for path in sorted(directory.glob("[0-9]*")):
        number, seed = re.fullmatch(r"(\d+)(?:-seed(\d+))?", path.name).groups()
        files = sorted(path.glob("records/*.jsonl"))
        records = [read_record(file) for file in files if b"\n" in file.read_bytes()]
        stage, name = metric.split("/")
        runs.append(
            SimpleNamespace(
                name=path.name,
                values=trials[int(number)].params,
                is_pruned=trials[int(number)].state == optuna.trial.TrialState.PRUNED,
                seed=seed and int(seed),
                records=records,
                state=records[-1].state if records else "none",
                metric=records[-1].last(stage).get(name) if records else None,
                pid=int((path / "lock").read_text() or 0) if (path / "lock").exists() else 0,
            )
        )
    return runs
