"""Targets that are moved from a reference model towards one outcome by a bounded number of nats."""

import torch
from jaxtyping import Float
from torch import Tensor


def tilted_divergence(
    nll: Float[Tensor, "*K"],
    divergence: Float[Tensor, "*K"],
    reference_nll: Float[Tensor, "*K"],
    *,
    tilt: float | Float[Tensor, "*K"],
) -> Float[Tensor, "*K"]:
    r"""Divergence of a model p from a reference that favours one outcome x by :math:`\eta` nats.

    .. math:: q(v) = \frac{1}{Z}\, p_{ref}(v)\, e^{\eta [v = x]}, \qquad Z = 1 + p_{ref}(x) (e^\eta - 1)
    .. math:: KL(q \| p) = w \log \frac{p_{ref}(x)}{p(x)} + (1 - w)\, KL(p_{ref} \| p) + KL(q \| p_{ref}),
              \qquad w = 1 - \frac{1}{Z}

    since :math:`q = w\,\delta_x + (1 - w)\,p_{ref}`; for :math:`\eta > 0`,
    :math:`w = \sigma(\log p_{ref}(x) + \log(e^\eta - 1))`. The last term does not depend on p, and the gradient with
    respect to the logits of p is :math:`p - q`. At :math:`\eta = 0` it is :math:`KL(p_{ref} \| p)`; as :math:`\eta`
    grows it becomes the negative log-likelihood of x; below 0 the reference disfavours x, by no more than that.

    Args:
        nll: :math:`-\log p(x)` in nats, differentiable.
        divergence: :math:`KL(p_{ref} \| p)` in nats, differentiable.
        reference_nll: :math:`-\log p_{ref}(x)` in nats, without a gradient.
        tilt: :math:`\eta` in nats, finite.

    Returns:
        Divergence in nats, 0 where p = q.

    Example:
        >>> nll = torch.tensor([0.5]).log().neg()
        >>> tilted_divergence(nll, torch.zeros(1), nll, tilt=0.0)
        tensor([0.])

    References:
        The Boltzmann form of Chen et al. 2026, arXiv:2605.11854, Eq. 3, for one token, with the reference as its prior.
    """
    log_rest = (-(-reference_nll).expm1()).log() - tilt
    log_total = torch.logaddexp(log_rest, -reference_nll)  # log Z - tilt
    weight = -(-log_total - tilt).expm1()
    own = -tilt * (log_rest - log_total).exp() - log_total
    return weight * (nll - reference_nll) + (1 - weight) * divergence + own
