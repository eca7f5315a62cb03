"""Trajectory self-distillation by direct discriminative optimisation."""

import dataclasses
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from tabom.corruption.block_states import BlockStates, blocks_of
from tabom.corruption.trajectory_segments import TrajectorySegments, is_revealed
from tabom.errors import TabomError, check_range, check_used
from tabom.functional.direct_discriminative import (
    discriminative_losses,
    prefix_level_weights,
    rank_weights,
)
from tabom.functional.reduction import masked_mean
from tabom.functional.unmasking import block_ranks
from tabom.objectives.base import Objective
from tabom.seeding import RowDraws
from tabom.types import CorruptedBatch, TokenStatistics, TrajectoryBatch

PathTerm = Literal["rank_weighted", "prefix_levels"]
States = Literal["uniform", "mostly_masked", "one_block"]
_GLOBAL_WINDOW = 2**31  # longer than any response


class T3DObjective(Objective):
    r"""Tell the trajectory's tokens from those that a reference model samples, and learn early tokens first.

    .. math:: L = -\log \sigma(\beta (\ell - \ell_{ref})) - \alpha \log(1 - \sigma(\beta (\ell' - \ell'_{ref})))
              + \lambda L_{path}

    Here l is the mean log-likelihood of a row's masked tokens at a state of its trajectory, l' that of tokens which the
    reference samples at the same state. Both come from one forward pass of the model and one of the reference; the
    released code runs four. The path term weights the negative log-likelihoods of that pass by the decoding order.

    The defaults are the paper's equations; ``path: prefix_levels`` with ``states: one_block`` and
    ``reference_interval: 10`` is what the released code runs, one block of a row a visit instead of all of them at once
    (it trains block-causal models alone, for which ``states: mostly_masked`` is all blocks at once).

    Args:
        beta: Scale of the log-ratios, in 1/nats, > 0; the name is that of direct discriminative optimisation, and no
            temperature of entropies.
        fake_weight: Alpha, >= 0.
        path_weight: Lambda, >= 0.
        path: ``rank_weighted`` (Eq. 9): mean over the masked tokens, each times (B - pi + 1) / B, where pi = 1, 2 ...
            is its rank in a block of B. ``prefix_levels`` (released code): the mean over the first k, 2k ... tokens of
            every block, masked or not, averaged over these levels.
        path_tokens: k, tokens by which the levels grow, >= 1; of ``prefix_levels`` alone.
        block_length: Response positions in a block, >= 1, of the path term and of all states but ``uniform``; None for
            the whole response. A shorter last block has its own B. A block-causal model has blocks of its own, which go
            before it.
        states: ``uniform``: a denoising step drawn uniformly; everything that is not decoded before it is masked.
            ``mostly_masked``: the first-decoded share of every block is masked, and all blocks see each other; a
            block-causal model sees each block behind the clean ones, as in the released code.
            ``one_block``: one such block, which sees the prompt, the clean blocks before it and itself. See
            :class:`tabom.corruption.block_states.BlockStates`.
        random_ratio: Probability with which a masked position shows a random token, not of ``uniform``.
        sample_temperature: At which the reference samples, >= 0; 0 takes the likeliest tokens.
        reference_interval: Optimizer steps after which the reference becomes a copy of the model, >= 1; None keeps the
            base.
        supervise_padding: Whether end-of-sequence tokens that fill the response budget take part in l and the path
            term.

    Raises:
        TabomError: If a value is out of range.

    References:
        T3D, arXiv:2602.12262. Means are per trajectory, then over the trajectories that have masked tokens (the path
        term of the released code: tokens).
    """

    needs_reference = True

    def __init__(
        self,
        beta: float = 0.1,
        fake_weight: float = 0.5,
        path_weight: float = 0.2,
        path: PathTerm = "rank_weighted",
        path_tokens: int = 4,
        block_length: int | None = 8,
        states: States = "uniform",
        random_ratio: float = 0.1,
        sample_temperature: float = 0.0,
        reference_interval: int | None = None,
        supervise_padding: bool = True,
    ) -> None:
        block_states = BlockStates(block_length, random_ratio=random_ratio, one_block=states == "one_block")
        uniform_states = TrajectorySegments(_GLOBAL_WINDOW, window_unit="steps", truncated_windows=True)
        corruption = uniform_states if states == "uniform" else block_states
        super().__init__(corruption, supervise_padding=supervise_padding)
        check_range("beta", beta, above=0)
        check_range("fake_weight", fake_weight, least=0)
        check_range("path_weight", path_weight, least=0)
        check_range("path_tokens", path_tokens, least=1)
        check_range("sample_temperature", sample_temperature, least=0)
        check_range("reference_interval", reference_interval, least=1)
        check_used("path_tokens", path_tokens, 4, is_used=path == "prefix_levels", owner=f"path {path}")
        check_used("random_ratio", random_ratio, 0.1, is_used=states != "uniform", owner=f"states {states}")
        self.beta = beta
        self.fake_weight = fake_weight
        self.path_weight = path_weight
        self.path: PathTerm = path
        self._is_one_block = states == "one_block"
        self.path_tokens = path_tokens
        self.block_length = block_length
        self.sample_temperature = sample_temperature
        self.reference_interval = reference_interval

    def corrupt(self, batch: TrajectoryBatch, mask_token_id: int, draws: RowDraws) -> CorruptedBatch:
        """As every objective; ``token_weight`` are the weights of the path term.

        They are those of a sum over the targets of a row. With ``prefix_levels`` visible response tokens are targets
        too.
        """
        corrupted = super().corrupt(batch, mask_token_id, draws)
        is_target = corrupted.is_target
        block = blocks_of(batch, self.block_length)
        if self.path == "prefix_levels":
            wanted = is_revealed(batch)
            if self._is_one_block:
                wanted = wanted & (block == block.masked_fill(~corrupted.is_masked, -1).amax(1, keepdim=True))
            is_target = wanted if self.supervise_padding else wanted & ~batch.is_filler
        rank, block_size = block_ranks(corrupted.order, block, where=batch.is_response)
        if self.path == "rank_weighted":
            weight = rank_weights(rank, block_size, where=is_target)
        else:
            weight = prefix_level_weights(rank, block_size, where=is_target, path_tokens=self.path_tokens)
        return dataclasses.replace(corrupted, is_target=is_target, token_weight=weight)

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss`` and its terms ``real``, ``fake`` and ``path``; ``reconstruction`` (mean over masked targets).

        ``log_ratio`` is the mean of l - l_ref: above 0 the model finds the trajectory likelier than the reference does.

        Raises:
            TabomError: If the statistics of the reference, those of the tokens that it sampled, or the weights of the
                path term are missing.
        """
        if reference is None or reference.sampled_nll is None or statistics.sampled_nll is None:
            raise TabomError("reference: expected statistics of a reference model and of its sampled tokens, got none")
        if corrupted.token_weight is None:
            raise TabomError("token_weight: expected the weights that T3DObjective.corrupt gives, got none")
        where = corrupted.is_masked & corrupted.is_target
        has_masked, has_target = where.any(1), corrupted.is_target.any(1)
        log_ratio = masked_mean(reference.nll - statistics.nll, where)
        sampled_log_ratio = masked_mean(reference.sampled_nll - statistics.sampled_nll, where)
        real, fake = (
            self.mean_of_rows(values, has_masked, corrupted)
            for values in discriminative_losses(
                log_ratio, sampled_log_ratio, beta=self.beta, fake_weight=self.fake_weight
            )
        )
        weighted = corrupted.token_weight * self.target_losses(statistics, corrupted, reference)
        path = self.mean_where(weighted.where(corrupted.is_target, 0.0).sum(1), has_target)
        return {
            "loss": real + fake + self.path_weight * path,
            "real": real.detach(),
            "fake": fake.detach(),
            "path": path.detach(),
            "reconstruction": self.mean_where(masked_mean(statistics.nll.detach(), where), has_masked),
            "log_ratio": self.mean_where(log_ratio.detach(), has_masked),
        }
