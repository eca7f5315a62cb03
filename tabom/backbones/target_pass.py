"""A forward pass, read where something is asked for.

Axes: B rows, L positions.
"""

import torch
from torch import Tensor

from tabom.backbones.base import Denoiser
from tabom.functional.divergence import Direction, linear_kl_divergence, top_k_divergence
from tabom.functional.token_statistics import head_chunks, linear_token_statistics
from tabom.seeding import RowDraws
from tabom.types import Canvas, CorruptedBatch, TokenStatistics


class TargetPass:
    """One forward pass over a corrupted batch, read at its targets. Only targets meet the vocabulary.

    Args:
        denoiser: Whose predictions.
        corrupted: What it sees; results are (B, L), 0 where nothing is asked for.
        canvas: What it sees instead; None for the same. The results are put where the batch asks for them.

    Attributes:
        hidden: Hidden states of the targets (K, D), row by row.
        head: What makes logits of them.
    """

    def __init__(self, denoiser: Denoiser, corrupted: CorruptedBatch, canvas: Canvas | None = None) -> None:
        self._corrupted = corrupted
        seen = corrupted if canvas is None else canvas
        hidden = denoiser.denoise(seen.noisy_ids, seen.clean_ids, seen.attention_mask, seen.is_target)
        self.hidden = hidden[seen.is_target]
        self.head = denoiser.head
        self._excluded = [denoiser.mask_token_id, *denoiser.unused_ids]

    def statistics(self, sampled_ids: Tensor | None = None, *, entropy_temperature: float = 1.0) -> TokenStatistics:
        """Statistics of the clean tokens, and the negative log-likelihood of other tokens (B, L), if there are any."""
        where = self._corrupted.is_target
        found = linear_token_statistics(
            self.hidden,
            self.head,
            self._corrupted.clean_ids[where],
            sampled_ids=None if sampled_ids is None else sampled_ids[where],
            entropy_temperature=entropy_temperature,
        )
        canvases = {name: _scatter(values, where) for name, values in found._asdict().items() if values is not None}
        return TokenStatistics(**canvases)

    def divergence_from(self, reference: "TargetPass") -> Tensor:
        """KL(reference || this) at each target (B, L) in nats, differentiable in this model's part."""
        found = linear_kl_divergence(reference.hidden, reference.head, self.hidden, self.head)
        return _scatter(found, self._corrupted.is_target)

    def top_k_divergence_from(
        self, reference: "TargetPass", *, k: int, direction: Direction, clip: float | None
    ) -> Tensor:
        """:func:`tabom.functional.divergence.top_k_divergence` at each target (B, L), in nats."""
        found = top_k_divergence(
            reference.hidden, reference.head, self.hidden, self.head, k=k, direction=direction, clip=clip
        )
        return _scatter(found, self._corrupted.is_target)

    @torch.no_grad()
    def sample(self, temperature: float, draws: RowDraws) -> Tensor:
        """Draw a token at every target; the likeliest one at temperature 0. Ids that are no text are never drawn."""
        where = self._corrupted.is_target
        excluded = torch.tensor(self._excluded, device=self.hidden.device)
        quantile = draws.per_position(where)[where]
        tokens = [
            _draw(
                self.head.wide_logits(self.hidden[rows]).index_fill_(1, excluded, -torch.inf),
                temperature,
                quantile[rows],
            )
            for rows in head_chunks(self.hidden, self.head)
        ]
        return _scatter(torch.cat(tokens), where)


def _draw(logits: Tensor, temperature: float, quantile: Tensor) -> Tensor:
    """One token a row: where the distribution function passes the quantile, in [0, 1)."""
    if temperature == 0:
        return logits.argmax(-1)
    mass = (logits.double() / temperature).softmax(-1).cumsum(-1)
    place = torch.searchsorted(mass, quantile[:, None] * mass[:, -1:], right=True)
    return place.squeeze(1).clamp(max=logits.shape[1] - 1)


def _scatter(values: Tensor, where: Tensor) -> Tensor:
    canvas = values.new_zeros(where.shape)
    return canvas.masked_scatter(where, values)
