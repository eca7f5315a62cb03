"""Divergence of a model from a reference model, in float32 or wider.

Axes: K positions, of any shape where it says ``*K``; D and E hidden sizes, V vocabulary.
"""

from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from tabom.functional.head import Head, HeadGradients, as_autocast, multiply, wide_dtype
from tabom.functional.token_statistics import head_chunks, row_chunks

Direction = Literal["forward", "reverse"]


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
    log_p, log_q = (logits.to(wide_dtype(logits.dtype)).log_softmax(-1) for logits in (logits_p, logits_q))
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def linear_kl_divergence(
    hidden_p: Float[Tensor, "*K D"], head_p: Head, hidden_q: Float[Tensor, "*K E"], head_q: Head
) -> Float[Tensor, "*K"]:
    r"""The same of two models' hidden states, differentiable with respect to the second model.

    The cross-entropy :math:`-\sum_v p_v \log q_v` exceeds it by the entropy of p, which does not depend on q: both
    have the gradient :math:`q - p` with respect to the logits of q, which is computed exactly, and once.

    Never more than a chunk of logits of each model is held, and the gradient of a frozen head is not computed. Without
    it a row's gradient lacks a factor alone, so the forward pass makes it, and no logits are computed twice. With a
    trained head the gradient of the logits is kept for the backward pass where all fit into one chunk; otherwise both
    models' logits are computed again there.

    Args:
        hidden_p: Of the reference model, which gets no gradient.
        head_p: Its head.
        hidden_q: Of the model that is compared with it, at the same positions.
        head_q: Its head, of the same vocabulary.

    Returns:
        Divergence in nats, 0 where both agree, in float32 or the wider dtype of ``hidden_q``.

    Example:
        >>> hidden, head = torch.zeros(1, 2), Head(torch.ones(4, 2))
        >>> linear_kl_divergence(hidden, head, hidden, head)
        tensor([0.])
    """
    (hidden_p, head_p), (hidden_q, head_q) = as_autocast(hidden_p, head_p), as_autocast(hidden_q, head_q)
    divergence = cast(Any, _LinearKLDivergence).apply(
        hidden_q.reshape(-1, hidden_q.shape[-1]), *head_q, hidden_p.detach().reshape(-1, hidden_p.shape[-1]), *head_p
    )
    return divergence.reshape(hidden_q.shape[:-1])


def top_k_divergence(
    hidden_p: Float[Tensor, "K D"],
    head_p: Head,
    hidden_q: Float[Tensor, "K E"],
    head_q: Head,
    *,
    k: int,
    direction: Direction,
    clip: float | None,
) -> Float[Tensor, " K"]:
    r"""Divergence of two models on the k tokens that the first finds likeliest, as if there were no others.

    .. math:: \tilde p_v = \frac{p_v}{\sum_{u \in T} p_u}, \qquad
        D = \sum_{v \in T} \min\left(c, \tilde q_v \log \frac{\tilde q_v}{\tilde p_v}\right) \text{ (reverse)},
        \qquad \sum_{v \in T} \min\left(c, \tilde p_v \log \frac{\tilde p_v}{\tilde q_v}\right) \text{ (forward)}

    T are those tokens, and c is the clip. Without a clip, and with k at the size of the vocabulary, it is
    :math:`KL(q \| p)` or :math:`KL(p \| q)`. Differentiable with respect to the second model. Of its logits only k a
    position are computed; of the first model's, a chunk is held at a time.

    Args:
        hidden_p: Of the reference model, which gets no gradient.
        head_p: Its head.
        hidden_q: Of the model that is compared with it, at the same positions.
        head_q: Its head, of the same vocabulary.
        k: Tokens, >= 1; more than the vocabulary has are all of them.
        direction: Which distribution the mean is over: the reference model's (``forward``) or the other's.
        clip: Largest value of a token's term in nats, > 0; larger ones get no gradient. None for no bound. With it the
            minimum lies below 0, and not where both models agree.

    Returns:
        Divergence in nats, in float32 or the wider dtype of ``hidden_q``; with a clip it may be below 0.

    Example:
        >>> hidden, head = torch.zeros(1, 2), Head(torch.ones(4, 2))
        >>> top_k_divergence(hidden, head, hidden, head, k=2, direction="reverse", clip=None)
        tensor([0.])
    """
    (hidden_p, head_p), (hidden_q, head_q) = as_autocast(hidden_p, head_p), as_autocast(hidden_q, head_q)
    num_tokens = min(k, len(head_p.weight))
    chunks = [head_p.wide_logits(hidden_p.detach()[rows]).topk(num_tokens, 1) for rows in head_chunks(hidden_p, head_p)]
    places = torch.cat([chunk.indices for chunk in chunks])
    log_p = torch.cat([chunk.values for chunk in chunks]).log_softmax(1)
    log_q = head_q.chosen_logits(hidden_q, places).log_softmax(1)
    first, second = (log_p, log_q) if direction == "forward" else (log_q, log_p)
    terms = first.exp() * (first - second)
    return (terms if clip is None else terms.clamp(max=clip)).sum(1)


class _LinearKLDivergence(torch.autograd.Function):
    """KL(p || q) (K,) of hidden states (K, E) and (K, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_q: Tensor,
        weight_q: Tensor,
        bias_q: Tensor | None,
        softcap_q: float | None,
        hidden_p: Tensor,
        weight_p: Tensor,
        bias_p: Tensor | None,
        softcap_p: float | None,
    ) -> Tensor:
        """Keep the gradient of the states; beside a trained head that of the logits, if they are a single chunk."""
        head_q, head_p = Head(weight_q, bias_q, softcap_q), Head(weight_p, bias_p, softcap_p)
        chunks = head_chunks(hidden_q, head_q)
        parts: list[Tensor] = []
        is_trained = any(ctx.needs_input_grad[1:3])
        unscaled: list[Tensor] = []
        ctx.kept = None
        for rows in chunks:
            values, of_logits = _compare(head_p.wide_logits(hidden_p[rows]), head_q.wide_logits(hidden_q[rows]), head_q)
            parts.append(values)
            if is_trained and len(chunks) == 1:
                ctx.kept = of_logits
            elif ctx.needs_input_grad[0] and not is_trained:
                unscaled.append(multiply(of_logits, weight_q))
            del of_logits  # before the next chunk is made
        ctx.of_hidden = torch.cat(unscaled) if unscaled else None
        ctx.save_for_backward(hidden_q, weight_q, bias_q, hidden_p, weight_p, bias_p)
        ctx.softcaps = softcap_q, softcap_p
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of hidden states, weight and bias of q, as far as they are asked for."""
        hidden_q, weight_q, bias_q, hidden_p, weight_p, bias_p = ctx.saved_tensors
        if ctx.of_hidden is not None:
            of_hidden = (ctx.of_hidden * gradients[0][:, None]).to(hidden_q.dtype)
            return of_hidden, None, None, None, None, None, None, None
        head_q, head_p = Head(weight_q, bias_q, ctx.softcaps[0]), Head(weight_p, bias_p, ctx.softcaps[1])
        results = HeadGradients(hidden_q, head_q, ctx.needs_input_grad)
        for rows in head_chunks(hidden_q, head_q):
            of_logits, ctx.kept = ctx.kept, None  # changed here; another backward pass computes it again
            if of_logits is None:
                logits_p, logits_q = head_p.wide_logits(hidden_p[rows]), head_q.wide_logits(hidden_q[rows])
                _, of_logits = _compare(logits_p, logits_q, head_q)
                del logits_p, logits_q
            results.add(rows, of_logits.mul_(gradients[0][rows, None]))
            del of_logits  # before the next chunk is made
        return *results.total(), None, None, None, None, None


def _compare(logits_p: Tensor, logits_q: Tensor, head_q: Head) -> tuple[Tensor, Tensor]:
    """Divergence of each row, and its gradient by the logits of q before the soft cap, in the place of ``logits_q``."""
    parts: list[Tensor] = []
    for some in row_chunks(logits_q):
        block = logits_q[some]
        log_p, log_q = logits_p[some].log_softmax(1), block.log_softmax(1)
        p = log_p.exp()
        parts.append((log_p.sub_(log_q).mul_(p)).sum(1))
        slope = None if head_q.softcap is None else 1 - (block / head_q.softcap).square()
        torch.sub(log_q.exp_(), p, out=block)
        if slope is not None:
            block.mul_(slope)
    return torch.cat(parts), logits_q
