"""How the order of a segment becomes a loss on its energies."""

import dataclasses
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.errors import check_range, require
from tabom.functional.ranking import (
    Energy,
    StopGradient,
    boltzmann_kl_loss,
    competing,
    energies,
    logistic_ranking_loss,
    ordered_pairs,
    pair_violation,
    pairwise_ranking_loss,
    plackett_luce_loss,
)
from tabom.functional.reduction import masked_mean
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics

Pairs = Literal["compared", "all"]
Surrogate = Literal["hinge", "logistic", "plackett_luce", "boltzmann_kl", "entropy_bonus"]

_PAIRWISE = ("hinge", "logistic")
_USERS: dict[str, tuple[Surrogate, ...]] = {
    "inverse_temperature": ("logistic", "plackett_luce", "boltzmann_kl"),
    "stop_gradient": _PAIRWISE,
    "min_gap": _PAIRWISE,
    "scale_margin_by_gap": _PAIRWISE,
    "skip_inverted": _PAIRWISE,
    "order": ("hinge", "logistic", "plackett_luce"),
    "pairs": ("hinge", "logistic", "plackett_luce", "boltzmann_kl"),
}
"""Options that some surrogate ignores, and those that do not."""


class Segment(NamedTuple):
    """The targets of each row side by side, W being the largest number of targets in a row.

    Attributes:
        where: False where a row has fewer targets. There the others may hold anything.
        block: Positions of different blocks form no pair; None for a single block.
        is_pair: Pairs (r, s) of which r was decoded strictly before s.
        entropy: In nats.
        energy: What is ranked.
        recorded_entropy: In nats, NaN where none was recorded.
        base_energy: The reference model's, if there is one.
        is_inverted: Pairs that the reference contradicts or ties in the same context, E_r >= E_s; None
            without one.
    """

    where: Bool[Tensor, "B W"]
    block: Int[Tensor, "B W"] | None
    is_pair: Bool[Tensor, "B W W"]
    entropy: Float[Tensor, "B W"]
    energy: Float[Tensor, "B W"]
    recorded_entropy: Float[Tensor, "B W"]
    base_energy: Float[Tensor, "B W"] | None
    is_inverted: Bool[Tensor, "B W W"] | None


class RankingLoss(NamedTuple):
    """What a surrogate says about a segment.

    Attributes:
        values: The loss of each row, 0 where a row says nothing.
        has_value: Rows that say something. Those have a pair that is ranked; two positions of a block with a target
            energy (Boltzmann KL); a target (entropy bonus).
        is_pair: The pairs that are ranked; None unless the surrogate is pairwise, as the next.
        violation: By how much each pair falls short of its margin.
    """

    values: Float[Tensor, " B"]
    has_value: Bool[Tensor, " B"]
    is_pair: Bool[Tensor, "B W W"] | None = None
    violation: Float[Tensor, "B W W"] | None = None


@dataclass(frozen=True)
class Ranking:
    """The surrogate of the Boltzmann model's order, and what it is applied to.

    Attributes:
        surrogate: ``hinge`` on pairs (paper, Eq. 8); ``logistic``, its smooth form; ``plackett_luce``, the likelihood
            of the whole order; ``boltzmann_kl``, the divergence from the Boltzmann distribution of ``target`` over the
            window; ``entropy_bonus``, minus the mean energy, which knows no order and is a control.
        inverse_temperature: Beta in 1/nats, > 0; not of hinge and entropy bonus.
        energy: ``entropy``, ``confidence`` or ``log_odds`` (:func:`tabom.functional.ranking.energies`); margins have
            its unit.
        target: Energies that the Boltzmann KL aims at, and from which the gap of a pair is taken: the ``base``
            model's in the same context, or the entropies that were ``recorded`` at unmasking. Boltzmann KL leaves out
            positions without one; the gap of a pair is 0 there.
        stop_gradient: The token of a pair that gets no gradient; pairs only, as the next three.
        min_gap: Pairs of a smaller gap, in the unit of the energy, are left out; None keeps all. The gap of (r, s) is
            the target energy of s minus that of r: negative where the target contradicts the order.
        scale_margin_by_gap: The margin of a pair is ``margin`` times its gap, so that ``margin`` is a share of it, and
            a pair that the target contradicts may stay contradicted to that extent.
        skip_inverted: Leave out pairs that the base itself inverts in the same context.
        order: ``observed``, or a control: ``shuffled`` gives each target the order of a random target of its row (of
            its block, with ``pairs: compared``), so that as many are tied as were; ``reversed`` takes the last decoded
            for the first.
        pairs: ``compared``: only positions of one block of the sampler, which competed to be decoded next, are ranked
            against each other; ``boltzmann_kl`` has a distribution for each block. ``all``: all targets, as in the
            paper. The two differ where the data were decoded in blocks.

    Raises:
        TabomError: If a value is out of range, or an option is set that the surrogate ignores.
    """

    surrogate: Surrogate = "hinge"
    inverse_temperature: float = 5.0
    energy: Energy = "entropy"
    target: Literal["base", "recorded"] = "base"
    stop_gradient: StopGradient = "none"
    min_gap: float | None = None
    scale_margin_by_gap: bool = False
    skip_inverted: bool = False
    order: Literal["observed", "shuffled", "reversed"] = "observed"
    pairs: Pairs = "compared"

    def __post_init__(self) -> None:
        check_range("ranking.inverse_temperature", self.inverse_temperature, above=0)
        check_range("ranking.min_gap", self.min_gap, least=0)
        for field in dataclasses.fields(self):
            got = getattr(self, field.name)
            require(
                got == field.default or self.surrogate in _USERS.get(field.name, (self.surrogate,)),
                f"ranking.{field.name}: expected {field.default} with surrogate {self.surrogate}, which ignores it, "
                f"got {got}",
            )
        require(
            self.target == "base" or self._has_target,
            f"ranking.target: expected base with surrogate {self.surrogate} that uses no gap, got {self.target}",
        )
        require(
            self.target == "base" or self.energy == "entropy",
            f"ranking.energy: expected entropy with target recorded, got {self.energy}",
        )

    @property
    def is_pairwise(self) -> bool:
        """Whether it is a mean over pairs, with a margin."""
        return self.surrogate in _PAIRWISE

    @property
    def needs_reference(self) -> bool:
        """Whether it cannot be computed without the base's statistics."""
        return self.skip_inverted or (self._has_target and self.target == "base")

    @property
    def _has_target(self) -> bool:
        return self.surrogate == "boltzmann_kl" or self.min_gap is not None or self.scale_margin_by_gap

    def reordered(self, corrupted: CorruptedBatch, draws: RowDraws) -> CorruptedBatch:
        """The batch with the order that is ranked; draws only for ``shuffled``."""
        if self.order == "observed":
            return corrupted
        if self.order == "reversed":
            return dataclasses.replace(corrupted, order=-corrupted.order)
        noise = draws.per_position(corrupted.is_target)
        block = self._block(corrupted)
        if block is not None:
            noise = noise + block  # targets are listed from left to right, block after block
        shuffled = noise.masked_fill(~corrupted.is_target, torch.inf).argsort(dim=1, stable=True)
        order = corrupted.order.scatter(1, _targets_first(corrupted), corrupted.order.gather(1, shuffled))
        return dataclasses.replace(corrupted, order=order)

    def segment(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> Segment:
        """Gather the targets of each row."""
        positions = _targets_first(corrupted)[:, : int(corrupted.is_target.sum(1).amax())]
        where = corrupted.is_target.gather(1, positions)
        blocks = self._block(corrupted)
        block = None if blocks is None else blocks.gather(1, positions)
        is_pair = ordered_pairs(corrupted.order.gather(1, positions), where=where, block=block)
        base = None if reference is None else energies(reference, self.energy).gather(1, positions)
        return Segment(
            where=where,
            block=block,
            is_pair=is_pair,
            entropy=statistics.entropy.gather(1, positions),
            energy=energies(statistics, self.energy).gather(1, positions),
            recorded_entropy=corrupted.recorded_entropy.gather(1, positions),
            base_energy=base,
            is_inverted=None if base is None else is_pair & (base[:, :, None] >= base[:, None, :]),
        )

    def losses(self, segment: Segment, *, margin: float) -> RankingLoss:
        """Loss of each row, with a margin in the unit of the energy."""
        energy, where, beta = segment.energy, segment.where, self.inverse_temperature
        if self.surrogate == "boltzmann_kl":
            target = self._target_energy(segment)
            values = boltzmann_kl_loss(energy, target, where=where, inverse_temperature=beta, block=segment.block)
            return RankingLoss(values, (competing(where & ~target.isnan(), segment.block).sum(2) >= 2).any(1))
        if self.surrogate == "entropy_bonus":
            return RankingLoss(-masked_mean(energy, where), where.any(1))
        is_pair = self._pairs(segment)
        has_pair = is_pair.any(2).any(1)
        if self.surrogate == "plackett_luce":
            return RankingLoss(plackett_luce_loss(energy, is_pair, inverse_temperature=beta), has_pair)
        margins = margin * self._gap(segment) if self.scale_margin_by_gap else margin
        violation = pair_violation(energy, margin=margins, stop_gradient=self.stop_gradient)
        if self.surrogate == "logistic":
            values = logistic_ranking_loss(violation, is_pair, inverse_temperature=beta)
        else:
            values = pairwise_ranking_loss(violation, is_pair)
        return RankingLoss(values, has_pair, is_pair, violation)

    def _block(self, corrupted: CorruptedBatch) -> Int[Tensor, "B L"] | None:
        """Blocks that pairs do not cross; None where they may."""
        return corrupted.block if self.pairs == "compared" else None

    def _pairs(self, segment: Segment) -> Bool[Tensor, "B W W"]:
        """The pairs that are ranked."""
        is_pair = segment.is_pair
        if self.min_gap is not None:
            is_pair = is_pair & (self._gap(segment) >= self.min_gap)
        if self.skip_inverted and segment.is_inverted is not None:
            is_pair = is_pair & ~segment.is_inverted
        return is_pair

    def _target_energy(self, segment: Segment) -> Float[Tensor, "B W"]:
        target = segment.recorded_entropy if self.target == "recorded" else segment.base_energy
        assert target is not None
        return target.to(segment.energy.dtype)

    def _gap(self, segment: Segment) -> Float[Tensor, "B W W"]:
        """Target energy of s minus that of r; 0 where one is missing."""
        target = self._target_energy(segment)
        return (target[:, None, :] - target[:, :, None]).nan_to_num(0.0)


def _targets_first(corrupted: CorruptedBatch) -> Int[Tensor, "B L"]:
    """Positions of each row, its targets first, from left to right."""
    return corrupted.is_target.long().argsort(dim=1, descending=True, stable=True)
