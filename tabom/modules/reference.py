"""What an objective needs to know of a batch: what the model says, and what it is compared with."""

import dataclasses
from typing import Any, NamedTuple

import torch

from tabom.backbones import Backbone, Denoiser
from tabom.backbones.snapshot import Present, Snapshot
from tabom.backbones.target_pass import TargetPass
from tabom.objectives import Objective
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch


class Reference:
    """The base or the start at first; then a snapshot of the model, anew every ``reference_interval`` optimizer steps.

    Or the model itself, with the weights that it has at the step, where the objective says so.

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
            denoiser = Present(backbone) if objective.reference_is_model else self._snapshot or self._start or base
            seen = TargetPass(denoiser, corrupted, corrupted.reference_canvas)
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


class Measured(NamedTuple):
    """What :meth:`tabom.objectives.Objective.terms` takes.

    Attributes:
        statistics: Of the model at the targets, differentiable.
        corrupted: What the model saw.
        reference: Statistics of the reference, where the objective has one.
    """

    statistics: TokenStatistics
    corrupted: CorruptedBatch
    reference: TokenStatistics | None


def measure(
    objective: Objective,
    batch: TrajectoryBatch,
    *,
    backbone: Backbone,
    reference: Reference,
    base: Denoiser | None,
    step: int,
    draws: RowDraws,
) -> Measured:
    """Corrupt a batch, and run the model over it; before that the reference, where the objective has one.

    Args:
        objective: Says what is needed.
        batch: Clean rows.
        backbone: The model; is differentiated.
        reference: What it is compared with.
        base: The frozen model that training started from; None where there is none.
        step: Optimizer step, 0 first.
        draws: Of the rows.

    Raises:
        TabomError: If the rows do not suit the objective.
    """
    corrupted = objective.corrupt_by_model(
        dataclasses.replace(batch, attention_block=backbone.blocks(batch.attention_mask)),
        backbone.mask_token_id,
        draws,
        lambda first: TargetPass(Present(backbone), first).statistics(),
    )
    found, sampled_ids, compared = None, None, None
    if objective.needs_reference:
        assert base is not None
        found, sampled_ids, compared = reference.statistics(
            objective, corrupted, backbone=backbone, base=base, step=step, draws=draws
        )
    seen = TargetPass(backbone, corrupted)
    statistics = seen.statistics(sampled_ids, entropy_temperature=objective.entropy_temperature)
    if compared is not None and objective.needs_divergence:
        statistics = statistics._replace(divergence=objective.divergence(seen, compared))
    return Measured(statistics, corrupted, found)
