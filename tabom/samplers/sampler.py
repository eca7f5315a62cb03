"""Batched decoding of masked diffusion language models.

Axes: B rows of a batch, S active rows, L canvas positions, N response positions, K candidates (masked positions of the
rows' current blocks, row by row), V vocabulary, T steps, X ids that are never chosen.
"""

from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.errors import check_range, check_used, require
from tabom.functional.likeliest_tokens import LikeliestTokens, likeliest_tokens
from tabom.functional.token_statistics import row_chunks, token_statistics
from tabom.samplers.block_cache import BlockCache
from tabom.samplers.choice import Choice, Score, ScoreDistribution, TokenChoice, defer, guided_logits, margins
from tabom.samplers.decoding_state import DecodingState, Positions, Turn
from tabom.samplers.denoiser import Denoiser
from tabom.samplers.exact_cache import ExactCache
from tabom.samplers.filtering import check_ids, gumbel, likeliest, likely_tokens
from tabom.samplers.schedules import BlockState, FixedTokens, Schedule, most_steps
from tabom.samplers.trace import Canvas, Trace
from tabom.samplers.trace_credit import TraceCredit
from tabom.seeding import branch, stream_key, uniform
from tabom.types import DecodedBatch, PromptBatch, TokenStatistics

_SCORE_DECIMALS = 5
_WAITING_AT_ONCE = 2048
"""Positions of later blocks that the head is applied to together: 1 GB of logits with LLaDA's vocabulary."""
_TOKEN, _SCORE, _POSITION, _SCHEDULE = range(4)
"""Random streams of a position at a step: what each draw is for."""


class Sampler:
    """Reveal the positions with the largest score, some in every step, until none is masked.

    Positions compete within their row's current block, the first that holds a mask; prompts are never touched. The mask
    token and ids without a token are never chosen, though entropies are those of the whole distribution. Scores are
    compared in float32 after rounding to 5 decimals, ties go to the lowest position. No row knows of another: what a
    query decodes to depends on the model, the query, the settings and the seed alone. The defaults are full decoding of
    the whole response by entropy.

    Args:
        score: What a position is ranked by. ``entropy``: smallest predictive entropy first; ``confidence``: largest
            probability of the chosen token; ``margin``: largest difference of the two largest probabilities;
            ``random``: a uniform draw; ``position``: from left to right.
        tokens_per_step: Tokens revealed a step; 1 is full decoding. The last step takes what is left.
        temperature: 0 chooses the likeliest token; above 0 draws it (Gumbel-max in float64), or see ``token_choice``.
        seed: Together with the query id, fixes all draws.
        score_distribution: What scores are computed from: the ``model``'s distribution at temperature 1, or the
            ``sampling`` distribution, tempered and filtered.
        score_temperature: 0 ranks by score; above 0 draws positions in proportion to softmax(score / temperature),
            without replacement.
        top_p: Draw from the likeliest tokens up to and with the first at which their probabilities exceed ``top_p``, in
            (0, 1]; None does not filter.
        top_k: Draw from the ``top_k`` likeliest tokens; None does not filter.
        block_length: Response tokens decoded before any to their right (semi-autoregressive); the last block may be
            shorter. None: the whole response, or the blocks of a block-causal model, which has no others; a row's first
            block is then what its prompt's last one leaves.
        schedule: How many positions a step reveals, or which, in place of ``tokens_per_step``; None keeps that.
        cfg_scale: Classifier-free guidance; above 0, logits are uncond + (scale + 1) * (cond - uncond), where the
            unconditional ones come from a second forward pass without the prompt (masked).
        forbidden_token_ids: Never chosen; their logits are the smallest number before anything is computed from them.
        deferred_token_ids: A position whose chosen token is one of these is revealed when nothing else is left to
            reveal in its block.
        trace_credit: Fuses logits with earlier predictions of the block; tokens and scores come from the fused ones.
        token_choice: ``drawn`` at the temperature, or the ``likeliest`` token, so that temperature and filters decide
            the ``sampling`` distribution of the scores alone (the paper's released code for Dream).
        top_k_first: Whether ``top_p`` counts probabilities among the ``top_k`` tokens, as in SDAR.
        cache_blocks: Keep the keys and values of the prompt and of finished blocks while a block is decoded, which is
            faster. In a block-causal model it changes nothing that is decoded
            (:class:`tabom.samplers.exact_cache.ExactCache`), in any other it is an approximation
            (:class:`tabom.samplers.block_cache.BlockCache`). None: where it changes nothing.

    Raises:
        TabomError: If a value is out of range, a schedule is given together with ``tokens_per_step``, or guidance
            together with the cache.

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
        cache_blocks: bool | None = None,
        token_choice: TokenChoice = "drawn",
        top_k_first: bool = False,
    ) -> None:
        check_range("tokens_per_step", tokens_per_step, least=1)
        check_used("tokens_per_step", tokens_per_step, 1, is_used=schedule is None, owner="a schedule")
        check_range("temperature", temperature, least=0)
        check_range("score_temperature", score_temperature, least=0)
        check_range("top_p", top_p, above=0, most=1)
        check_range("top_k", top_k, least=1)
        check_range("block_length", block_length, least=1)
        check_range("cfg_scale", cfg_scale, least=0)
        require(not cache_blocks or cfg_scale == 0, f"cfg_scale: expected 0 beside cache_blocks, got {cfg_scale}")
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
        self.cache_blocks = cache_blocks
        self.token_choice: TokenChoice = token_choice
        self.top_k_first = top_k_first

    @property
    def is_random(self) -> bool:
        """Whether another seed may give another response."""
        draws = self._is_drawn or self.score_temperature > 0 or self.score == "random"
        return draws or self._schedule.is_random

    def settings(self) -> dict[str, Any]:
        """Everything that decides what a query decodes to, besides the model, as JSON can hold it."""
        return {name: _plain(value) for name, value in vars(self).items()}

    def with_tokens_per_step(self, tokens_per_step: int) -> "Sampler":
        """The same sampler at another number of tokens per step.

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

    def check_response_length(self, response_length: int) -> None:
        """Raise ``TabomError`` if a step is to reveal more tokens than a response has."""
        check_range("tokens_per_step", self.tokens_per_step, most=response_length)

    def num_steps(self, response_length: int, block_size: int | None = None) -> int:
        """Most denoising steps that a response takes of a model with this ``block_size``.

        Raises:
            TabomError: If the schedule does not fit the blocks, or these not the model's.
        """
        length = self._block_length(response_length, block_size)
        return most_steps(self._schedule, response_length, length, begins_anywhere=block_size is not None)

    @torch.inference_mode()
    def decode(
        self,
        backbone: Denoiser,
        batch: PromptBatch,
        *,
        num_slots: int | None = None,
        eos_token_id: int | None = None,
        record_steps: bool = False,
        on_finished: Callable[[list[int], DecodedBatch], None] | None = None,
        on_step: Callable[[Canvas], None] | None = None,
    ) -> DecodedBatch:
        """Decode a batch.

        Args:
            backbone: Gives hidden states (S, L, D) and, for any of them, logits; and says its mask token.
            batch: Prompts with masked responses.
            num_slots: Rows that are active at a time; one that is finished makes room for the next, longest prompts
                first. None: all.
            eos_token_id: A row is finished as soon as nothing is masked before its first token of this kind. What is
                still masked after it becomes this token, in one further step, with entropy NaN. None: every position is
                decoded.
            record_steps: Also record the entropy of every masked position before each step. The head is then applied to
                all of them, and not only to those of the current blocks.
            on_finished: Told which rows per step finished, if any, and what became of them, in that order.
            on_step: Told after every step how far the active rows have come.

        Returns:
            Tokens and the record of their unmasking, in the order of the batch.

        Raises:
            TabomError: If schedule or ``block_length`` does not fit, or an id is outside the vocabulary.
        """
        length = int(batch.is_response[0].sum())
        num_steps = self.num_steps(length, backbone.block_size)
        block_length = self._block_length(length, backbone.block_size)
        end_token_id = -1 if eos_token_id is None else eos_token_id
        canvas, device = batch.noisy_ids.clone(), batch.noisy_ids.device
        trace = Trace(canvas[:, -length:], num_steps if record_steps else 0)
        excluded = torch.tensor([backbone.mask_token_id, *backbone.unused_ids], device=device)
        row_keys = torch.tensor([stream_key(self.seed, *query) for query in batch.queries], device=device)
        prompt_lengths = (batch.attention_mask.sum(1) - length).cpu().numpy()
        num_slots, is_block_causal = num_slots or len(canvas), backbone.block_size is not None
        state = DecodingState(prompt_lengths, length, block_length, num_slots, counts_prompt=is_block_causal)
        credit, cache = None, None
        if self.cache_blocks and not is_block_causal:
            cache = BlockCache(backbone)
        elif self.cache_blocks is not False and is_block_causal and self.cfg_scale == 0 and not record_steps:
            cache = ExactCache(backbone, len(state.rows), canvas.shape[1])
        while len(state.rows):
            turn = state.turn(device)
            hidden = self._hidden(backbone, canvas, batch, turn, cache)
            for name in ("forbidden_token_ids", "deferred_token_ids"):
                check_ids(name, getattr(self, name), len(backbone.head.weight))
            if self._needs_logits:
                fused = logits = self._logits(backbone, hidden, turn.candidates)
                if self.trace_credit is not None:
                    place = turn.candidates.row * length + turn.candidates.column
                    fused, credit = self.trace_credit(logits, place, credit)
                choice = self._choose(logits, fused, excluded, turn.candidates, row_keys)
            else:
                states = hidden[0][turn.candidates.slot, turn.candidates.column]
                found = likeliest_tokens(states, backbone.head, excluded)
                choice = self._scored(found.token_ids, found, turn.candidates, row_keys)
            if record_steps:
                self._look_ahead(trace, backbone, hidden, state.waiting(device))
                trace.look_at(turn.candidates, choice.entropy)
            is_revealed = self._select(choice, turn, block_length, row_keys)
            tokens = turn.spread(choice.tokens, -1)
            trace.reveal(turn, is_revealed, tokens, choice.entropy)
            if on_step is not None:
                on_step(trace.canvas(turn, state.is_masked, is_revealed))
            is_end = is_revealed & (tokens == end_token_id)
            finished = state.advance(*torch.stack([is_revealed, is_end]).cpu().numpy())
            if finished and on_finished is not None:
                on_finished(finished, trace.decoded(state.is_masked, eos_token_id, finished))
            is_overdue = state.step[state.rows].max(initial=0) >= num_steps
            require(not is_overdue, f"schedule: expected every position revealed in {num_steps} steps, got fewer")
        return trace.decoded(state.is_masked, eos_token_id, range(len(canvas)))

    @property
    def _is_drawn(self) -> bool:
        return self.temperature > 0 and self.token_choice == "drawn"

    @property
    def _needs_logits(self) -> bool:
        """Whether anything but the likeliest tokens of the model's own distribution is asked for."""
        is_filtered = self.temperature > 0 or self.top_p is not None or self.top_k is not None
        is_other = self._is_drawn or self.score == "margin" or (is_filtered and self.score_distribution == "sampling")
        return is_other or self.cfg_scale > 0 or bool(self.forbidden_token_ids) or self.trace_credit is not None

    @property
    def _schedule(self) -> Schedule:
        return FixedTokens(self.tokens_per_step) if self.schedule is None else self.schedule

    def _block_length(self, response_length: int, block_size: int | None) -> int:
        require(
            block_size is None or self.block_length in (None, block_size),
            f"block_length: expected null or {block_size}, the block size of the model, got {self.block_length}",
        )
        return block_size or self.block_length or response_length

    def _hidden(
        self,
        backbone: Denoiser,
        canvas: Int[Tensor, "B L"],
        batch: PromptBatch,
        turn: Turn,
        cache: BlockCache | ExactCache | None,
    ) -> list[Float[Tensor, "S N D"]]:
        """Hidden states of the active rows' responses; with guidance also those without the prompt."""
        width = turn.num_prompt + turn.response_length
        ids, is_there = (part[:, -width:][turn.rows] for part in (canvas, batch.attention_mask))
        if cache is not None:
            return [cache.hidden(ids, is_there, turn)]
        seen = [ids]
        if self.cfg_scale > 0:
            is_prompt = ~batch.is_response[:, -width:][turn.rows]
            seen.append(ids.masked_fill(is_prompt, backbone.mask_token_id))
        return [backbone(each, is_there)[:, -turn.response_length :] for each in seen]

    def _logits(self, backbone: Denoiser, hidden: list[Tensor], positions: Positions) -> Float[Tensor, "K V"]:
        states = [each[positions.slot, positions.column] for each in hidden]
        return guided_logits(backbone.head, states, self.cfg_scale, self.forbidden_token_ids)

    def _look_ahead(self, trace: Trace, backbone: Denoiser, hidden: list[Tensor], waiting: Positions) -> None:
        """Record the entropies of positions of later blocks."""
        for some in waiting.pieces(_WAITING_AT_ONCE):
            logits = self._logits(backbone, hidden, some)
            trace.look_at(some, token_statistics(logits, logits.argmax(-1)).entropy)

    def _choose(
        self,
        logits: Float[Tensor, "K V"],
        fused: Float[Tensor, "K V"],
        excluded: Int[Tensor, " X"],
        candidates: Positions,
        row_keys: Int[Tensor, " B"],
    ) -> Choice:
        """Token of each candidate, the model's entropy there, and its score."""
        lowest = torch.finfo(fused.dtype).min
        sampling = fused if self.temperature == 0 else (fused / self.temperature).clamp(min=lowest)
        is_likely = None
        if self.top_p is not None or self.top_k is not None:
            is_likely = likely_tokens(sampling, top_p=self.top_p, top_k=self.top_k, top_k_first=self.top_k_first)
            sampling = sampling.masked_fill(~is_likely, lowest)

        tokens = likeliest(fused, excluded)
        if self._is_drawn:
            if is_likely is not None:  # the filter may have kept nothing but what is never chosen
                is_likely = is_likely.scatter(-1, tokens[:, None], value=True)
            for some in row_chunks(fused):
                noisy = fused[some].double() / self.temperature
                noisy += gumbel(self._uniform(_TOKEN, candidates.take(some), row_keys, noisy.shape[-1]))
                if is_likely is not None:
                    noisy.masked_fill_(~is_likely[some], -torch.inf)
                tokens[some] = likeliest(noisy, excluded)

        scored = fused if self.score_distribution == "model" else sampling
        statistics = token_statistics(scored, tokens)
        choice = self._scored(tokens, statistics, candidates, row_keys)
        if self.score == "margin":
            choice = choice._replace(score=margins(scored, excluded))
        return choice if scored is logits else choice._replace(entropy=token_statistics(logits, tokens).entropy)

    def _scored(
        self,
        tokens: Int[Tensor, " K"],
        found: TokenStatistics | LikeliestTokens,
        candidates: Positions,
        row_keys: Int[Tensor, " B"],
    ) -> Choice:
        confidence = found.nll.neg().exp()
        if self.score == "position":
            score = candidates.column.neg().float()
        elif self.score == "random":
            score = self._uniform(_SCORE, candidates, row_keys).float()
        else:
            score = confidence if self.score == "confidence" else -found.entropy
        return Choice(tokens, found.entropy, confidence, score)

    def _select(
        self, choice: Choice, turn: Turn, block_length: int, row_keys: Int[Tensor, " B"]
    ) -> Bool[Tensor, "S N"]:
        """Candidates that this step reveals."""
        candidates = turn.candidates
        is_candidate = turn.spread(torch.ones_like(choice.tokens, dtype=torch.bool), fill=False)
        key = choice.score.round(decimals=_SCORE_DECIMALS)
        if self.score_temperature > 0:
            key = key.double() / self.score_temperature + gumbel(self._uniform(_POSITION, candidates, row_keys))
        order = turn.spread(key, -torch.inf).argsort(dim=1, descending=True, stable=True)
        is_eligible = is_candidate
        if self.deferred_token_ids:
            deferred = torch.tensor(self.deferred_token_ids, device=key.device)
            is_deferred = turn.spread(torch.isin(choice.tokens, deferred), fill=False)
            order, is_eligible = defer(order, is_candidate, is_deferred)
        positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
        schedule = self._schedule
        state = BlockState(
            rank=torch.empty_like(order).scatter_(1, order, positions),
            confidence=turn.spread(choice.confidence.round(decimals=_SCORE_DECIMALS), 0.0),
            entropy=turn.spread(choice.entropy.round(decimals=_SCORE_DECIMALS), 0.0),
            is_eligible=is_eligible,
            num_masked=is_candidate.sum(1),
            step=turn.block_step,
            block_length=block_length,
            num_blocks=-(-turn.response_length // block_length),
            uniform=turn.spread(self._uniform(_SCHEDULE, candidates, row_keys), 1.0) if schedule.is_random else None,
        )
        return schedule.select(state) & is_candidate

    def _uniform(
        self, stream: int, candidates: Positions, row_keys: Int[Tensor, " B"], num_tokens: int | None = None
    ) -> Float[Tensor, "*K"]:
        """One draw a candidate (K,), or one for each of its tokens (K, V), in float64.

        It depends on query, sample, seed, step, position, token and purpose. Every draw is made here, so that a test
        can put recorded ones in its place.
        """
        keys = branch(branch(row_keys[candidates.row], candidates.step), candidates.column)
        keys = branch(keys, torch.tensor(stream))
        if num_tokens is not None:
            keys = branch(keys[:, None], torch.arange(num_tokens, device=keys.device))
        return uniform(keys)


def _plain(value: Any) -> Any:
    if isinstance(value, (Schedule, TraceCredit)):
        return {"class_path": f"{type(value).__module__}.{type(value).__qualname__}", "init_args": dict(vars(value))}
    return list(value) if isinstance(value, tuple) else value
