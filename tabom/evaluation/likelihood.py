"""Likelihoods as LLaDA defines them, for tasks that compare given answers.

Axes: S samples, L positions of prompt and continuation, N positions of the continuation.
"""

from collections.abc import Sequence

import torch

from tabom.backbones import Backbone
from tabom.backbones.target_pass import TargetPass
from tabom.data.encoding import collate_prompts
from tabom.errors import check_range
from tabom.evaluation.responses import Likelihood
from tabom.functional.likelihood import likelihood_samples, stratified_masks
from tabom.samplers import Sampler
from tabom.seeding import RowDraws, stream_key
from tabom.types import CorruptedBatch, Example, SpecialIds


class MonteCarlo:
    """Estimates the bound on the log-likelihood of a continuation, from random masks.

    Which masks are drawn depends on the seed and the request alone.

    Args:
        num_samples: Masks a continuation; LLaDA takes 128.
        batch_size: Masks that are passed through the network at a time.
        context_length: Most tokens of a piece of running text (``loglikelihood_rolling``); a longer text is cut into
            pieces, and their values are added up.
        seed: Of the masks.

    Raises:
        TabomError: If a number is below 1.

    References:
        Nie et al. 2025 (LLaDA), arXiv:2502.09992, Algorithm 3.
    """

    def __init__(self, num_samples: int = 128, batch_size: int = 32, context_length: int = 2048, seed: int = 0) -> None:
        numbers = {"num_samples": num_samples, "batch_size": batch_size, "context_length": context_length}
        for name, number in numbers.items():
            check_range(name, number, least=1)
        self.num_samples = num_samples
        self.batch_size = batch_size
        self.context_length = context_length
        self.seed = seed

    @torch.inference_mode()
    def estimate(
        self,
        backbone: Backbone,
        prompt_ids: Sequence[int],
        continuation_ids: Sequence[int],
        request: str,
        *,
        ids: SpecialIds,
        needs_greedy: bool,
    ) -> Likelihood:
        """Score a continuation.

        Args:
            backbone: On any device.
            prompt_ids: May be empty.
            continuation_ids: May be empty, which is certain.
            request: Its name, by which masks are drawn.
            ids: Of the tokenizer.
            needs_greedy: Whether it is asked for that greedy decoding gives the continuation, which costs as many
                network calls as it has tokens.
        """
        if not continuation_ids:
            return Likelihood(0.0, 0.0, is_greedy=True)
        device = next(backbone.parameters()).device
        clean, num_prompt = torch.tensor([*prompt_ids, *continuation_ids]), len(prompt_ids)
        is_masked = torch.zeros(self.num_samples, len(clean), dtype=torch.bool)
        blocks = backbone.blocks(torch.ones(1, len(clean), dtype=torch.bool))
        block = torch.zeros(len(continuation_ids), dtype=torch.long) if blocks is None else blocks[0, num_prompt:]
        block = block - block[0]
        is_masked[:, num_prompt:] = self._masks(block, request)
        samples = torch.cat(
            [
                likelihood_samples(
                    TargetPass(backbone, _corrupted(clean, part, ids.mask).to(device)).statistics().nll[:, num_prompt:],
                    part[:, num_prompt:].to(device),
                    block=block.to(device),
                )
                for part in is_masked.split(self.batch_size)
            ]
        ).double()
        error = float(samples.std() / self.num_samples**0.5) if self.num_samples > 1 else None
        is_greedy = needs_greedy and _is_greedy(backbone, prompt_ids, continuation_ids, ids)
        return Likelihood(float(samples.mean()), error, is_greedy)

    def _masks(self, block: torch.Tensor, request: str) -> torch.Tensor:
        """Masks (S, N) that belong to the request; blocks (N,)."""
        key = stream_key("likelihood", self.seed, request)
        offset = RowDraws.of_numbers(key, torch.tensor([self.num_samples])).per_row()[0]
        each = RowDraws.of_numbers(key, torch.arange(self.num_samples))
        noise = each.per_position(torch.ones(self.num_samples, len(block), dtype=torch.bool))
        return stratified_masks(noise, offset, block=block)


def _corrupted(clean: torch.Tensor, is_masked: torch.Tensor, mask_token_id: int) -> CorruptedBatch:
    rows = clean.expand(is_masked.shape)
    return CorruptedBatch(
        clean_ids=rows,
        noisy_ids=rows.masked_fill(is_masked, mask_token_id),
        attention_mask=torch.ones_like(is_masked),
        is_masked=is_masked,
        is_target=is_masked,
        order=torch.zeros_like(rows),
        recorded_entropy=torch.full(is_masked.shape, torch.nan),
        query_ids=("",) * len(rows),
    )


def _is_greedy(backbone: Backbone, prompt_ids: Sequence[int], continuation_ids: Sequence[int], ids: SpecialIds) -> bool:
    """Whether decoding the most confident token first, one a step, gives the continuation."""
    batch = collate_prompts(
        [(Example("", "", ""), list(prompt_ids))],
        pad_token_id=ids.pad,
        mask_token_id=ids.mask,
        response_length=len(continuation_ids),
    ).to(next(backbone.parameters()).device)
    decoded = Sampler(score="confidence").decode(backbone, batch)
    return decoded.response_ids[0].tolist() == list(continuation_ids)
