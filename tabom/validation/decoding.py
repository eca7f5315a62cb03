"""What is measured on prompts of the new domain: accuracy, and how the decoding goes about it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, SumMetric

from tabom.backbones import Backbone
from tabom.errors import check_range, require
from tabom.functional.discrimination import End, counted_positions
from tabom.functional.reduction import standard_error
from tabom.metrics import MeanCurve, PassAtK, TrajectoryDiscriminationScore
from tabom.samplers import Sampler
from tabom.types import DecodedBatch, PromptBatch, TrajectoryRow, Verdict
from tabom.validation.judge import Judge, is_correct


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
        require(self.sampler.is_random, "pass_at: expected a sampler that draws, as at a temperature above 0")
        check_range("pass_at.num_samples", self.num_samples, least=1)
        require(len(self.k) > 0, "pass_at.k: expected at least one number, got none")
        for k in self.k:
            check_range("pass_at.k", k, least=1, most=self.num_samples)


class DecodingMeasures(nn.Module):
    """Accuracy of decoded prompts, and how the first sampler goes about them.

    Args:
        samplers: By the name of their accuracy.
        pass_at: Several decodings of each prompt, or None.
        num_samples: Decoded prompts that are kept to be looked at.
        tds_end: Where a response ends for the trajectory discrimination score.
        response_length: N.
        block_size: Of the model, if it is block-causal.
    """

    def __init__(
        self,
        samplers: dict[str, Sampler],
        pass_at: PassAt | None,
        num_samples: int,
        tds_end: End,
        response_length: int,
        block_size: int | None,
    ) -> None:
        super().__init__()
        self._samplers = samplers
        self._pass_at = pass_at
        self._num_samples = num_samples
        self._tds_end: End = tds_end
        self.samples: list[TrajectoryRow] = []
        self.accuracy = nn.ModuleDict({name: MeanMetric() for name in samplers})
        self.num_prompts = SumMetric()
        first = next(iter(samplers.values()))
        num_steps = first.num_steps(response_length, block_size)
        self.discrimination = TrajectoryDiscriminationScore(num_steps)
        self.unmask_entropy = MeanCurve(num_steps)
        self.pass_at_k = PassAtK(tuple(pass_at.k)) if pass_at else None

    def update(self, backbone: Backbone, batch: PromptBatch, judge: Judge) -> None:
        """Decode and verify."""
        self.num_prompts.update(len(batch.examples))
        for index, (name, sampler) in enumerate(self._samplers.items()):
            eos = None if index == 0 else judge.special_ids.eos
            decoded = sampler.decode(backbone, batch, eos_token_id=eos, record_steps=index == 0)
            verdicts = judge.judge(batch.examples, decoded.response_ids)
            self.accuracy[name].update(is_correct(verdicts).double())  # pyright: ignore[reportCallIssue]
            if index == 0:
                self._look_at(decoded, verdicts, judge.special_ids.eos)
                self._keep_samples(batch, verdicts, decoded)
        if self._pass_at is not None and self.pass_at_k is not None:
            samplers = [
                self._pass_at.sampler.with_seed(self._pass_at.sampler.seed + i)
                for i in range(self._pass_at.num_samples)
            ]
            eos = judge.special_ids.eos
            responses = [sampler.decode(backbone, batch, eos_token_id=eos).response_ids for sampler in samplers]
            num_correct = torch.stack([is_correct(judge.judge(batch.examples, ids)) for ids in responses]).sum(0)
            self.pass_at_k.update(len(samplers), num_correct.to(batch.noisy_ids.device))

    def compute(self) -> dict[str, Tensor]:
        """Accuracies and ``pass_at_K`` with their standard errors over the prompts, ``NAME_error``; ``tds``.

        The error of a single prompt is NaN.
        """
        results: dict[str, Tensor] = {}
        num_prompts = self.num_prompts.compute()
        for name, metric in cast("Mapping[str, MeanMetric]", self.accuracy).items():
            results[name] = share = metric.compute()
            results[f"{name}_error"] = standard_error(share, share, num_prompts)
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

    def _look_at(self, decoded: DecodedBatch, verdicts: Sequence[Verdict], eos_token_id: int) -> None:
        assert decoded.step_entropy is not None
        where = counted_positions(
            decoded.response_ids,
            decoded.unmask_step,
            num_steps=decoded.step_entropy.shape[1],
            eos_token_id=eos_token_id,
            end=self._tds_end,
        )
        self.discrimination.update(decoded.step_entropy, where)
        num_tokens = torch.tensor([verdict.num_tokens for verdict in verdicts])
        is_counted = torch.arange(decoded.response_ids.shape[1]) < num_tokens[:, None]
        is_counted = is_counted.to(decoded.response_ids.device)
        self.unmask_entropy.update(decoded.unmask_entropy[is_counted], decoded.unmask_step[is_counted])

    def _keep_samples(self, batch: PromptBatch, verdicts: Sequence[Verdict], decoded: DecodedBatch) -> None:
        rows = range(min(len(verdicts), self._num_samples - len(self.samples)))
        for row, example, verdict in zip(rows, batch.examples, verdicts, strict=False):
            self.samples.append(
                TrajectoryRow(
                    query_id=example.query_id,
                    sample=0,
                    is_verified=verdict.is_correct,
                    prompt_ids=[],
                    response_ids=decoded.response_ids[row].tolist(),
                    unmask_step=decoded.unmask_step[row].tolist(),
                    unmask_entropy=decoded.unmask_entropy[row].tolist(),
                    prompt=example.prompt,
                    response=verdict.text,
                    reference=example.reference,
                )
            )
