"""Which setting is tried next: Optuna, with its state on disk."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import Trial, TrialState

from tabom.sweeping.file import Sweep


@dataclass(frozen=True)
class Suggestion:
    """A setting to be tried.

    Attributes:
        number: In the order in which they were suggested.
        values: By option, without the seed.
    """

    number: int
    values: dict[str, Any]


class Search:
    """Suggests settings and is told what came of them; a resumed search goes on with what it was told before.

    A grid is enqueued once, so every combination is suggested once. With ``hyperband`` a run goes on beyond a check
    only if it is among the better 1/eta of those that came so far: with ``min_iter`` at checks ``min_iter * eta ** k``
    (successive halving), with ``max_iter`` and ``s`` in brackets up to ``max_iter``.

    Args:
        sweep: What is searched.
        path: Of the journal.
    """

    def __init__(self, sweep: Sweep, path: Path) -> None:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self._sweep = sweep
        self._study = optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(path))),
            study_name=sweep.name,
            direction=sweep.goal,
            pruner=_pruner(sweep.early_terminate),
            load_if_exists=True,
        )
        # A resumed search draws on, not the same again.
        self._study.sampler = _sampler(sweep, seed=len(self._study.get_trials(deepcopy=False)))
        if sweep.method == "grid":
            for values in sweep.grid():
                self._study.enqueue_trial(values, skip_if_exists=True)

    def open(self) -> Iterator[Suggestion]:
        """Settings that were suggested and of which nothing was told yet."""
        for trial in self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            yield Suggestion(trial.number, dict(trial.params))

    def num_suggested(self) -> int:
        """How many settings were suggested."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        return len(self._study.get_trials(deepcopy=False)) - len(waiting)

    def suggest(self) -> Suggestion:
        """A further setting."""
        trial = self._study.ask(self._sweep.axes)
        return Suggestion(trial.number, dict(trial.params))

    def is_hopeless(self, number: int, check: int, metric: float) -> bool:
        """Note what a setting reached at one of its checks, counted from 1; whether it should be stopped there."""
        frozen = self._study.get_trials(deepcopy=False)[number]
        trial = Trial(self._study, frozen._trial_id)
        if check not in frozen.intermediate_values:
            trial.report(metric, check)
        return trial.should_prune()

    def tell(self, number: int, metric: float | None) -> None:
        """What a setting reached, the mean over its seeds; None if it was stopped early."""
        if metric is None:
            self._study.tell(number, state=TrialState.PRUNED)
        else:
            self._study.tell(number, metric)


def _sampler(sweep: Sweep, seed: int) -> BaseSampler:
    return TPESampler(seed=seed, constant_liar=True) if sweep.method == "bayes" else RandomSampler(seed=seed)


def _pruner(hyperband: dict[str, int]) -> BasePruner:
    if not hyperband:
        return NopPruner()
    eta = hyperband.get("eta", 3)
    if "min_iter" in hyperband:
        return SuccessiveHalvingPruner(min_resource=hyperband["min_iter"], reduction_factor=eta)
    end = hyperband["max_iter"]
    return HyperbandPruner(max(1, end // eta ** hyperband["s"]), end, eta)
