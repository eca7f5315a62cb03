"""The settings and runs of a sweep: Optuna chooses the settings, and its journal on disk keeps all of it."""

from dataclasses import asdict
from pathlib import Path

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from tabom.storage.log import drop_unfinished_line
from tabom.storage.names import plain_name
from tabom.storage.typed import typed
from tabom.sweeping.file import Sweep
from tabom.sweeping.run import Run


class Search:
    """Suggests settings and is told what came of them; a resumed search goes on with what it was told before.

    A setting is a trial of Optuna's study, and a run an attribute of the study. A grid is enqueued once, so every
    combination is suggested once. With ``hyperband`` a run goes on beyond a check only if it is among the better 1/eta
    of those that came so far: with ``min_iter`` at checks ``min_iter * eta ** k`` (successive halving), with
    ``max_iter`` and ``s`` in brackets up to ``max_iter``.

    Args:
        sweep: What is searched.
        path: Of the journal, to which no other process writes.
    """

    def __init__(self, sweep: Sweep, path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        drop_unfinished_line(path)
        lock = JournalFileOpenLock(str(path), grace_period=3)  # seconds, then it was left by a process that was killed
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path), lock)),
            study_name=sweep.name,
            direction=sweep.goal,
            pruner=_pruner(sweep.early_terminate),
            load_if_exists=True,
        )
        self.runs = {
            plain_name(name, f"{path}: run"): typed(Run, run, f"{path}: run {name}")
            for name, run in self._study.user_attrs.items()
        }
        seed = len(self._trials())  # a resumed search draws on, not the same again
        is_bayes = sweep.method == "bayes"
        self._study.sampler = TPESampler(seed=seed, constant_liar=True) if is_bayes else RandomSampler(seed=seed)
        for values in sweep.grid() if sweep.method == "grid" else ():
            self._study.enqueue_trial(values, skip_if_exists=True)

    def note(self, run: Run) -> None:
        """Keep the newest state of a run."""
        self.runs[run.run_id] = run
        self._study.set_user_attr(run.run_id, asdict(run))

    def open(self) -> list[FrozenTrial]:
        """Settings that were suggested and of which nothing was told yet."""
        return self._trials(TrialState.RUNNING)

    def num_suggested(self) -> int:
        """How many settings were suggested."""
        return len(self._trials()) - len(self._trials(TrialState.WAITING))

    def suggest(self) -> None:
        """Open a further setting."""
        self._study.ask(self._sweep.axes)

    def is_hopeless(self, setting: int, check: int, metric: float) -> bool:
        """Note what a setting reached at one of its checks, counted from 1; whether it should be stopped there."""
        frozen = self._trials()[setting]
        trial = Trial(self._study, frozen._trial_id)
        if check not in frozen.intermediate_values:
            trial.report(metric, check)
        return trial.should_prune()

    def tell(self, setting: int, metric: float | None) -> None:
        """What a setting reached, the mean over its seeds; None if it was stopped early."""
        self._study.tell(setting, metric, state=TrialState.PRUNED if metric is None else None)

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self._study.get_trials(deepcopy=False, states=states or None)


def _pruner(hyperband: dict[str, int]) -> BasePruner:
    if not hyperband:
        return NopPruner()
    eta = hyperband.get("eta", 3)
    if "min_iter" in hyperband:
        return SuccessiveHalvingPruner(min_resource=hyperband["min_iter"], reduction_factor=eta)
    end = hyperband["max_iter"]
    return HyperbandPruner(max(1, end // eta ** hyperband["s"]), end, eta)
