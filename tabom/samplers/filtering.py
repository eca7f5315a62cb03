"""Which tokens a draw is limited to, and the noise that draws.

Axes: K positions, V vocabulary, X ids that are never chosen.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tabom.errors import require
from tabom.functional.token_statistics import largest


def check_ids(name: str, ids: Sequence[int], num_tokens: int) -> None:
    """Raise ``TabomError`` unless all ids are in the vocabulary."""
    is_within = all(0 <= token_id < num_tokens for token_id in ids)
    require(is_within, f"{name}: expected ids from 0 to {num_tokens - 1}, got {list(ids)}")


def likely_tokens(
    logits: Float[Tensor, "K V"], *, top_p: float | None, top_k: int | None, top_k_first: bool = False
) -> Bool[Tensor, "K V"]:
    """Tokens that both filters keep; the likeliest always is.

    Args:
        logits: Of the distribution that is to be filtered.
        top_p: Keep the likeliest tokens up to and with the first one at which their probabilities exceed ``top_p``.
        top_k: Keep the ``top_k`` likeliest tokens, and those that tie with the last of them.
        top_k_first: Whether probabilities are those among the tokens that ``top_k`` keeps.

    Example:
        >>> likely_tokens(torch.tensor([[0.5, 0.1, 0.4]]).log(), top_p=0.6, top_k=None)
        tensor([[ True, False,  True]])

    References:
        ``top_p_logits`` and ``top_k_logits`` of Dream ``generation_utils.py``; of SDAR ``generate.py``, the latter
        first.
    """
    is_kept = torch.ones_like(logits, dtype=torch.bool)
    if top_k is not None:
        is_kept = logits >= logits.topk(min(top_k, logits.shape[-1])).values[..., -1:]
    if top_p is not None and top_p < 1:
        counted = logits.masked_fill(~is_kept, -torch.inf) if top_k_first else logits
        ordered, index = counted.sort(dim=-1, descending=True, stable=True)
        is_within = torch.nn.functional.pad(ordered.softmax(-1).cumsum(-1)[..., :-1] <= top_p, (1, 0), value=True)
        is_kept &= torch.zeros_like(is_kept).scatter(-1, index, is_within)
    return is_kept


def likeliest(logits: Float[Tensor, "K V"], excluded: Int[Tensor, " X"]) -> Int[Tensor, " K"]:
    """The likeliest token besides the excluded ones, whose logits are put back."""
    kept = logits[:, excluded]
    _, tokens = largest(logits.index_fill_(1, excluded, -torch.inf))
    logits.index_copy_(1, excluded, kept)
    return tokens


def gumbel(uniforms: Float[Tensor, "*K"]) -> Float[Tensor, "*K"]:
    """Standard Gumbel noise: the largest of logits plus noise is a draw from their softmax."""
    return -(-uniforms.log()).log()
