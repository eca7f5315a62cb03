"""The order of decoding at the states that decoding was in."""

from jaxtyping import Float
from torch import Tensor

from tabom.corruption import TrajectoryChoices
from tabom.errors import TabomError, check_range, require
from tabom.functional.ranking import Energy, energies, ordered_pairs, plackett_luce_loss, tilted_order_loss
from tabom.objectives.base import Objective
from tabom.types import CorruptedBatch, TokenStatistics


class ExactOrderObjective(Objective):
    r"""Reconstruct the next steps of a trajectory, and let the sampler's own choice be the likeliest one.

    .. math:: L = \frac{1}{|\Delta|} \sum_{k \in \Delta} -\log p(x_0^k \mid U)
        - \frac{\lambda}{\beta} \log \frac{e^{-\beta E_r}}{\sum_{s \in C(U)} e^{-\beta E_s}}, \quad E_s = E(s \mid U)

    U is a state that decoding was in, r what it revealed next, C(U) all that it could have revealed: the masked
    positions of the block. The normaliser is a plain sum, so this is the Boltzmann model of the paper's Eq. 3, one step
    at a time and without a surrogate. Where a step revealed several tokens they are drawn one after the other, by
    recorded entropy, and the term is the mean over these draws (:func:`tabom.functional.ranking.plackett_luce_loss`);
    tokens that no entropy tells apart do not compete. All energies come from one forward pass, so C(U) meets the
    vocabulary as well.

    Args:
        window: Steps that are reconstructed, >= 1 and at most the response length.
        rank_weight: Lambda, >= 0.
        inverse_temperature: Beta in 1/nats, > 0.
        energy: ``entropy``, ``confidence`` or ``log_odds`` (:func:`tabom.functional.ranking.energies`).
        rank_tilt: Nats by which the choice of the reference model is tilted towards the sampler's, >= 0
            (:func:`tabom.functional.ranking.tilted_order_loss`); None, the limit, asks for the sampler's choice alone.
        truncated_windows: Also start where fewer than ``window`` steps are left, and take those.
        supervise_padding: Whether end-of-sequence tokens that fill the response budget are learnt, and candidates.
        tilt: Eta in nats, >= 0; None for cross-entropy (:class:`~tabom.objectives.Objective`).

    Raises:
        TabomError: If a value is out of range.

    References:
        Chen et al. 2026, arXiv:2605.11854, Eq. 3. Means are per trajectory, then over the trajectories that have
        targets or a choice.
    """

    def __init__(
        self,
        window: int = 32,
        rank_weight: float = 1.0,
        inverse_temperature: float = 5.0,
        energy: Energy = "entropy",
        rank_tilt: float | None = None,
        truncated_windows: bool = False,
        supervise_padding: bool = True,
        tilt: float | None = None,
    ) -> None:
        choices = TrajectoryChoices(window, truncated_windows=truncated_windows, supervise_padding=supervise_padding)
        super().__init__(choices, supervise_padding=supervise_padding, tilt=tilt)
        check_range("rank_weight", rank_weight, least=0)
        check_range("inverse_temperature", inverse_temperature, above=0)
        check_range("rank_tilt", rank_tilt, least=0)
        self.window = window
        self.rank_weight = rank_weight
        self.inverse_temperature = inverse_temperature
        self.energy: Energy = energy
        self.rank_tilt = rank_tilt
        self.needs_reference = self.needs_reference or rank_tilt is not None

    def check_response_length(self, response_length: int) -> None:
        """Raise ``TabomError`` if the window is larger than the response."""
        require(
            self.window <= response_length,
            f"window: expected at most the response length of {response_length} tokens, got {self.window}",
        )

    def terms(
        self, statistics: TokenStatistics, corrupted: CorruptedBatch, reference: TokenStatistics | None = None
    ) -> dict[str, Float[Tensor, ""]]:
        """``loss``, ``reconstruction``, ``ranking``, and ``order_agreement``.

        The last is the share of pairs, a token revealed next and a candidate after it, of which the first has the lower
        energy.

        Raises:
            TabomError: If the candidates, or the reference that ``rank_tilt`` needs, are missing.
        """
        if corrupted.is_candidate is None or corrupted.token_weight is None:
            raise TabomError("is_candidate: expected the candidates that ExactOrderObjective.corrupt gives, got none")
        is_asked = corrupted.is_target & (corrupted.token_weight > 0)
        positions = corrupted.is_candidate.long().argsort(dim=1, descending=True, stable=True)
        positions = positions[:, : int(corrupted.is_candidate.sum(1).amax())]
        where = corrupted.is_candidate.gather(1, positions)
        is_pair = ordered_pairs(corrupted.order.gather(1, positions), where=where)
        energy, beta = energies(statistics, self.energy).gather(1, positions), self.inverse_temperature
        if self.rank_tilt is None:
            values = plackett_luce_loss(energy, is_pair, inverse_temperature=beta)
        else:
            if reference is None:
                raise TabomError("rank_tilt: expected statistics of a reference model, got none")
            base = energies(reference, self.energy).gather(1, positions)
            values = tilted_order_loss(energy, base, is_pair, inverse_temperature=beta, tilt=self.rank_tilt)
        ranking = self.mean_of_rows(values, is_pair.any(2).any(1), corrupted)
        losses = self.target_losses(statistics, corrupted, reference)
        return {
            "loss": self.mean_of_targets(losses, is_asked, "trajectories") + self.rank_weight * ranking,
            "reconstruction": self.mean_of_targets(statistics.nll.detach(), is_asked, "trajectories"),
            "ranking": ranking.detach(),
            "order_agreement": self.mean_where((energy[:, :, None] < energy[:, None, :]).float(), is_pair),
        }
