"""Replay: what keeps a model near the base on rows that have nothing to do with the new domain."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from tabom.backbones import Denoiser
from tabom.backbones.target_pass import TargetPass
from tabom.corruption import UniformMasking
from tabom.errors import check_range
from tabom.functional.reduction import masked_mean
from tabom.objectives.schedules import Warmup
from tabom.seeding import RowDraws
from tabom.types import TrajectoryBatch

_MASKING = UniformMasking()


@dataclass(frozen=True)
class Replay:
    r"""Divergence from the base on rows of a replay, added to the loss of any objective.

    .. math:: L_{total} = L + \mu E_{t, y_t} \frac{1}{|M_t|} \sum_{k \in M_t} KL(p_{base}(\cdot \mid y_t) \|
        p_\theta(\cdot \mid y_t))

    The response tokens M of a row y are masked uniformly at random, as in Eq. 1 of the paper.

    Attributes:
        weight: mu.
        weight_warmup: How the weight reaches its value.

    Raises:
        TabomError: If the weight, or where its warm-up starts, is below 0.

    References:
        Li and Hoiem 2016 (Learning without Forgetting), arXiv:1606.09282: a divergence from the old model's outputs in
        the place of its data.
    """

    weight: float = 1.0
    weight_warmup: Warmup | None = None

    def __post_init__(self) -> None:
        check_range("replay.weight", self.weight, least=0)
        check_range("replay.weight_warmup.start", self.weight_warmup and self.weight_warmup.start, least=0)

    def terms(
        self,
        loss: Float[Tensor, ""],
        batch: TrajectoryBatch,
        *,
        backbone: Denoiser,
        base: Denoiser,
        step: int,
        draws: RowDraws,
    ) -> dict[str, Float[Tensor, ""]]:
        """Loss with the replay, and what it consists of.

        Args:
            loss: Of the objective.
            batch: Rows of the replay.
            backbone: The model; is differentiated.
            base: What it is kept near; is not.
            step: Optimizer step, 0 first.
            draws: Of the rows.

        Returns:
            ``loss``, ``objective`` (the loss without the replay), ``replay_kl`` (nats per masked token: the mean of
            each row, then over rows), and ``replay_weight`` where it has a warm-up.
        """
        corrupted = _MASKING(batch, backbone.mask_token_id, draws)
        with torch.no_grad():
            expected = TargetPass(base, corrupted)
        divergence = masked_mean(TargetPass(backbone, corrupted).divergence_from(expected), corrupted.is_target).mean()
        weight = self.weight if self.weight_warmup is None else self.weight_warmup.value(step, self.weight)
        result = {"loss": loss + weight * divergence, "objective": loss.detach(), "replay_kl": divergence.detach()}
        return result if self.weight_warmup is None else {**result, "replay_weight": loss.new_tensor(weight)}
