"""How alike the hidden states of two models are, layer by layer.

Axes: B rows, L positions, D hidden size.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import cosine_similarity


def layer_distance(
    states: Sequence[Float[Tensor, "B L D"]],
    reference: Sequence[Float[Tensor, "B L D"]],
    where: Bool[Tensor, "B L"],
) -> Float[Tensor, ""]:
    r"""Mean over layers and positions of one minus the cosine of two hidden states.

    .. math:: \frac{1}{H |W|} \sum_{h=1}^{H} \sum_{i \in W} (1 - \cos(s^h_i, r^h_i))

    Args:
        states: What each layer gives, in the order of the layers.
        reference: What the same layers of the other model give.
        where: Positions that count, W; at least one.

    Returns:
        From 0, where all point in the same directions, to 2.

    References:
        Peng et al. 2026 (Repr-Align), arXiv:2605.06885.

    Example:
        >>> one = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
        >>> layer_distance([one], [one.flip(-1)], torch.tensor([[True, False]]))
        tensor(1.)
    """
    layers = zip(states, reference, strict=True)
    similarities = [cosine_similarity(one.float(), other.float(), dim=-1)[where].mean() for one, other in layers]
    return 1 - torch.stack(similarities).mean()
