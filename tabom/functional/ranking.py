"""What the order of decoding says about energies: the pairwise preference and its surrogates.

Axes: B trajectories, W positions of a segment.
"""

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import logsigmoid

from tabom.functional.reduction import masked_mean
from tabom.functional.tilting import tilted_divergence
from tabom.types import TokenStatistics

StopGradient = Literal["none", "earlier", "later"]
Energy = Literal["entropy", "confidence", "log_odds"]


def energies(statistics: TokenStatistics, kind: Energy) -> Float[Tensor, "*K"]:
    r"""What a decoder ranks positions by; lower is decoded earlier.

    Args:
        statistics: Of each position.
        kind: ``entropy`` in nats; ``confidence``: minus the largest probability; ``log_odds``:
            :math:`\log((1 - c) / c)` of the largest probability c, which orders like the confidence and goes on to fall
            where that is near 1, down to the spacing of the numbers there (-16.6 in float32).

    Example:
        >>> nothing = torch.zeros(1)
        >>> energies(TokenStatistics(nothing, nothing, torch.tensor([0.8]), nothing.bool()), "log_odds")
        tensor([-1.3863])
    """
    if kind == "entropy":
        return statistics.entropy
    confidence = statistics.confidence
    return -confidence if kind == "confidence" else -confidence.logit(torch.finfo(confidence.dtype).eps / 2)


def ordered_pairs(
    order: Int[Tensor, "B W"], *, where: Bool[Tensor, "B W"], block: Int[Tensor, "B W"] | None = None
) -> Bool[Tensor, "B W W"]:
    """Pairs (r, s) of which r was decoded strictly before s.

    Args:
        order: Decoding order; smaller is earlier, equal means that neither came first.
        where: Positions that take part.
        block: Positions of different blocks form no pair; None for a single block.

    Returns:
        ``[b, r, s]`` is true where (r, s) is a pair.

    Example:
        >>> import torch
        >>> ordered_pairs(torch.tensor([[0, 1]]), where=torch.tensor([[True, True]]))
        tensor([[[False,  True],
                 [False, False]]])
    """
    return (order[:, :, None] < order[:, None, :]) & competing(where, block)


def competing(where: Bool[Tensor, "B W"], block: Int[Tensor, "B W"] | None) -> Bool[Tensor, "B W W"]:
    """Positions (r, s) that both take part and lie in one block, r = s included; None is a single block."""
    is_pair = where[:, :, None] & where[:, None, :]
    return is_pair if block is None else is_pair & (block[:, :, None] == block[:, None, :])


def pair_violation(
    energy: Float[Tensor, "B W"],
    *,
    margin: float | Float[Tensor, "B W W"],
    stop_gradient: StopGradient = "none",
) -> Float[Tensor, "B W W"]:
    r"""By how much each pair (r, s) falls short of the margin: :math:`E_r - E_s + \gamma`; negative where it does not.

    Args:
        energy: E, low where a token is easy, in nats; float32 or wider. The paper's is the predictive entropy.
        margin: Gamma, in the unit of the energy, >= 0; one for all pairs or one for each.
        stop_gradient: The side of a pair that gets no gradient; both do by default.
    """
    earlier, later = energy[:, :, None], energy[:, None, :]
    if stop_gradient == "earlier":
        earlier = earlier.detach()
    elif stop_gradient == "later":
        later = later.detach()
    return earlier - later + margin


def pairwise_ranking_loss(violation: Float[Tensor, "B W W"], is_pair: Bool[Tensor, "B W W"]) -> Float[Tensor, " B"]:
    r"""Penalise pairs whose energies contradict the order in which the trajectory decoded them.

    .. math:: L = \frac{1}{|P|} \sum_{(r,s) \in P} \max(0, E_r - E_s + \gamma)

    The mean is per trajectory; reducing over B is the caller's.

    Args:
        violation: From :func:`pair_violation`, in nats; anything, also NaN, outside the pairs.
        is_pair: P, from :func:`ordered_pairs`.

    Returns:
        Loss per trajectory in nats; 0, with zero gradient, where a trajectory has no pair.

    Example:
        >>> import torch
        >>> is_pair = ordered_pairs(torch.tensor([[0, 1]]), where=torch.tensor([[True, True]]))
        >>> pairwise_ranking_loss(pair_violation(torch.tensor([[2.0, 1.0]]), margin=0.5), is_pair)
        tensor([1.5000])

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 8.
    """
    return _mean_over_pairs(violation.where(is_pair, 0.0).clamp(min=0), is_pair)


def logistic_ranking_loss(
    violation: Float[Tensor, "B W W"], is_pair: Bool[Tensor, "B W W"], *, inverse_temperature: float
) -> Float[Tensor, " B"]:
    r"""Smooth form of :func:`pairwise_ranking_loss`, which it approaches from above as :math:`\beta` grows.

    .. math:: L = \frac{1}{|P|} \sum_{(r,s) \in P} \frac{1}{\beta} \log(1 + e^{\beta (E_r - E_s + \gamma)})

    It exceeds the hinge by at most :math:`\log(2) / \beta`. At margin 0, the loss of a single pair is that of
    :func:`plackett_luce_loss`.

    Args:
        violation: As there.
        is_pair: As there.
        inverse_temperature: Beta in 1/nats, > 0.

    Returns:
        Loss per trajectory in nats; 0, with zero gradient, where a trajectory has no pair.
    """
    violation = violation.where(is_pair, 0.0)
    return _mean_over_pairs(-logsigmoid(-inverse_temperature * violation) / inverse_temperature, is_pair)


def plackett_luce_loss(
    energy: Float[Tensor, "B W"], is_pair: Bool[Tensor, "B W W"], *, inverse_temperature: float
) -> Float[Tensor, " B"]:
    r"""Negative log-likelihood of the whole order when each next token is drawn with probability ~ exp(-beta E).

    .. math:: L = \frac{1}{\beta |D|} \sum_{r \in D} -\log
              \frac{e^{-\beta E_r}}{e^{-\beta E_r} + \sum_{s \text{ after } r} e^{-\beta E_s}}

    D are the tokens that anything comes after: the last draw is certain and does not count. Without ties
    :math:`\beta |D| L` is the exact negative log-likelihood of the order, and :math:`e^{-\beta |D| L}` sums to 1 over
    all orders. Division by beta puts the loss into the unit of the energy, as in :func:`logistic_ranking_loss`.

    Tokens of equal order do not compete: each is drawn from itself and what is strictly later. That is the exact
    probability that it comes before all of these, wherever its equals stand, so equals are neither ordered nor drawn
    together, and a trajectory in which all are equal says nothing. (Breslow's sets, which hold the equals as well,
    would pull their energies together.)

    Args:
        energy: E in nats, float32 or wider; anything, also NaN, outside the pairs.
        is_pair: From :func:`ordered_pairs`; the order is read off them.
        inverse_temperature: Beta in 1/nats, > 0.

    Returns:
        Mean per draw, per trajectory, in the unit of the energy; 0, with zero gradient, where nothing comes after
        anything.

    Example:
        >>> import torch
        >>> is_pair = ordered_pairs(torch.tensor([[0, 1, 2]]), where=torch.ones(1, 3).bool())
        >>> plackett_luce_loss(torch.zeros(1, 3), is_pair, inverse_temperature=1.0)
        tensor([0.8959])

    References:
        Plackett 1975, The Analysis of Permutations; the sequential form of Chen et al. 2026, arXiv:2605.11854, Eq. 3.
    """
    log_choice = _log_choice(energy, is_pair, inverse_temperature)
    return masked_mean(-log_choice.diagonal(dim1=1, dim2=2), is_pair.any(2)) / inverse_temperature


def tilted_order_loss(
    energy: Float[Tensor, "B W"],
    target_energy: Float[Tensor, "B W"],
    is_pair: Bool[Tensor, "B W W"],
    *,
    inverse_temperature: float,
    tilt: float,
) -> Float[Tensor, " B"]:
    r"""Divergence from the order of a reference model that favours the observed one by :math:`\eta` nats per draw.

    .. math:: L = \frac{1}{\beta |D|} \sum_{r \in D} KL(\pi_\eta \| \pi), \qquad
              \pi(s) \propto e^{-\beta E_s}, \qquad \pi_\eta(s) \propto e^{-\beta E^*_s + \eta [s = r]}

    The draws D, and the tokens s of each, are those of :func:`plackett_luce_loss`, which is the limit as :math:`\eta`
    grows. This loss asks for no more than :math:`\eta` nats of preference.

    Args:
        energy: E in nats, float32 or wider; anything, also NaN, outside the pairs.
        target_energy: :math:`E^*` of the reference model, without a gradient; anything outside the pairs.
        is_pair: From :func:`ordered_pairs`; the order is read off them.
        inverse_temperature: Beta in 1/nats, > 0.
        tilt: :math:`\eta` in nats, >= 0.

    Returns:
        Mean per draw, per trajectory, in the unit of the energy; 0, with zero gradient, where nothing comes after
        anything.

    Example:
        >>> is_pair = ordered_pairs(torch.tensor([[0, 1]]), where=torch.ones(1, 2).bool())
        >>> tilted_order_loss(torch.ones(1, 2), torch.ones(1, 2), is_pair, inverse_temperature=1.0, tilt=0.0)
        tensor([0.])
    """
    log_choice, log_target = (_log_choice(values, is_pair, inverse_temperature) for values in (energy, target_energy))
    divergence = (log_target.exp() * (log_target - log_choice)).sum(2)
    nll, target_nll = (-values.diagonal(dim1=1, dim2=2) for values in (log_choice, log_target))
    values = tilted_divergence(nll, divergence, target_nll, tilt=tilt)
    return masked_mean(values, is_pair.any(2)) / inverse_temperature


def boltzmann_kl_loss(
    energy: Float[Tensor, "B W"],
    target_energy: Float[Tensor, "B W"],
    *,
    where: Bool[Tensor, "B W"],
    inverse_temperature: float,
    block: Int[Tensor, "B W"] | None = None,
) -> Float[Tensor, " B"]:
    r"""Divergence from the Boltzmann distribution over a window that the target energies make.

    .. math:: L = \frac{1}{\beta} KL(q^* \| q), \qquad q^* \propto e^{-\beta E^*}, \qquad q \propto e^{-\beta E}

    Both are distributions over which token of the window is decoded next, so that the normalisation is a plain sum.
    The gradient is that of the cross-entropy over beta, :math:`q^* - q`: division by beta puts the loss into the unit
    of the energy, as in :func:`logistic_ranking_loss`.

    Args:
        energy: E in nats, float32 or wider; anything, also NaN, outside ``where``.
        target_energy: :math:`E^*` in nats, without a gradient; positions where it is NaN are left out.
        where: Positions that take part.
        inverse_temperature: Beta in 1/nats, > 0.
        block: Each block has distributions of its own; the result is the mean over the blocks with at least two
            positions. None for a single block.

    Returns:
        Divergence over beta per trajectory, in the unit of the energy, >= 0; 0, with zero gradient, where no block has
        two positions.

    Example:
        >>> import torch
        >>> target, everywhere = torch.tensor([[0.0, 1.0]]), torch.ones(1, 2).bool()
        >>> boltzmann_kl_loss(target + 3, target, where=everywhere, inverse_temperature=2.0)
        tensor([0.])

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 4, restricted to unmasked sets that differ in one token.
    """
    competes = competing(where & ~target_energy.isnan(), block)
    log_target, log_model = (
        (-inverse_temperature * values)[:, None, :]
        .masked_fill(~competes, torch.finfo(values.dtype).min)
        .log_softmax(2)
        .diagonal(dim1=1, dim2=2)
        for values in (target_energy, energy)
    )
    is_first_of_several = (competes.sum(2) >= 2) & ~competes.tril(-1).any(2)
    num_blocks = is_first_of_several.sum(1).clamp(min=1)
    return (log_target.exp() * (log_target - log_model)).sum(1) / num_blocks / inverse_temperature


def _log_choice(energy: Tensor, is_pair: Tensor, inverse_temperature: float) -> Tensor:
    """Logarithms (B, W, W) of the probability that s is drawn from r and what comes after r; very low for others."""
    score = -inverse_temperature * energy.where(is_pair.any(2) | is_pair.any(1), 0.0)
    competes = is_pair | torch.eye(is_pair.shape[1], dtype=torch.bool, device=is_pair.device)
    return score[:, None, :].masked_fill(~competes, torch.finfo(score.dtype).min).log_softmax(2)


def _mean_over_pairs(values: Tensor, is_pair: Tensor) -> Tensor:
    return values.where(is_pair, 0.0).sum((1, 2)) / is_pair.sum((1, 2)).clamp(min=1)
