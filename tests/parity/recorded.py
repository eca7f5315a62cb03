"""Recorded decodings, played back."""

import torch

from tabom.samplers import Sampler


class RecordedSampler(Sampler):
    """Draws what the official code drew: one draw a step for each masked position of the row's block."""

    def replay(self, uniforms):
        self.uniforms = uniforms
        return self

    def _uniform(self, stream, candidates, row_keys, num_tokens=None):
        draws = self.uniforms[candidates.step, candidates.row, candidates.column].double()
        assert draws.shape[1:] == (() if num_tokens is None else (num_tokens,))
        return draws


def states(batch, decoded, num_steps, mask_token_id):
    """The canvas after each step (S, B, L)."""
    length = decoded.unmask_step.shape[1]
    prompt = batch.noisy_ids[:, :-length]
    return torch.stack(
        [
            torch.cat([prompt, decoded.response_ids.masked_fill(decoded.unmask_step > step, mask_token_id)], 1)
            for step in range(num_steps)
        ]
    )
