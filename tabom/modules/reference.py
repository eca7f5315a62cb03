"""What an objective compares the model with."""

from typing import Any

import torch

from tabom.backbones import Backbone, Denoiser
from tabom.backbones.snapshot import Snapshot
from tabom.backbones.target_pass import TargetPass
from tabom.objectives import Objective
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics


class Reference:
    """The base or the start at first; then a snapshot of the model, anew every ``reference_interval`` optimizer steps.

    Args:
        start: The model as the training found it; None compares with the base.
    """

    def __init__(self, start: Snapshot | None = None) -> None:
        self._start = start
        self._round = 0
        self._snapshot: Snapshot | None = None

    def statistics(
        self,
        objective: Objective,
        corrupted: CorruptedBatch,
        *,
        backbone: Backbone,
        base: Denoiser,
        step: int,
        draws: RowDraws,
    ) -> tuple[TokenStatistics, torch.Tensor | None, TargetPass]:
        """Statistics at the targets, the tokens (B, L) that the reference samples if they are wanted, and its pass."""
        current_round = step // objective.reference_interval if objective.reference_interval else 0
        if current_round != self._round:
            self._round, self._snapshot = current_round, Snapshot(backbone) if current_round else None
        with torch.no_grad():
            seen = TargetPass(self._snapshot or self._start or base, corrupted)
            sampled_ids = None
            if objective.sample_temperature is not None:
                sampled_ids = seen.sample(objective.sample_temperature, draws)
            return seen.statistics(sampled_ids, entropy_temperature=objective.entropy_temperature), sampled_ids, seen

    def state_dict(self) -> dict[str, Any]:
        """Round, snapshot and start, so that a resumed run compares with the same weights; empty while it is the base.

        The start is in it because the directory of its adapter may have changed when the run is resumed.
        """
        state: dict[str, Any] = {"round": self._round, "weights": self._snapshot.weights} if self._snapshot else {}
        return state | ({"start": self._start.weights} if self._start else {})

    def load_state_dict(self, state: dict[str, Any], backbone: Backbone) -> None:
        """Go on with what :meth:`state_dict` gave; the start only where the configuration compares with it."""
        if "weights" in state:
            self._round, self._snapshot = state["round"], Snapshot(backbone, state["weights"])
        if "start" in state and self._start is not None:
            self._start = Snapshot(backbone, state["start"])
