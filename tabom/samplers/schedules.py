"""How many masked positions of a block are revealed in each denoising step, or which.

Axes: B rows, N response positions.
"""

import functools
import itertools
from abc import ABC, abstractmethod
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.errors import check_range, require


class BlockState(NamedTuple):
    """What a schedule may know. Every row is at its own block and its own step; none knows of another.

    Attributes:
        rank: 0 for the position to be revealed first; those that do not compete come last.
        confidence: Probability of the chosen token, rounded to 5 decimals.
        entropy: Of the model's distribution in nats, rounded to 5 decimals.
        is_eligible: Masked positions of the row's current block, without those whose chosen token is deferred.
        num_masked: Masked positions of the row's current block.
        step: Steps that the row has taken in its current block.
        block_length: Positions of a whole block; the row's first and last ones may have fewer.
        num_blocks: Blocks of the response; a schedule over a number of steps spends an equal share in each.
        uniform: Uniform draw in [0, 1) for each position of the block; None unless the schedule is random.
    """

    rank: Int[Tensor, "B N"]
    confidence: Float[Tensor, "B N"]
    entropy: Float[Tensor, "B N"]
    is_eligible: Bool[Tensor, "B N"]
    num_masked: Int[Tensor, " B"]
    step: Int[Tensor, " B"]
    block_length: int
    num_blocks: int
    uniform: Float[Tensor, "B N"] | None


class Schedule(ABC):
    """Chooses the positions that a step reveals.

    A sampler asks it for one block at a time, never for positions outside, until nothing is masked in the block.
    Subclasses keep their arguments, and nothing else, as attributes: they are recorded beside what was decoded.

    Attributes:
        is_random: Whether it needs a uniform draw per position.
    """

    is_random: bool = False

    @abstractmethod
    def select(self, block: BlockState) -> Bool[Tensor, "B N"]:
        """Positions to reveal; what it says of positions that do not compete is ignored."""

    @abstractmethod
    def max_num_steps(self, length: int, num_blocks: int) -> int:
        """Most steps that a block of ``length`` positions can take, one of ``num_blocks``.

        Raises:
            TabomError: If the steps cannot be shared among the blocks.
        """


class CountSchedule(Schedule):
    """Reveals the first positions by rank; how many depends on the step and on what is left in the block."""

    @abstractmethod
    def num_revealed(
        self, num_masked: Int[Tensor, " B"], step: Int[Tensor, " B"], num_blocks: int
    ) -> Int[Tensor, " B"]:
        """Tokens to reveal, from the row's masked positions in the block and its step there."""

    def select(self, block: BlockState) -> Bool[Tensor, "B N"]:
        """The first by rank."""
        return block.rank < self.num_revealed(block.num_masked, block.step, block.num_blocks)[:, None]

    def max_num_steps(self, length: int, num_blocks: int) -> int:
        """Exactly the steps that it takes."""
        num_masked, step = torch.tensor([length]), torch.zeros(1, dtype=torch.long)
        while num_masked > 0:
            num_masked = num_masked - self.num_revealed(num_masked, step, num_blocks)
            step += 1
        return int(step)


class FixedTokens(CountSchedule):
    """The same number of tokens in every step; the last step of a block takes what is left.

    Args:
        tokens_per_step: At least 1; 1 is full decoding.

    Raises:
        TabomError: If it is below 1.
    """

    def __init__(self, tokens_per_step: int) -> None:
        check_range("tokens_per_step", tokens_per_step, least=1)
        self.tokens_per_step = tokens_per_step

    def num_revealed(
        self, num_masked: Int[Tensor, " B"], step: Int[Tensor, " B"], num_blocks: int
    ) -> Int[Tensor, " B"]:
        """``tokens_per_step``."""
        del step, num_blocks
        return num_masked.clamp(max=self.tokens_per_step)


class EvenSplit(CountSchedule):
    """LLaDA's: ``num_steps`` shared evenly among the blocks, and a block's tokens among its steps.

    What does not divide goes to the earliest steps of a block, one token each. A block of fewer tokens than steps is
    done when its tokens are: no step is spent on nothing.

    Args:
        num_steps: Of the whole response; a multiple of the number of blocks.

    Raises:
        TabomError: If it is below 1.

    References:
        ML-GSAI/LLaDA ``generate.py``, ``get_num_transfer_tokens``.
    """

    def __init__(self, num_steps: int) -> None:
        check_range("num_steps", num_steps, least=1)
        self.num_steps = num_steps

    def num_revealed(
        self, num_masked: Int[Tensor, " B"], step: Int[Tensor, " B"], num_blocks: int
    ) -> Int[Tensor, " B"]:
        """What is left, over the steps that are left, rounded up."""
        num_left = _steps_per_block(self.num_steps, num_blocks) - step
        return (num_masked + num_left - 1) // num_left.clamp(min=1)


class LinearTimesteps(CountSchedule):
    """Dream's: at a step from time t to s, the integer part of (masked tokens) * (1 - s/t); the last takes all.

    Times fall linearly from 1 to ``eps``. Counts are computed in float32, as in the official code, from the row's own
    masked tokens: with as many steps as tokens, the first reveals nothing and the last two.

    Args:
        num_steps: Of the whole response; a multiple of the number of blocks.
        eps: Last time, in (0, 1).
        max_tokens_per_step: Limit of every step; what the last one leaves is revealed in further steps. None: no limit.

    Raises:
        TabomError: If a value is out of range.

    References:
        Dream ``generation_utils.py``, ``_sample``; ``per_step_transfer_cap`` of the TABOM release, which leaves masks.
    """

    def __init__(self, num_steps: int, eps: float = 1.0e-3, max_tokens_per_step: int | None = None) -> None:
        _check_timesteps(num_steps, eps)
        check_range("max_tokens_per_step", max_tokens_per_step, least=1)
        self.num_steps = num_steps
        self.eps = eps
        self.max_tokens_per_step = max_tokens_per_step

    def num_revealed(
        self, num_masked: Int[Tensor, " B"], step: Int[Tensor, " B"], num_blocks: int
    ) -> Int[Tensor, " B"]:
        """Integer part of the step's share of what is left."""
        share = _revealed_share(self.num_steps, self.eps, num_blocks, step)
        count = (num_masked.float() * share).long()
        return count if self.max_tokens_per_step is None else count.clamp(max=self.max_tokens_per_step)


class RoundedTimesteps(CountSchedule):
    """dLLM's: at a step from time t to s, (masked tokens) * (1 - s/t), rounded half to even; the last takes all.

    Times fall linearly from 1 to 0, and shares are computed in float32, as in the official code. Blocks share the steps
    evenly, rounded up. No step reveals nothing: a block of fewer tokens than steps takes as many steps as tokens.

    Args:
        num_steps: Of the whole response.

    Raises:
        TabomError: If it is below 1.

    References:
        ZHZisZZ/dllm ``core/samplers/utils.py``, ``get_num_transfer_tokens`` with the linear schedule.
    """

    def __init__(self, num_steps: int) -> None:
        check_range("num_steps", num_steps, least=1)
        self.num_steps = num_steps

    def num_revealed(
        self, num_masked: Int[Tensor, " B"], step: Int[Tensor, " B"], num_blocks: int
    ) -> Int[Tensor, " B"]:
        """The step's share of what is left, rounded, at least 1."""
        num_steps = -(-self.num_steps // num_blocks)
        time = 1 - (1 - torch.arange(num_steps, -1, -1) / num_steps)  # rounded as 1 - alpha is there
        share = (1 - time[1:] / time[:-1]).double().to(step.device)
        return (num_masked * share[step.clamp(max=num_steps - 1)]).round().long().clamp(min=1)


class StepsPerBlock(Schedule):
    """SDAR's and LLaDA2's: each block has so many steps, among which the positions of a whole block are shared.

    What does not divide goes to the earliest steps, one token each. A block with fewer positions has the same shares,
    and is done when its positions are.

    Args:
        num_steps: Of each block.
        threshold: Probability, in (0, 1]; a step reveals all positions whose chosen token is more probable where these
            are at least its share. None: its share, the first by rank.

    Raises:
        TabomError: If a value is out of range.

    References:
        JetAstra/SDAR ``generate.py``, ``block_diffusion_generate``; ``generate`` of LLaDA2.0.
    """

    def __init__(self, num_steps: int, threshold: float | None = None) -> None:
        check_range("num_steps", num_steps, least=1)
        check_range("threshold", threshold, above=0, most=1)
        self.num_steps = num_steps
        self.threshold = threshold

    def select(self, block: BlockState) -> Bool[Tensor, "B N"]:
        """What is more probable than the threshold, or the step's share."""
        share = block.block_length // self.num_steps + (block.step < block.block_length % self.num_steps).long()
        in_turn = block.rank < share[:, None]
        if self.threshold is None:
            return in_turn
        is_confident = block.is_eligible & (block.confidence > self.threshold)
        return torch.where((is_confident.sum(1) >= share)[:, None], is_confident, in_turn)

    def max_num_steps(self, length: int, num_blocks: int) -> int:
        """Its steps, or one token per step."""
        del num_blocks
        return min(length, self.num_steps)


class ConfidenceThreshold(Schedule):
    """All positions whose chosen token is at least so probable; the first by rank where none is.

    Args:
        threshold: Probability, in (0, 1].

    Raises:
        TabomError: If it is out of range.

    References:
        ``confidence_threshold`` of the TABOM release; Fast-dLLM, arXiv:2505.22618.
    """

    def __init__(self, threshold: float) -> None:
        check_range("threshold", threshold, above=0, most=1)
        self.threshold = threshold

    def select(self, block: BlockState) -> Bool[Tensor, "B N"]:
        """Eligible positions that reach the threshold, and the first."""
        is_confident = block.is_eligible & (block.confidence >= self.threshold)
        return is_confident | ((block.rank == 0) & ~is_confident.any(1, keepdim=True))

    def max_num_steps(self, length: int, num_blocks: int) -> int:
        """One token per step."""
        del num_blocks
        return length


class EntropyBound(Schedule):
    r"""The first positions by rank, as long as their entropies without the largest add up to at most a bound.

    That is :math:`\sum_i H_i - \max_i H_i \le bound`. The sum bounds what their joint distribution differs from the
    product of their own ones; the first position is always revealed.

    Args:
        bound: In nats, at least 0. At 0 only positions without any entropy are revealed together.

    Raises:
        TabomError: If it is out of range.

    References:
        Ben-Hamu et al. 2025, arXiv:2505.24857 (EB-Sampler).
    """

    def __init__(self, bound: float) -> None:
        check_range("bound", bound, least=0)
        self.bound = bound

    def select(self, block: BlockState) -> Bool[Tensor, "B N"]:
        """Eligible positions up to the bound."""
        entropy = block.entropy.masked_fill(~block.is_eligible, torch.inf)
        in_order = torch.empty_like(entropy).scatter_(1, block.rank, entropy).double()
        is_within = in_order.cumsum(1) - in_order.cummax(1).values <= self.bound  # infinite ones compare as false
        is_within[:, 0] = True
        return is_within.gather(1, block.rank) & block.is_eligible

    def max_num_steps(self, length: int, num_blocks: int) -> int:
        """One token per step."""
        del num_blocks
        return length


class AncestralUnmasking(Schedule):
    """Each masked position independently with probability 1 - s/t, whatever its score; the last step takes all.

    Times as in :class:`LinearTimesteps`. A step may reveal nothing.

    Args:
        num_steps: Of the whole response; a multiple of the number of blocks.
        eps: Last time, in (0, 1).

    Raises:
        TabomError: If a value is out of range.

    References:
        Algorithm ``origin`` of Dream ``generation_utils.py``; Sahoo et al. 2024, arXiv:2406.07524.
    """

    is_random = True

    def __init__(self, num_steps: int, eps: float = 1.0e-3) -> None:
        _check_timesteps(num_steps, eps)
        self.num_steps = num_steps
        self.eps = eps

    def select(self, block: BlockState) -> Bool[Tensor, "B N"]:
        """Eligible positions whose draw is below the step's probability."""
        assert block.uniform is not None
        share = _revealed_share(self.num_steps, self.eps, block.num_blocks, block.step)[:, None]
        return (block.is_eligible & (block.uniform < share)) | (share == 1)

    def max_num_steps(self, length: int, num_blocks: int) -> int:
        """The block's share of the steps."""
        del length
        return _steps_per_block(self.num_steps, num_blocks)


def most_steps(schedule: Schedule, response_length: int, block_length: int, *, begins_anywhere: bool) -> int:
    """Most steps that a response takes, block by block.

    Args:
        schedule: Of every block.
        response_length: Positions of the response.
        block_length: Of each block but the last, which may be shorter.
        begins_anywhere: Whether the first one may be shorter as well.

    Raises:
        TabomError: If the steps cannot be shared among the blocks.
    """
    most = functools.cache(functools.partial(schedule.max_num_steps, num_blocks=-(-response_length // block_length)))
    found = 0
    for first in range(1 if begins_anywhere else block_length, block_length + 1):
        borders = [0, *range(first, response_length, block_length), response_length]
        found = max(found, sum(most(end - start) for start, end in itertools.pairwise(borders)))
    return found


def _check_timesteps(num_steps: int, eps: float) -> None:
    check_range("num_steps", num_steps, least=1)
    check_range("eps", eps, above=0, below=1)


def _steps_per_block(num_steps: int, num_blocks: int) -> int:
    require(
        num_steps % num_blocks == 0,
        f"num_steps: expected a multiple of {num_blocks}, the number of blocks, got {num_steps}",
    )
    return num_steps // num_blocks


def _revealed_share(num_steps: int, eps: float, num_blocks: int, step: Int[Tensor, " B"]) -> Float[Tensor, " B"]:
    """1 - s/t of each row's step in float32, and 1 from the last step on."""
    timesteps = torch.linspace(1, eps, _steps_per_block(num_steps, num_blocks) + 1)
    share = 1 - timesteps[1:] / timesteps[:-1]
    share[-1] = 1
    return share.to(step.device)[step.clamp(max=len(share) - 1)]
