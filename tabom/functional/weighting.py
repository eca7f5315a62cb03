"""How much the tokens of a masked sequence count in a weighted cross-entropy.

Axes: B rows, L canvas positions.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def inverse_ratio_weights(
    is_learnable: Bool[Tensor, "B L"], mask_ratio: Float[Tensor, " B"] | Float[Tensor, "B L"]
) -> Float[Tensor, "B L"]:
    r"""Weights with which the sum over the masked tokens is the negative evidence lower bound per token.

    .. math:: w_i = \frac{1}{p\,n}

    Args:
        is_learnable: Positions that would be asked for if they were masked, n a row.
        mask_ratio: p, the probability with which each was masked, in (0, 1]; of a row or of each position.

    Returns:
        Weights at all learnable positions, masked or not; 0 elsewhere.

    References:
        Nie et al. 2025 (LLaDA), arXiv:2502.09992; fine-tuning as in its GUIDELINES.md, where n counts the answer with
        the end-of-sequence tokens that fill it.

    Example:
        >>> inverse_ratio_weights(torch.tensor([[False, True, True]]), torch.tensor([0.25]))
        tensor([[0., 2., 2.]])
    """
    num_learnable = is_learnable.sum(1, keepdim=True).clamp(min=1)
    return is_learnable / ((mask_ratio[:, None] if mask_ratio.ndim == 1 else mask_ratio) * num_learnable)


def cart_weights(is_visible: Bool[Tensor, "B L"], *, p: float) -> Float[Tensor, "B L"]:
    r"""Weights that grow with what is visible nearby: context-adaptive token-level noise rescheduling.

    .. math:: w_i = \sum_{j \ne i,\ j \text{ visible}} \tfrac{1}{2}\, p\, (1 - p)^{|i - j| - 1}

    A position with everything else visible on both sides has a weight near 1, at most; one that sees nothing has 0.

    Args:
        is_visible: Positions whose token the network sees: prompt and response, no padding.
        p: Share of the weight that the direct neighbours carry, in (0, 1]; small values look far.

    Returns:
        Weights at every position.

    References:
        Ye et al. 2025 (Dream 7B), arXiv:2508.15487; ``time_reweighting: cart`` of its fine-tuning code.

    Example:
        >>> cart_weights(torch.tensor([[True, False, False, True]]), p=0.5)
        tensor([[0.0625, 0.3750, 0.3750, 0.0625]])
    """
    position = torch.arange(is_visible.shape[1], device=is_visible.device)
    distance = (position[:, None] - position).abs()
    kernel = (0.5 * p * (1 - p) ** (distance - 1).clamp(min=0).float()).masked_fill(distance == 0, 0.0)
    return is_visible.float() @ kernel


def path_weights(nll: Float[Tensor, "B L"], *, where: Bool[Tensor, "B L"], temperature: float) -> Float[Tensor, "B L"]:
    r"""Weights in proportion to how sure the model is of each token, without a gradient.

    .. math:: w_i = \operatorname{softmax}_{i \in M}\left(\log p(x_0^i \mid x_t) / \tau\right)

    Args:
        nll: Negative log-likelihoods in nats; anything outside ``where``.
        where: Masked positions M that are asked for.
        temperature: Tau, > 0; 1 weighs by probability, large values weigh alike.

    Returns:
        Weights that add up to 1 in each row; 0 outside ``where``, and in a row without any.

    References:
        Peng et al. 2025 (PAPL), arXiv:2509.23405.

    Example:
        >>> path_weights(torch.tensor([[0.0, 0.0, 5.0]]), where=torch.tensor([[True, True, False]]), temperature=1.0)
        tensor([[0.5000, 0.5000, 0.0000]])
    """
    scores = (-nll.detach() / temperature).masked_fill(~where, -torch.inf)
    return scores.softmax(1).where(where, 0.0)
