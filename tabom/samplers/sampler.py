"""Batched decoding of masked diffusion language models.

Axes: B rows, L canvas positions, N response positions, R of them still masked, V vocabulary, S steps.
"""

from typing import Literal, Protocol

import torch
from torch import Tensor

from tabom.errors import require
from tabom.functional.token_statistics import token_statistics
from tabom.seeding import seeded_generator
from tabom.types import DecodedBatch, PromptBatch

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


class Sampler:
    """Reveal the positions the model is surest of, ``tokens_per_step`` at a time, until none is masked.

    Scores are compared in float32 after rounding to 5 decimals, ties go to the lowest position, and noise is drawn per
    query: what a query decodes to does not depend on its neighbours in the batch.

    Args:
        score: ``entropy``: smallest predictive entropy first. ``confidence``: largest top-1 probability first.
        tokens_per_step: Tokens revealed a step; 1 is full decoding. The last step takes what is left.
        temperature: 0 reveals the likeliest token; above 0 draws it (Gumbel-max). Scores are those of temperature 1.
        seed: Together with the query id, fixes the noise.

    Raises:
        TabomError: If a value is out of range.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 2.
    """

    def __init__(
        self,
        score: Literal["entropy", "confidence"] = "entropy",
        tokens_per_step: int = 1,
        temperature: float = 0.0,
        seed: int = 0,
    ) -> None:
        require(tokens_per_step >= 1, f"tokens_per_step: expected at least 1, got {tokens_per_step}")
        require(temperature >= 0, f"temperature: expected at least 0, got {temperature}")
        self.score: Literal["entropy", "confidence"] = score
        self.tokens_per_step = tokens_per_step
        self.temperature = temperature
        self.seed = seed

    def settings(self) -> dict[str, str | int | float]:
        """Everything that decides what a query decodes to, besides the model."""
        return {
            "score": self.score,
            "tokens_per_step": self.tokens_per_step,
            "temperature": self.temperature,
            "seed": self.seed,
        }

    def with_tokens_per_step(self, tokens_per_step: int) -> "Sampler":
        """The same sampler at another number of tokens a step."""
        return Sampler(self.score, tokens_per_step, self.temperature, self.seed)

    @torch.inference_mode()
    def decode(self, backbone: Denoiser, batch: PromptBatch) -> DecodedBatch:
        """Decode a batch.

        Args:
            backbone: Gives hidden states (B, L, D) and, for any of them, logits; and says its mask token.
            batch: Prompts with masked responses.

        Returns:
            Tokens and the record of their unmasking. The mask token itself is never chosen.
        """
        num_rows = batch.noisy_ids.shape[0]
        length = int(batch.is_response[0].sum())
        num_steps = -(-length // self.tokens_per_step)
        response = batch.noisy_ids[:, -length:].clone()
        unmask_step = torch.zeros_like(response)
        unmask_entropy = torch.zeros(response.shape, device=response.device)
        step_entropy = torch.full((num_rows, num_steps, length), torch.nan, device=response.device)
        generators = [seeded_generator(self.seed, example.query_id) for example in batch.examples]
        masked = torch.arange(length, device=response.device).expand(num_rows, length)
        for step in range(num_steps):
            canvas = torch.cat([batch.noisy_ids[:, :-length], response], 1)
            hidden = backbone(canvas, batch.attention_mask)[:, -length:]
            logits = backbone.logits(hidden.gather(1, masked[..., None].expand(-1, -1, hidden.shape[-1]))).float()
            entropy, priority = self._score(logits)
            step_entropy[:, step].scatter_(1, masked, entropy)

            by_priority = priority.argsort(dim=1, stable=True)
            chosen, kept = by_priority[:, : self.tokens_per_step], by_priority[:, self.tokens_per_step :]
            logits[..., backbone.mask_token_id] = -torch.inf
            tokens = self._draw(logits, generators)
            positions = masked.gather(1, chosen)
            response.scatter_(1, positions, tokens.gather(1, chosen))
            unmask_step.scatter_(1, positions, step)
            unmask_entropy.scatter_(1, positions, entropy.gather(1, chosen))
            masked = masked.gather(1, kept.sort(1).values)
        return DecodedBatch(response, unmask_step, unmask_entropy, step_entropy)

    def _score(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Entropy (B, R) in nats, and the rounded value by which positions are revealed, lowest first."""
        statistics = token_statistics(logits, logits.argmax(-1))
        value = statistics.entropy if self.score == "entropy" else -statistics.nll.neg().exp()
        return statistics.entropy, value.round(decimals=_SCORE_DECIMALS)

    def _draw(self, logits: Tensor, generators: list[torch.Generator]) -> Tensor:
        if self.temperature == 0:
            return logits.argmax(-1)
        shape = logits.shape[1:]
        noise = torch.stack([torch.rand(shape, generator=generator, dtype=torch.float64) for generator in generators])
        gumbel = -(-noise.log()).log()
        return (logits.double() / self.temperature + gumbel.to(logits.device)).argmax(-1)
