"""What is measured on each kind of held-out data, over all processes.

Axes: B rows, L canvas positions, N response positions.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric

from tabom.backbones import Backbone, Denoiser
from tabom.backbones.target_pass import TargetPass
from tabom.corruption import TrajectorySegments
from tabom.errors import require
from tabom.functional.masking import fixed_ratio_mask
from tabom.functional.token_statistics import linear_kl_divergence
from tabom.metrics import (
    AccuracyKept,
    CalibrationError,
    Forgetting,
    MaskRatioCurve,
    MeanCurve,
    OrderAgreement,
    OrderCorrelation,
    PassAtK,
    TrajectoryDiscriminationScore,
)
from tabom.objectives import TabomObjective
from tabom.objectives.tabom import segment_pairs
from tabom.samplers import Sampler
from tabom.seeding import RowDraws
from tabom.types import (
    GROUND_TRUTH,
    SELF_DISTILLED,
    CorruptedBatch,
    DecodedBatch,
    Example,
    PromptBatch,
    SpecialIds,
    TrajectoryBatch,
    Verdict,
)


class Judge(Protocol):
    """What a data module knows about answers."""

    @property
    def special_ids(self) -> SpecialIds:
        """Of the tokenizer."""
        ...

    def judge(self, examples: Sequence[Example], response_ids: Tensor, source: str = "") -> list[Verdict]:
        """Text and verdict of each row (B, N), by the task or the base domain ``source``."""
        ...

    def is_before_end(self, response_ids: Tensor) -> Tensor:
        """Positions up to and with the first end-of-sequence token (B, N)."""
        ...


@dataclass(frozen=True)
class DecodedSample:
    """One decoded prompt, to be looked at; lists hold an entry a position of the response."""

    query_id: str
    prompt: str
    response: str
    reference: str
    is_correct: bool
    response_ids: list[int]
    unmask_step: list[int]
    unmask_entropy: list[float]


@dataclass(frozen=True)
class PassAt:
    """Several decodings of each prompt.

    Attributes:
        sampler: Draws them; its temperature has to be above 0, or all are the same.
        num_samples: Decodings a prompt, with seeds that follow the sampler's.
        k: For each, the chance that one of k decodings is correct; at most ``num_samples``.

    Raises:
        TabomError: If a value is out of range.
    """

    sampler: Sampler
    num_samples: int = 8
    k: tuple[int, ...] = (1, 8)

    def __post_init__(self) -> None:
        require(self.sampler.temperature > 0, "pass_at: expected a sampler with a temperature above 0, got 0")
        require(
            len(self.k) > 0 and all(1 <= k <= self.num_samples for k in self.k),
            f"pass_at.k: expected numbers from 1 to num_samples = {self.num_samples}, got {tuple(self.k)}",
        )


class TextMeasures(nn.Module):
    """Forgetting on masked text of base domains, for each and on average, and calibration there.

    Args:
        names: Of the base domains.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__()
        self.forgetting = nn.ModuleDict({name: Forgetting() for name in names})
        self.calibration = CalibrationError()

    def update(self, backbone: Backbone, base: Denoiser | None, batch: CorruptedBatch) -> None:
        """Add text; without a base only the NELBO is kept."""
        seen = TargetPass(backbone, batch)
        statistics = seen.statistics()
        base_nll, kl = statistics.nll, torch.zeros_like(statistics.nll)
        if base is not None:
            base_seen = TargetPass(base, batch)
            base_nll = base_seen.statistics().nll
            divergence = linear_kl_divergence(base_seen.hidden, base_seen.head, seen.hidden, seen.head)
            kl = kl.masked_scatter(batch.is_target, divergence)
        self.forgetting[batch.source].update(statistics.nll, base_nll, kl, batch.is_target)  # pyright: ignore[reportCallIssue]
        self.calibration.update(statistics.confidence[batch.is_target], statistics.is_correct[batch.is_target])

    def compute(self, *, has_base: bool) -> dict[str, Tensor]:
        """Means over the domains, and with several ``NAME/DOMAIN`` for each."""
        parts = {name: metric.compute() for name, metric in self.forgetting.items()}  # pyright: ignore[reportCallIssue]
        wanted = ("nelbo", "nelbo_change", "kl") if has_base else ("nelbo",)
        results = {name: torch.stack([part[name] for part in parts.values()]).mean() for name in wanted}
        if len(parts) > 1:
            results |= {f"{name}/{domain}": part[name] for name in wanted for domain, part in parts.items()}
        return {**results, "text_calibration_error": self.calibration.compute()}


class DecodingMeasures(nn.Module):
    """Accuracy of decoded prompts, and how the first sampler goes about them.

    Args:
        samplers: By the name of their accuracy.
        pass_at: Several decodings of each prompt, or None.
        num_samples: Decoded prompts that are kept to be looked at.
        response_length: N.
    """

    def __init__(
        self, samplers: dict[str, Sampler], pass_at: PassAt | None, num_samples: int, response_length: int
    ) -> None:
        super().__init__()
        self._samplers = samplers
        self._pass_at = pass_at
        self._num_samples = num_samples
        self.samples: list[DecodedSample] = []
        self.accuracy = nn.ModuleDict({name: MeanMetric() for name in samplers})
        first = next(iter(samplers.values()))
        num_steps = first.num_steps(response_length)
        self.discrimination = TrajectoryDiscriminationScore(num_steps)
        self.unmask_entropy = MeanCurve(num_steps)
        self.pass_at_k = PassAtK(tuple(pass_at.k)) if pass_at else None

    def update(self, backbone: Backbone, batch: PromptBatch, judge: Judge) -> None:
        """Decode and verify."""
        for index, (name, sampler) in enumerate(self._samplers.items()):
            eos = None if index == 0 else judge.special_ids.eos
            decoded = sampler.decode(backbone, batch, eos_token_id=eos, record_steps=index == 0)
            verdicts = judge.judge(batch.examples, decoded.response_ids)
            self.accuracy[name].update(_is_correct(verdicts).double())  # pyright: ignore[reportCallIssue]
            if index == 0:
                self._look_at(decoded, judge.is_before_end(decoded.response_ids))
                self._keep_samples(batch, verdicts, decoded)
        if self._pass_at is not None and self.pass_at_k is not None:
            samplers = [
                self._pass_at.sampler.with_seed(self._pass_at.sampler.seed + i)
                for i in range(self._pass_at.num_samples)
            ]
            eos = judge.special_ids.eos
            responses = [sampler.decode(backbone, batch, eos_token_id=eos).response_ids for sampler in samplers]
            is_correct = torch.stack([_is_correct(judge.judge(batch.examples, ids)) for ids in responses])
            self.pass_at_k.update(len(samplers), is_correct.sum(0).to(batch.noisy_ids.device))

    def compute(self) -> dict[str, Tensor]:
        """Accuracies, ``tds`` and ``pass_at_K``."""
        results = {name: metric.compute() for name, metric in self.accuracy.items()}  # pyright: ignore[reportCallIssue]
        results["tds"] = self.discrimination.compute()["score"]
        return results | (self.pass_at_k.compute() if self.pass_at_k else {})

    def curves(self) -> dict[str, Tensor]:
        """``tds`` and ``unmask_entropy`` by denoising step, ``tds_by_share`` by the share of the response decoded."""
        discrimination = self.discrimination.compute()
        return {
            "tds": discrimination["curve"],
            "tds_by_share": discrimination["curve_by_share"],
            "unmask_entropy": self.unmask_entropy.compute(),
        }

    def _look_at(self, decoded: DecodedBatch, is_counted: Tensor) -> None:
        assert decoded.step_entropy is not None
        self.discrimination.update(decoded.step_entropy, is_counted)
        self.unmask_entropy.update(decoded.unmask_entropy[is_counted], decoded.unmask_step[is_counted])

    def _keep_samples(self, batch: PromptBatch, verdicts: Sequence[Verdict], decoded: DecodedBatch) -> None:
        rows = range(min(len(verdicts), self._num_samples - len(self.samples)))
        for row, example, verdict in zip(rows, batch.examples, verdicts, strict=False):
            self.samples.append(
                DecodedSample(
                    query_id=example.query_id,
                    prompt=example.prompt,
                    response=verdict.text,
                    reference=example.reference,
                    is_correct=verdict.is_correct,
                    response_ids=decoded.response_ids[row].tolist(),
                    unmask_step=decoded.unmask_step[row].tolist(),
                    unmask_entropy=decoded.unmask_entropy[row].tolist(),
                )
            )


class SkillMeasures(nn.Module):
    """Accuracy on prompts of base domains that have a verifier, and the share of the base's accuracy that is kept.

    Args:
        names: Of the base domains.
        sampler: Decodes, for the model and for the base.
    """

    def __init__(self, names: Iterable[str], sampler: Sampler) -> None:
        super().__init__()
        self._sampler = sampler
        self.base_verdicts: dict[tuple[str, str], bool] = {}
        self.kept = nn.ModuleDict({name: AccuracyKept() for name in names})

    def update(self, backbone: Backbone, base: Denoiser | None, batch: PromptBatch, judge: Judge) -> None:
        """Decode and verify; the base decodes a prompt once, since it never changes."""
        is_correct = self._verdicts(backbone, batch, judge)
        keys = [(batch.source, example.query_id) for example in batch.examples]
        if base is None:
            base_is_correct = is_correct
        else:
            if any(key not in self.base_verdicts for key in keys):
                self.base_verdicts |= dict(zip(keys, self._verdicts(base, batch, judge).tolist(), strict=True))
            base_is_correct = torch.tensor([self.base_verdicts[key] for key in keys])
        device = batch.noisy_ids.device
        self.kept[batch.source].update(is_correct.to(device), base_is_correct.to(device))  # pyright: ignore[reportCallIssue]

    def compute(self) -> dict[str, Tensor]:
        """``base_accuracy`` and ``accuracy_kept``, means over the domains, and with several for each."""
        parts = {name: metric.compute() for name, metric in self.kept.items()}  # pyright: ignore[reportCallIssue]
        results: dict[str, Tensor] = {}
        for name, key in (("base_accuracy", "accuracy"), ("accuracy_kept", "kept")):
            results[name] = torch.stack([part[key] for part in parts.values()]).nanmean()
            if len(parts) > 1:
                results |= {f"{name}/{domain}": part[key] for domain, part in parts.items()}
        return results

    def _verdicts(self, model: Denoiser, batch: PromptBatch, judge: Judge) -> Tensor:
        decoded = self._sampler.decode(model, batch, eos_token_id=judge.special_ids.eos)
        return _is_correct(judge.judge(batch.examples, decoded.response_ids, batch.source))


class TrajectoryMeasures(nn.Module):
    """Order, calibration and cross-entropy on held-out trajectories; every draw depends on the query alone.

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
            {source: MaskRatioCurve(mask_ratios) for source in (SELF_DISTILLED, GROUND_TRUTH) if mask_ratios}
        )

    def update(self, backbone: Backbone, base: Denoiser | None, batch: TrajectoryBatch) -> None:
        """Add held-out rows; filler after the end is left out."""
        if self._probe is not None and batch.source != GROUND_TRUTH:
            self._add_segments(self._probe, backbone, base, batch)
            self._add_whole_response(backbone, batch)
        if batch.source in self.cross_entropy:
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

    def curves(self, *, has_ground_truth: bool) -> dict[str, Tensor]:
        """Cross-entropy (nats) by mask ratio, of the decoded answers and of the task's own."""
        return {
            f"ce_{source}": metric.compute()  # pyright: ignore[reportCallIssue]
            for source, metric in self.cross_entropy.items()
            if has_ground_truth or source != GROUND_TRUTH
        }

    def _add_segments(
        self, probe: TabomObjective, backbone: Backbone, base: Denoiser | None, batch: TrajectoryBatch
    ) -> None:
        draws = RowDraws.of_ids(batch.query_ids, "probe", device=_device(batch))
        corrupted = probe.corrupt(batch, backbone.mask_token_id, draws)
        corrupted = dataclasses.replace(corrupted, is_target=corrupted.is_target & ~batch.is_filler)
        statistics = TargetPass(backbone, corrupted).statistics()
        entropy, is_pair = segment_pairs(statistics, corrupted)
        terms = probe.terms(statistics, corrupted)
        num_rows = {"reconstruction": corrupted.is_target.any(1).sum(), "ranking": is_pair.any(2).any(1).sum()}
        for name, metric in self.terms.items():
            metric.update(terms[name], weight=num_rows[name])  # pyright: ignore[reportCallIssue]
        self.agreement.update(entropy, is_pair)
        self.calibration.update(statistics.confidence[corrupted.is_target], statistics.is_correct[corrupted.is_target])
        if base is not None:
            self.base_agreement.update(*segment_pairs(TargetPass(base, corrupted).statistics(), corrupted))

    def _add_whole_response(self, backbone: Backbone, batch: TrajectoryBatch) -> None:
        """Nothing is decoded yet: do the entropies there foretell the whole order?"""
        start = torch.zeros(len(batch.query_ids), dtype=torch.long, device=_device(batch))
        corrupted = TrajectorySegments(batch.clean_ids.shape[1]).cut(batch, start, backbone.mask_token_id)
        corrupted = dataclasses.replace(corrupted, is_target=corrupted.is_target & ~batch.is_filler)
        statistics = TargetPass(backbone, corrupted).statistics()
        self.correlation.update(statistics.entropy, corrupted.order, corrupted.is_target)

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
            self.cross_entropy[batch.source].update(index, nll, corrupted.is_target)  # pyright: ignore[reportCallIssue]


def _is_correct(verdicts: Sequence[Verdict]) -> Tensor:
    return torch.tensor([verdict.is_correct for verdict in verdicts])


def _device(batch: TrajectoryBatch) -> torch.device:
    return batch.clean_ids.device
