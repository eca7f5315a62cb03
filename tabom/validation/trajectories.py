"""What is measured on held-out trajectories: order, calibration and cross-entropy."""

import dataclasses

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from tabom.backbones import Backbone, Denoiser
from tabom.backbones.target_pass import TargetPass
from tabom.corruption import TrajectorySegments
from tabom.functional.masking import fixed_ratio_mask
from tabom.metrics import CalibrationError, MaskRatioCurve, OrderAgreement, OrderCorrelation
from tabom.objectives import Ranking, TabomObjective
from tabom.seeding import RowDraws
from tabom.types import GROUND_TRUTH, SELF_DISTILLED, CorruptedBatch, TrajectoryBatch


class TrajectoryMeasures(nn.Module):
    """Order, calibration and cross-entropy on held-out trajectories; every draw depends on the query alone.

    Agreement and correlation of the order count the pairs that the sampler compared, whatever pairs the probe ranks, so
    that runs which rank different pairs are measured alike.

    Args:
        probe: Cuts one segment out of each trajectory; None leaves order and calibration out.
        mask_ratios: At which cross-entropy is measured, on the decoded answers and on the task's own.
    """

    def __init__(self, probe: TabomObjective | None, mask_ratios: tuple[float, ...]) -> None:
        super().__init__()
        self._probe = probe
        self._mask_ratios = mask_ratios
        self.terms = nn.ModuleDict({name: MeanMetric() for name in ("reconstruction", "ranking")})
        self.agreement = OrderAgreement()
        self.base_agreement = OrderAgreement()
        self.correlation = OrderCorrelation()
        self.calibration = CalibrationError()
        self.cross_entropy = nn.ModuleDict(
            {answers: MaskRatioCurve(mask_ratios) for answers in (SELF_DISTILLED, GROUND_TRUTH) if mask_ratios}
        )

    def update(self, backbone: Backbone, base: Denoiser | None, batch: TrajectoryBatch) -> None:
        """Add held-out rows; filler after the end is left out."""
        if self._probe is not None and batch.answers != GROUND_TRUTH:
            self._add_segments(self._probe, backbone, base, batch)
            self._add_whole_response(backbone, batch)
        if batch.answers in self.cross_entropy:
            self._add_mask_ratios(backbone, batch)

    def compute(self, *, has_base: bool, has_ground_truth: bool) -> dict[str, Tensor]:
        """The probe's terms in nats, agreement and correlation of the order, and calibration.

        With a base also the share of pairs that it inverts itself; with mask ratios and the task's own answers also
        ``ce_ratio``: their cross-entropy over that of the decoded ones, each a mean over the mask ratios.
        """
        results: dict[str, Tensor] = {}
        if self._probe is not None:
            results |= {name: metric.compute() for name, metric in self.terms.items()}  # pyright: ignore[reportCallIssue]
            results["order_agreement"] = self.agreement.compute()
            results["order_correlation"] = self.correlation.compute()
            results["calibration_error"] = self.calibration.compute()
            if has_base:
                results["inverted_under_base"] = 1 - self.base_agreement.compute()
        curves = self.curves(has_ground_truth=has_ground_truth)
        if len(curves) == len((SELF_DISTILLED, GROUND_TRUTH)):
            results["ce_ratio"] = curves[f"ce_{GROUND_TRUTH}"].nanmean() / curves[f"ce_{SELF_DISTILLED}"].nanmean()
        return results

    def curves(self, *, has_ground_truth: bool = True, has_self_distilled: bool = True) -> dict[str, Tensor]:
        """Cross-entropy (nats) by mask ratio, of the decoded answers and of the task's own."""
        is_there = {GROUND_TRUTH: has_ground_truth, SELF_DISTILLED: has_self_distilled}
        return {
            f"ce_{answers}": metric.compute()  # pyright: ignore[reportCallIssue]
            for answers, metric in self.cross_entropy.items()
            if is_there[answers]
        }

    def _add_segments(
        self, probe: TabomObjective, backbone: Backbone, base: Denoiser | None, batch: TrajectoryBatch
    ) -> None:
        draws = RowDraws.of_ids(batch.query_ids, "probe", device=_device(batch))
        in_blocks = dataclasses.replace(batch, attention_block=backbone.blocks(batch.attention_mask))
        corrupted = probe.corrupt(in_blocks, backbone.mask_token_id, draws)
        corrupted = dataclasses.replace(corrupted, is_target=corrupted.is_target & ~batch.is_filler)
        statistics = TargetPass(backbone, corrupted).statistics()
        base_statistics = None if base is None else TargetPass(base, corrupted).statistics()
        segment = Ranking().segment(statistics, corrupted, base_statistics)
        terms = probe.terms(statistics, corrupted)
        is_ranked = probe.ranking.segment(statistics, corrupted).is_pair
        num_rows = {"reconstruction": corrupted.is_target.any(1).sum(), "ranking": is_ranked.any(2).any(1).sum()}
        for name, metric in self.terms.items():
            metric.update(terms[name], weight=num_rows[name])  # pyright: ignore[reportCallIssue]
        self.agreement.update(segment.entropy, segment.is_pair)
        self.calibration.update(statistics.confidence[corrupted.is_target], statistics.is_correct[corrupted.is_target])
        if segment.base_energy is not None:
            self.base_agreement.update(segment.base_energy, segment.is_pair)

    def _add_whole_response(self, backbone: Backbone, batch: TrajectoryBatch) -> None:
        """Nothing is decoded yet: do the entropies there foretell the whole order?

        With a block-causal model nothing of each block is decoded, and the blocks before it are.
        """
        start = torch.zeros(len(batch.query_ids), dtype=torch.long, device=_device(batch))
        corrupted = TrajectorySegments(batch.clean_ids.shape[1]).cut(batch, start, backbone.mask_token_id)
        corrupted = dataclasses.replace(corrupted, is_target=corrupted.is_target & ~batch.is_filler)
        statistics = TargetPass(backbone, corrupted).statistics()
        blocks = backbone.blocks(batch.attention_mask)
        block = batch.block if blocks is None else blocks
        self.correlation.update(statistics.entropy, corrupted.order, corrupted.is_target, block)

    def _add_mask_ratios(self, backbone: Backbone, batch: TrajectoryBatch) -> None:
        draws = RowDraws.of_ids(batch.query_ids, "mask ratio", device=_device(batch))
        noise = draws.per_position(batch.is_response)
        for index, ratio in enumerate(self._mask_ratios):
            is_masked = fixed_ratio_mask(batch.is_response, ratio, noise)
            corrupted = CorruptedBatch(
                clean_ids=batch.clean_ids,
                noisy_ids=batch.clean_ids.masked_fill(is_masked, backbone.mask_token_id),
                attention_mask=batch.attention_mask,
                is_masked=is_masked,
                is_target=is_masked & ~batch.is_filler,
                order=torch.zeros_like(batch.clean_ids),
                recorded_entropy=batch.unmask_entropy,
                query_ids=batch.query_ids,
            )
            nll = TargetPass(backbone, corrupted).statistics().nll
            self.cross_entropy[batch.answers].update(index, nll, corrupted.is_target)  # pyright: ignore[reportCallIssue]


def _device(batch: TrajectoryBatch) -> torch.device:
    return batch.clean_ids.device
