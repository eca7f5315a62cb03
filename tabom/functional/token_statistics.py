"""Negative log-likelihood, entropy and divergence of predictive distributions, in float32 or wider.

Axes: K positions of any shape, V vocabulary.
"""

from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from tabom.types import TokenStatistics

_CHUNK_NUMBERS = {"cpu": 2**20, "other": 2**26}
"""Logits that are widened at a time: what a core's cache holds, and enough to fill a GPU."""


def token_statistics(
    logits: Float[Tensor, "*K V"], target_ids: Int[Tensor, "*K"], *, entropy_temperature: float = 1.0
) -> TokenStatistics:
    r"""Negative log-likelihood of the targets, and entropy and peak of the whole distribution.

    .. math:: nll = -\log p(x_0), \qquad H = -\sum_v p_v \log p_v, \qquad c = \max_v p_v

    Exact: no epsilon inside the logarithm. Half-precision logits are widened first, since bfloat16 errors (up to 0.3
    nats at a vocabulary of 152k) are as large as any useful ranking margin. All three are differentiable; for the
    backward pass nothing but the logits is kept, so that entropies cost no memory.

    Args:
        logits: Finite scores before the softmax.
        target_ids: Clean tokens.
        entropy_temperature: The entropy is that of softmax(logits / temperature); everything else is at 1.

    Returns:
        Nll and entropy in nats, confidence, and whether the target is the likeliest token;
        in float32 or the wider dtype of ``logits``.

    Example:
        >>> token_statistics(torch.zeros(1, 4), torch.tensor([2]))[:2]
        (tensor([1.3863]), tensor([1.3863]))

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 5 (entropy) and Eq. 9 (reconstruction).
    """
    flat_logits, flat_ids = logits.reshape(-1, logits.shape[-1]), target_ids.reshape(-1)
    nll, entropy, confidence, is_correct = _statistics(flat_logits, flat_ids)
    if entropy_temperature != 1:
        entropy = _statistics(flat_logits / entropy_temperature, flat_ids)[1]
    shape = target_ids.shape
    return TokenStatistics(
        nll.reshape(shape), entropy.reshape(shape), confidence.reshape(shape), is_correct.reshape(shape)
    )


def kl_divergence(logits_p: Float[Tensor, "*K V"], logits_q: Float[Tensor, "*K V"]) -> Float[Tensor, "*K"]:
    r"""Kullback-Leibler divergence :math:`KL(p \| q) = \sum_v p_v (\log p_v - \log q_v)` per position, in nats.

    Args:
        logits_p: Scores of the reference distribution.
        logits_q: Scores of the distribution that is compared with it.

    Returns:
        Divergence per position, 0 where both agree.

    Example:
        >>> kl_divergence(torch.zeros(1, 2), torch.zeros(1, 2))
        tensor([0.])
    """
    log_p, log_q = _log_softmax(logits_p), _log_softmax(logits_q)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def row_chunks(logits: Float[Tensor, "K V"]) -> list[slice]:
    """Rows to work on together, so that what is made of them fits a cache; an empty batch is one chunk."""
    num_rows = max(1, _CHUNK_NUMBERS["cpu" if logits.device.type == "cpu" else "other"] // logits.shape[1])
    return [slice(start, start + num_rows) for start in range(0, max(1, len(logits)), num_rows)]


def _log_softmax(logits: Tensor) -> Tensor:
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).log_softmax(-1)


def _statistics(logits: Tensor, target_ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return cast(Any, _TokenStatistics).apply(logits, target_ids)


class _TokenStatistics(torch.autograd.Function):
    """Nll, entropy, largest probability and its place, (K,), of logits (K, V); some rows at a time."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target_ids: Tensor) -> tuple[Tensor, ...]:
        """Keep the logits and the entropy; the probabilities are computed again for the gradient."""
        parts: list[tuple[Tensor, ...]] = []
        for rows in row_chunks(logits):
            log_probs = _log_softmax(logits[rows])
            nll = -log_probs.gather(1, target_ids[rows, None]).squeeze(1)
            peak, place = log_probs.max(1)
            parts.append((nll, -(log_probs.exp() * log_probs).sum(1), peak.exp(), place))
        nll, entropy, confidence, place = (torch.cat(columns) for columns in zip(*parts, strict=True))
        is_correct = place == target_ids
        ctx.save_for_backward(logits, target_ids, entropy, place)
        ctx.mark_non_differentiable(is_correct)
        return nll, entropy, confidence, is_correct

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        r"""Sum of :math:`p - 1_{x_0}`, :math:`-p (\log p + H)` and :math:`c (1_{max} - p)`, each times its gradient."""
        logits, target_ids, entropy, place = ctx.saved_tensors
        of_nll, of_entropy, of_confidence = (gradient[:, None] for gradient in gradients[:3])
        result = torch.empty_like(logits)
        for rows in row_chunks(logits):
            log_probs = _log_softmax(logits[rows])
            probs = log_probs.exp()
            at_peak = of_confidence[rows] * probs.gather(1, place[rows, None])
            factor = log_probs.add_(entropy[rows, None]).mul_(-of_entropy[rows]).add_(of_nll[rows] - at_peak)
            gradient = probs.mul_(factor)
            gradient.scatter_add_(1, target_ids[rows, None], -of_nll[rows])
            gradient.scatter_add_(1, place[rows, None], at_peak)
            result[rows] = gradient
        return result, None
