"""A forward pass, read where something is asked for.

Axes: B rows, L positions, K asked-for positions.
"""

import torch
from torch import Tensor

from tabom.backbones.base import Denoiser
from tabom.functional.token_statistics import token_statistics
from tabom.types import CorruptedBatch, TokenStatistics

_ROWS_AT_A_TIME = 64


class TargetPass:
    """One forward pass over a corrupted batch, read at its targets. Only targets meet the vocabulary.

    Args:
        denoiser: Whose predictions.
        corrupted: What it sees; results are (B, L), 0 where nothing is asked for.
    """

    def __init__(self, denoiser: Denoiser, corrupted: CorruptedBatch) -> None:
        self._corrupted = corrupted
        hidden = denoiser(corrupted.noisy_ids, corrupted.attention_mask)
        self.logits = denoiser.logits(hidden[corrupted.is_target])

    def statistics(self, sampled_ids: Tensor | None = None, *, entropy_temperature: float = 1.0) -> TokenStatistics:
        """Statistics of the clean tokens, and the negative log-likelihood of other tokens (B, L), if there are any."""
        where = self._corrupted.is_target
        clean = token_statistics(self.logits, self._corrupted.clean_ids[where], entropy_temperature=entropy_temperature)
        result = TokenStatistics(*(_scatter(values, where) for values in clean if values is not None))
        if sampled_ids is None:
            return result
        return result._replace(sampled_nll=_scatter(token_statistics(self.logits, sampled_ids[where]).nll, where))

    @torch.no_grad()
    def sample(self, temperature: float, generator: torch.Generator) -> Tensor:
        """Draw a token at every target; the likeliest one at temperature 0."""
        if temperature == 0:
            tokens = self.logits.argmax(-1)
        else:
            tokens = torch.cat([_draw(rows, temperature, generator) for rows in self.logits.split(_ROWS_AT_A_TIME)])
        return _scatter(tokens, self._corrupted.is_target)


def _draw(logits: Tensor, temperature: float, generator: torch.Generator) -> Tensor:
    """One token a row."""
    if len(logits) == 0:
        return logits.new_zeros(0, dtype=torch.long)
    return torch.multinomial((logits.double() / temperature).softmax(-1), 1, generator=generator).squeeze(1)


def _scatter(values: Tensor, where: Tensor) -> Tensor:
    canvas = values.new_zeros(where.shape)
    return canvas.masked_scatter(where, values)
