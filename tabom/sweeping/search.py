"""The settings of a sweep: Optuna chooses them, and its journal on disk keeps what came of them."""

from pathlib import Path

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from optuna.trial import FrozenTrial, Trial, TrialState

from tabom.errors import TabomError
from tabom.storage.log import drop_unfinished_line
from tabom.sweeping.file import Sweep


class Search:
    """Suggests settings and is told what came of them; a resumed search goes on with what it was told before.

    A setting is a trial of Optuna's study. A grid is enqueued once, so every combination is suggested once. With
    ``hyperband`` a run goes on beyond a check only if it is among the better 1/eta of those that came so far: with
    ``min_iter`` at checks ``min_iter * eta ** k`` (successive halving), with ``max_iter`` and ``s`` in brackets up to
    ``max_iter``.

    Args:
        sweep: What is searched.
        path: Of the journal, to which no other process writes.
    """

    def __init__(self, sweep: Sweep, path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        drop_unfinished_line(path)
        lock = JournalFileOpenLock(str(path), grace_period=3)  # seconds, then it was left by a process that was killed
        try:
            self._study = optuna.create_study(
                storage=JournalStorage(JournalFileBackend(str(path), lock)),
                study_name=sweep.name,
                direction=sweep.goal,
                pruner=_pruner(sweep.early_terminate),
                load_if_exists=True,
            )
        except (AssertionError, AttributeError, KeyError, TypeError, ValueError) as error:  # as Optuna comes to a line
            raise TabomError(f"{path}: expected the journal of a search ({error!r})") from error
        seed = len(self._trials())  # a resumed search draws on, not the same again
        is_bayes = sweep.method == "bayes"
        self._study.sampler = TPESampler(seed=seed, constant_liar=True) if is_bayes else RandomSampler(seed=seed)
        for values in sweep.grid() if sweep.method == "grid" else ():
            self._study.enqueue_trial(values, skip_if_exists=True)

    def suggested(self, *states: TrialState) -> list[FrozenTrial]:
        """Settings by number: all, or those in some states; nothing was told yet of those that are running."""
        return [trial for trial in self._trials(*states) if trial.state != TrialState.WAITING]

    def suggest(self) -> FrozenTrial:
        """Open a further setting."""
        number = self._study.ask(self._sweep.axes).number
        return self._trials()[number]

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
