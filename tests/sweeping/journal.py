"""Reads what a sweep keeps of its runs, also while it runs."""

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from tabom.sweeping.run import Run


def journaled_runs(directory):
    if not (directory / "search.journal").is_file():
        return []
    storage = JournalStorage(JournalFileBackend(str(directory / "search.journal")))
    return [Run(**run) for study in optuna.get_all_study_summaries(storage) for run in study.user_attrs.values()]
