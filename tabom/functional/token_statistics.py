"""Negative log-likelihood and entropy of predictive distributions, in float32 or wider.

Axes: K positions, of any shape where it says ``*K``; D hidden size, V vocabulary, T tokens whose likelihood is asked
for at each position.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from tabom.functional.head import Head, HeadGradients, as_autocast, wide_dtype
from tabom.types import TokenStatistics

_BLOCK_NUMBERS = {"cpu": 2**18, "other": 2**26}
"""Logits that are worked on at a time: what the cache of one core holds, and enough to fill a GPU."""
_CHUNK_NUMBERS = {"cpu": 2**25, "other": 2**28}
"""Logits that are held at a time: enough rows for a fast matrix product; 128 MiB and 1 GiB of float32."""
_PIECE = 128


def linear_token_statistics(
    hidden: Float[Tensor, "*K D"],
    head: Head,
    target_ids: Int[Tensor, "*K"],
    *,
    sampled_ids: Int[Tensor, "*K"] | None = None,
    entropy_temperature: float = 1.0,
) -> TokenStatistics:
    r"""Negative log-likelihood of the targets, and entropy and peak of the whole distribution, from hidden states.

    .. math:: nll = -\log p(x_0), \qquad H = -\sum_v p_v \log p_v, \qquad c = \max_v p_v, \qquad p = softmax(h W^T)

    Exact: no epsilon inside the logarithm. Half precision is multiplied into float32 scores, since scores in bfloat16
    have errors (up to 0.3 nats of entropy at a vocabulary of 152k) as large as any useful ranking margin. Nll, entropy
    and confidence are differentiable, once, with respect to hidden states, weight and bias.

    Never more than a chunk of logits is held. Where all fit into one it is kept for the backward pass, which turns it
    into the gradient in place; otherwise they are computed again there. The gradient of a frozen head is not computed.

    Args:
        hidden: What the head is applied to. Under autocast, hidden states and head are cast as a linear layer's are.
        head: Weight, and optionally bias and soft cap.
        target_ids: Clean tokens.
        sampled_ids: Further tokens, whose nll is asked for too.
        entropy_temperature: The entropy is that of softmax(logits / temperature); everything else is at 1.

    Returns:
        Nll and entropy in nats, confidence, and whether the target is the likeliest token; in float32 or the wider
        dtype of ``hidden``.

    Example:
        >>> linear_token_statistics(torch.zeros(1, 2), Head(torch.ones(4, 2)), torch.tensor([2]))[:2]
        (tensor([1.3863]), tensor([1.3863]))

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 5 (entropy) and Eq. 9 (reconstruction).
    """
    hidden, head = as_autocast(hidden, head)
    ids = torch.stack([target_ids] if sampled_ids is None else [target_ids, sampled_ids], -1)
    nll, *others = cast(Any, _LinearTokenStatistics).apply(
        hidden.reshape(-1, hidden.shape[-1]),
        head.weight,
        head.bias,
        head.softcap,
        ids.reshape(-1, ids.shape[-1]),
        entropy_temperature,
    )
    shape = target_ids.shape
    entropy, confidence, is_correct = (values.reshape(shape) for values in others)
    each_nll = [values.reshape(shape) for values in nll.unbind(1)]
    return TokenStatistics(
        each_nll[0], entropy, confidence, is_correct, each_nll[1] if sampled_ids is not None else None
    )


@torch.no_grad()
def token_statistics(logits: Float[Tensor, "*K V"], target_ids: Int[Tensor, "*K"]) -> TokenStatistics:
    """The same of logits, which decoding has changed before; without a gradient.

    Args:
        logits: Finite scores before the softmax.
        target_ids: Tokens whose likelihood is asked for.

    Example:
        >>> token_statistics(torch.zeros(1, 4), torch.tensor([2]))[:2]
        (tensor([1.3863]), tensor([1.3863]))
    """
    flat, ids = logits.reshape(-1, logits.shape[-1]), target_ids.reshape(-1, 1)
    wide = wide_dtype(logits.dtype)
    parts = [_measure(flat[rows].to(wide, copy=True), ids[rows], 1.0) for rows in row_chunks(flat)]
    nll, entropy, confidence, is_correct = _joined(parts).statistics(ids)
    shape = target_ids.shape
    return TokenStatistics(
        nll.reshape(shape), entropy.reshape(shape), confidence.reshape(shape), is_correct.reshape(shape)
    )


def largest(logits: Float[Tensor, "K V"]) -> tuple[Float[Tensor, " K"], Int[Tensor, " K"]]:
    """Largest number of each row (K,) and the first place that has it; ``max`` with places is slow on a CPU.

    Example:
        >>> largest(torch.tensor([[0.0, 2.0, 2.0]]))
        (tensor([2.]), tensor([1]))
    """
    num_pieces = (logits.shape[1] - 1) // _PIECE
    if logits.device.type != "cpu" or num_pieces < 2:
        peak, place = logits.max(1)
        return peak, place
    width = num_pieces * _PIECE
    rest = logits[:, width:]
    pieces = logits[:, :width].view(len(logits), num_pieces, _PIECE)
    peak, piece = pieces.amax(2).max(1)
    place = piece * _PIECE + pieces[torch.arange(len(logits)), piece].argmax(1)
    rest_peak, rest_place = rest.max(1)
    is_in_rest = rest_peak > peak
    return torch.where(is_in_rest, rest_peak, peak), torch.where(is_in_rest, width + rest_place, place)


def row_chunks(logits: Float[Tensor, "K V"]) -> list[slice]:
    """Rows to work on together, so that what is made of them fits a cache; an empty batch is one chunk."""
    return chunks(len(logits), logits.shape[1], _limit(_BLOCK_NUMBERS, logits))


def head_chunks(hidden: Float[Tensor, "K D"], head: Head) -> list[slice]:
    """Rows whose logits are held together; an empty batch is one chunk."""
    return chunks(len(hidden), len(head.weight), _limit(_CHUNK_NUMBERS, hidden))


def chunks(num_rows: int, num_columns: int, num_numbers: int) -> list[slice]:
    """Rows with no more than ``num_numbers`` numbers together, but at least one; no rows are one chunk."""
    step = max(1, num_numbers // num_columns)
    return [slice(start, min(start + step, num_rows)) for start in range(0, max(1, num_rows), step)]


def _limit(numbers: dict[str, int], tensor: Tensor) -> int:
    return numbers["cpu" if tensor.device.type == "cpu" else "other"]


class _Measures(NamedTuple):
    """Of rows of logits, each (K,) but for ``nll`` (K, T)."""

    nll: Tensor
    entropy: Tensor
    peak: Tensor
    """The largest logit, and its place in the vocabulary."""
    place: Tensor
    log_total: Tensor
    """Logarithm of the sum of exp(logits - peak), and the same at the temperature of the entropy."""
    log_tempered: Tensor

    def statistics(self, ids: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Nll, entropy, largest probability, and whether the first token asked for has it."""
        return self.nll, self.entropy, self.log_total.neg().exp(), self.place == ids[:, 0]


def _joined(parts: list[_Measures]) -> _Measures:
    return _Measures(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


def _measure(logits: Tensor, ids: Tensor, temperature: float) -> _Measures:
    """Measures of a block of logits, which is shifted in place so that the largest of each row is 0."""
    peak, place = largest(logits)
    shifted = logits.sub_(peak[:, None])
    log_total, entropy = _entropy(shifted)
    nll = log_total[:, None] - shifted.gather(1, ids)
    log_tempered = log_total
    if temperature != 1:
        log_tempered, entropy = _entropy(shifted / temperature)
    return _Measures(nll, entropy, peak, place, log_total, log_tempered)


def _entropy(shifted: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithm of the sum of exponentials of each row, whose largest number is 0, and the entropy in nats."""
    exponentials = shifted.exp()
    total = exponentials.sum(1)
    log_total = total.log()
    return log_total, log_total - exponentials.mul_(shifted).sum(1) / total


def _differentiate(
    shifted: Tensor, ids: Tensor, measures: _Measures, gradients: Sequence[Tensor | None], temperature: float
) -> None:
    r"""Turn shifted logits of a block into the gradient of the logits, in place.

    It is the sum of :math:`p - 1_{x_0}`, :math:`-p (\log p + H)` and :math:`c (1_{max} - p)`, each times the gradient
    of its output; None for one that was not used.
    """
    of_nll, of_entropy, of_confidence = gradients
    at_peak = None if of_confidence is None else (of_confidence * measures.log_total.neg().exp())[:, None]
    weight = torch.zeros_like(measures.log_total)[:, None]
    if of_nll is not None:
        weight = weight + of_nll.sum(1, keepdim=True)
    if at_peak is not None:
        weight = weight - at_peak
    weight = weight * measures.log_total.neg().exp()[:, None]
    if of_entropy is None:
        shifted.exp_().mul_(weight)
    else:
        slope = (-of_entropy * measures.log_tempered.neg().exp())[:, None] / temperature
        offset = slope * (measures.entropy - measures.log_tempered)[:, None]
        if temperature == 1:
            exponentials = shifted.exp()
            shifted.mul_(slope).add_(offset + weight).mul_(exponentials)
        else:
            tempered = shifted / temperature
            shifted.exp_().mul_(weight).add_(tempered.exp().mul_(tempered.mul_(slope).add_(offset)))
    if of_nll is not None:
        shifted.scatter_add_(1, ids, -of_nll)
    if at_peak is not None:
        shifted.scatter_add_(1, measures.place[:, None], at_peak)


class _LinearTokenStatistics(torch.autograd.Function):
    """Nll (K, T), entropy, largest probability, and whether the first token has it (K,), of hidden states (K, D)."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        softcap: float | None,
        ids: Tensor,
        temperature: float,
    ) -> tuple[Tensor, ...]:
        """Keep the logits where they are a single chunk, shifted; else nothing that is as large."""
        head, kept = Head(weight, bias, softcap), None
        parts: list[_Measures] = []
        chunks = head_chunks(hidden, head)
        for rows in chunks:
            logits = head.wide_logits(hidden[rows])
            parts += [_measure(logits[some], ids[rows][some], temperature) for some in row_chunks(logits)]
            kept = logits if len(chunks) == 1 else None
            del logits  # before the next chunk is made
        measures = _joined(parts)
        outputs = measures.statistics(ids)
        ctx.set_materialize_grads(False)
        ctx.mark_non_differentiable(outputs[3])
        ctx.save_for_backward(hidden, weight, bias, ids, *measures)
        ctx.softcap, ctx.temperature, ctx.kept = softcap, temperature, kept
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Gradients of hidden states, weight and bias, as far as they are asked for."""
        hidden, weight, bias, ids, *saved = ctx.saved_tensors
        head, measures = Head(weight, bias, ctx.softcap), _Measures(*saved)
        results = HeadGradients(hidden, head, ctx.needs_input_grad)
        for rows in head_chunks(hidden, head):
            of_logits, ctx.kept = ctx.kept, None  # changed here; another backward pass computes it again
            if of_logits is None:
                of_logits = head.wide_logits(hidden[rows]).sub_(measures.peak[rows, None])
            for some in row_chunks(of_logits):
                place = slice(rows.start + some.start, rows.start + some.stop)
                part = [None if gradient is None else gradient[place] for gradient in gradients[:3]]
                block, chosen = of_logits[some], _Measures(*(values[place] for values in measures))
                slope = None if head.softcap is None else 1 - ((block + chosen.peak[:, None]) / head.softcap).square()
                _differentiate(block, ids[place], chosen, part, ctx.temperature)
                if slope is not None:
                    block.mul_(slope)
            results.add(rows, of_logits)
            del of_logits  # before the next chunk is made
        return *results.total(), None, None, None
