"""Batched decoding of masked diffusion language models.

Axes: B rows, L canvas positions, N response positions, K candidates (masked positions of the rows' current blocks, row
by row), V vocabulary, S steps.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor

from tabom.errors import require
from tabom.functional.token_statistics import token_statistics
from tabom.samplers.filtering import likely_tokens
from tabom.samplers.schedules import BlockState, FixedTokens, Schedule
from tabom.samplers.trace_credit import TraceCredit
from tabom.seeding import seeded_generator
from tabom.types import DecodedBatch, PromptBatch

Score = Literal["entropy", "confidence", "margin", "random"]
ScoreDistribution = Literal["model", "sampling"]

_SCORE_DECIMALS = 5


class Denoiser(Protocol):
    """What a sampler needs of a backbone."""

    @property
    def mask_token_id(self) -> int:
        """Id of the mask token."""
        ...

    def __call__(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states (B, L, D); entry ``i`` predicts token ``i``."""
        ...

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head."""
        ...


class _Choice(NamedTuple):
    """One step's candidates (K,): the token that each would reveal, and how sure the model is of it."""

    tokens: Tensor
    entropy: Tensor
    confidence: Tensor
    score: Tensor


class Sampler:
    """Reveal the positions with the largest score, some in every step, until none is masked.

    Positions compete within their row's current block, the first that holds a mask; prompts are never touched and the
    mask token is never chosen. Scores are compared in float32 after rounding to 5 decimals, ties go to the lowest
    position. No row knows of another: what a query decodes to depends on the model, the query, the settings and the
    seed alone. The defaults are full decoding of the whole response by entropy.

    Args:
        score: What a position is ranked by. ``entropy``: smallest predictive entropy first; ``confidence``: largest
            probability of the chosen token; ``margin``: largest difference of the two largest probabilities;
            ``random``: a uniform draw.
        tokens_per_step: Tokens revealed a step; 1 is full decoding. The last step takes what is left.
        temperature: 0 chooses the likeliest token; above 0 draws it (Gumbel-max in float64).
        seed: Together with the query id, fixes all draws.
        score_distribution: What scores are computed from: the ``model``'s distribution at temperature 1, or the
            ``sampling`` distribution, tempered and filtered.
        score_temperature: 0 ranks by score; above 0 draws positions in proportion to softmax(score / temperature),
            without replacement.
        top_p: Draw from the likeliest tokens up to and with the first at which their probabilities exceed ``top_p``, in
            (0, 1]; None does not filter.
        top_k: Draw from the ``top_k`` likeliest tokens; None does not filter.
        block_length: Response tokens decoded before any to their right (semi-autoregressive); the last block may be
            shorter. None: the whole response.
        schedule: How many positions a step reveals, or which, in place of ``tokens_per_step``; None keeps that.
        cfg_scale: Classifier-free guidance; above 0, logits are uncond + (scale + 1) * (cond - uncond), where the
            unconditional ones come from a second forward pass without the prompt (masked).
        forbidden_token_ids: Never chosen; their logits are the smallest number before anything is computed from them.
        deferred_token_ids: A position whose chosen token is one of these is revealed when nothing else is left to
            reveal in its block.
        trace_credit: Fuses logits with earlier predictions of the block; tokens and scores come from the fused ones.

    Raises:
        TabomError: If a value is out of range, or a schedule is given together with ``tokens_per_step``.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 2; ML-GSAI/LLaDA ``generate.py``; Dream ``generation_utils.py``.
    """

    def __init__(
        self,
        score: Score = "entropy",
        tokens_per_step: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
        score_distribution: ScoreDistribution = "model",
        score_temperature: float = 0.0,
        top_p: float | None = None,
        top_k: int | None = None,
        block_length: int | None = None,
        schedule: Schedule | None = None,
        cfg_scale: float = 0.0,
        forbidden_token_ids: tuple[int, ...] = (),
        deferred_token_ids: tuple[int, ...] = (),
        trace_credit: TraceCredit | None = None,
    ) -> None:
        require(tokens_per_step >= 1, f"tokens_per_step: expected at least 1, got {tokens_per_step}")
        require(
            schedule is None or tokens_per_step == 1,
            f"tokens_per_step: expected 1 beside a schedule, which decides it, got {tokens_per_step}",
        )
        require(temperature >= 0, f"temperature: expected at least 0, got {temperature}")
        require(score_temperature >= 0, f"score_temperature: expected at least 0, got {score_temperature}")
        require(top_p is None or 0 < top_p <= 1, f"top_p: expected above 0 and at most 1, or null, got {top_p}")
        require(top_k is None or top_k >= 1, f"top_k: expected at least 1 or null, got {top_k}")
        require(
            block_length is None or block_length >= 1, f"block_length: expected at least 1 or null, got {block_length}"
        )
        require(cfg_scale >= 0, f"cfg_scale: expected at least 0, got {cfg_scale}")
        self.score: Score = score
        self.tokens_per_step = tokens_per_step
        self.temperature = temperature
        self.seed = seed
        self.score_distribution: ScoreDistribution = score_distribution
        self.score_temperature = score_temperature
        self.top_p = top_p
        self.top_k = top_k
        self.block_length = block_length
        self.schedule = schedule
        self.cfg_scale = cfg_scale
        self.forbidden_token_ids = tuple(forbidden_token_ids)
        self.deferred_token_ids = tuple(deferred_token_ids)
        self.trace_credit = trace_credit

    def settings(self) -> dict[str, Any]:
        """Everything that decides what a query decodes to, besides the model, as JSON can hold it."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def with_tokens_per_step(self, tokens_per_step: int) -> "Sampler":
        """The same sampler at another number of tokens a step.

        Raises:
            TabomError: If the number is below 1, or a schedule decides it.
        """
        require(
            self.schedule is None,
            f"schedule: expected null where tokens_per_step is varied, got {type(self.schedule).__name__}",
        )
        return type(self)(**{**vars(self), "tokens_per_step": tokens_per_step})

    def with_seed(self, seed: int) -> "Sampler":
        """The same sampler with other draws."""
        return type(self)(**{**vars(self), "seed": seed})

    def num_steps(self, response_length: int) -> int:
        """Most denoising steps that a response of ``response_length`` tokens takes.

        Raises:
            TabomError: If the schedule does not fit the blocks.
        """
        lengths = self._block_lengths(response_length)
        return sum(self._schedule.max_num_steps(length, len(lengths)) for length in lengths)

    @torch.inference_mode()
    def decode(self, backbone: Denoiser, batch: PromptBatch, *, record_steps: bool = False) -> DecodedBatch:
        """Decode a batch.

        Args:
            backbone: Gives hidden states (B, L, D) and, for any of them, logits; and says its mask token.
            batch: Prompts with masked responses.
            record_steps: Also record the entropy of every masked position before each step. The head is then applied to
                all of them, and not only to those of the current blocks.

        Returns:
            Tokens and the record of their unmasking.

        Raises:
            TabomError: If the schedule does not fit the blocks, or an id is outside the vocabulary.
        """
        num_rows, length = batch.noisy_ids.shape[0], int(batch.is_response[0].sum())
        num_blocks, num_steps = len(self._block_lengths(length)), self.num_steps(length)
        canvas = batch.noisy_ids.clone()
        response = canvas[:, -length:]
        block_of = torch.arange(length, device=canvas.device) // (self.block_length or length)
        is_masked = torch.ones_like(response, dtype=torch.bool)
        unmask_step, block_step = torch.zeros_like(response), torch.zeros_like(response[:, 0])
        unmask_entropy, unmask_score = torch.zeros(2, num_rows, length, device=canvas.device)
        step_entropy = unmask_entropy.new_full((num_rows, num_steps, length), torch.nan) if record_steps else None
        generators = [seeded_generator(self.seed, example.query_id) for example in batch.examples]
        credit = None
        for step in range(num_steps):
            rows = is_masked.any(1)
            if not rows.any():
                break
            is_candidate = is_masked & (block_of == block_of[is_masked.long().argmax(1)][:, None])
            is_read = is_masked if record_steps else is_candidate
            logits = self._logits(backbone, canvas[rows], batch, rows, is_read[rows])
            if step_entropy is not None:
                is_competing = is_candidate[is_read]
                waiting, logits = logits[~is_competing], logits[is_competing]
                step_entropy[:, step][is_read & ~is_candidate] = token_statistics(waiting, waiting.argmax(-1)).entropy
            fused = logits
            if self.trace_credit is not None:
                fused, credit = self.trace_credit(logits, is_candidate, credit)

            uniform = functools.partial(self._uniforms, generators, is_candidate)
            choice = self._choose(logits, fused, backbone.mask_token_id, uniform)
            if step_entropy is not None:
                step_entropy[:, step][is_candidate] = choice.entropy
            is_revealed = self._select(choice, is_candidate, block_step, num_blocks, uniform)
            is_taken = is_revealed[is_candidate]
            response[is_revealed] = choice.tokens[is_taken]
            unmask_step[is_revealed] = step
            unmask_entropy[is_revealed] = choice.entropy[is_taken]
            unmask_score[is_revealed] = choice.score[is_taken]
            is_masked = is_masked & ~is_revealed
            block_step = torch.where((is_candidate & is_masked).any(1), block_step + 1, 0)
        require(not is_masked.any(), f"schedule: expected every position revealed in {num_steps} steps, got fewer")
        return DecodedBatch(response.clone(), unmask_step, unmask_entropy, unmask_score, step_entropy)

    @property
    def _schedule(self) -> Schedule:
        return FixedTokens(self.tokens_per_step) if self.schedule is None else self.schedule

    def _block_lengths(self, response_length: int) -> list[int]:
        block_length = self.block_length or response_length
        return [min(block_length, response_length - start) for start in range(0, response_length, block_length)]

    def _logits(self, backbone: Denoiser, canvas: Tensor, batch: PromptBatch, rows: Tensor, is_read: Tensor) -> Tensor:
        """Logits in float32 of the positions to be read, guided and without forbidden tokens."""
        length = is_read.shape[1]
        attention_mask = batch.attention_mask[rows]
        logits = backbone.logits(backbone(canvas, attention_mask)[:, -length:][is_read]).float()
        if self.cfg_scale > 0:
            unprompted = canvas.masked_fill(~batch.is_response[rows], backbone.mask_token_id)
            unconditional = backbone.logits(backbone(unprompted, attention_mask)[:, -length:][is_read]).float()
            logits = unconditional + (self.cfg_scale + 1) * (logits - unconditional)
        for name in ("forbidden_token_ids", "deferred_token_ids"):
            ids = getattr(self, name)
            require(
                all(0 <= token_id < logits.shape[-1] for token_id in ids),
                f"{name}: expected ids from 0 to {logits.shape[-1] - 1}, got {list(ids)}",
            )
        if self.forbidden_token_ids:
            logits[:, self.forbidden_token_ids] = torch.finfo(logits.dtype).min
        return logits

    def _choose(self, logits: Tensor, fused: Tensor, mask_token_id: int, uniform: Callable[..., Tensor]) -> _Choice:
        """Token of each candidate, the model's entropy there, and its score (K,), from logits (K, V)."""
        lowest = torch.finfo(fused.dtype).min
        sampling = fused if self.temperature == 0 else (fused / self.temperature).clamp(min=lowest)
        is_likely = None
        if self.top_p is not None or self.top_k is not None:
            is_likely = likely_tokens(sampling, top_p=self.top_p, top_k=self.top_k)
            sampling = sampling.masked_fill(~is_likely, lowest)

        mask = torch.tensor([mask_token_id], device=fused.device)
        tokens = fused.index_fill(-1, mask, -torch.inf).argmax(-1)
        if self.temperature > 0:
            noisy = fused.double() / self.temperature + _gumbel(uniform(fused.shape[-1]))
            if is_likely is not None:  # the mask token may have taken all the probability that the filter keeps
                noisy = noisy.masked_fill(~is_likely.scatter(-1, tokens[:, None], value=True), -torch.inf)
            tokens = noisy.index_fill(-1, mask, -torch.inf).argmax(-1)

        scored = fused if self.score_distribution == "model" else sampling
        statistics = token_statistics(scored, tokens)
        entropy = statistics.entropy if scored is logits else token_statistics(logits, tokens).entropy
        confidence = statistics.nll.neg().exp()
        if self.score == "entropy":
            score = -statistics.entropy
        elif self.score == "confidence":
            score = confidence
        elif self.score == "margin":
            score = -scored.softmax(-1).index_fill(-1, mask, 0.0).topk(2).values.diff().squeeze(-1)
        else:
            score = uniform().float()
        return _Choice(tokens, entropy, confidence, score)

    def _select(
        self,
        choice: _Choice,
        is_candidate: Tensor,
        block_step: Tensor,
        num_blocks: int,
        uniform: Callable[..., Tensor],
    ) -> Tensor:
        """Candidates that this step reveals (B, N)."""
        key = choice.score.round(decimals=_SCORE_DECIMALS)
        if self.score_temperature > 0:
            key = key.double() / self.score_temperature + _gumbel(uniform())
        order = _spread(key, is_candidate, -torch.inf).argsort(dim=1, descending=True, stable=True)
        is_eligible = is_candidate
        if self.deferred_token_ids:
            deferred = torch.tensor(self.deferred_token_ids, device=key.device)
            is_wanted = _spread(~torch.isin(choice.tokens, deferred), is_candidate, fill=False)
            is_eligible = is_wanted | (is_candidate & ~is_wanted.any(1, keepdim=True))
            is_last = is_candidate & ~is_eligible
            lateness = torch.where(is_candidate, is_last.long(), 2).gather(1, order)
            order = order.gather(1, lateness.argsort(dim=1, stable=True))
        positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
        schedule = self._schedule
        state = BlockState(
            rank=torch.empty_like(order).scatter_(1, order, positions),
            confidence=_spread(choice.confidence.round(decimals=_SCORE_DECIMALS), is_candidate, 0.0),
            is_eligible=is_eligible,
            num_masked=is_candidate.sum(1),
            step=block_step,
            num_blocks=num_blocks,
            uniform=_spread(uniform(), is_candidate, 1.0) if schedule.is_random else None,
        )
        return schedule.select(state) & is_candidate

    def _uniforms(self, generators: list[torch.Generator], is_candidate: Tensor, *shape: int) -> Tensor:
        """Uniform draws (K, *shape) in float64; a row's come from its own generator, in the order of its positions."""
        counts = is_candidate.sum(1).tolist()
        draws = [self._uniform(*pair, *shape) for pair in zip(generators, counts, strict=True) if pair[1]]
        return torch.cat(draws).to(is_candidate.device)

    def _uniform(self, generator: torch.Generator, *shape: int) -> Tensor:
        """Every draw goes through here, so that a test can put recorded ones in its place."""
        return torch.rand(shape, generator=generator, dtype=torch.float64)


def _gumbel(uniform: Tensor) -> Tensor:
    return -(-uniform.log()).log()


def _spread(values: Tensor, where: Tensor, fill: float) -> Tensor:
    """Put one value per candidate (K,) at its position; ``fill`` elsewhere (B, N)."""
    return values.new_full(where.shape, fill).masked_scatter_(where, values)


def _plain(value: Any) -> Any:
    if isinstance(value, (Schedule, TraceCredit)):
        return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": dict(vars(value))}
    return list(value) if isinstance(value, tuple) else value
