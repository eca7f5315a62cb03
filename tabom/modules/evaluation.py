"""What ``validate`` and ``test`` measure."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from tabom.backbones import Backbone, Denoiser
from tabom.backbones.base import target_statistics
from tabom.errors import require
from tabom.functional.token_statistics import kl_divergence, token_statistics
from tabom.metrics import Forgetting, OrderAgreement, TrajectoryDiscriminationScore
from tabom.objectives import TabomObjective
from tabom.objectives.tabom import segment_pairs
from tabom.samplers import Sampler
from tabom.types import CorruptedBatch, Example, PromptBatch, TrajectoryBatch, Verdict


class Judge(Protocol):
    """What a data module knows about answers."""

    def judge(self, examples: Sequence[Example], response_ids: Tensor) -> list[Verdict]:
        """Text and verdict of each row (B, N)."""
        ...

    def is_before_end(self, response_ids: Tensor) -> Tensor:
        """Positions up to and with the first end-of-sequence token (B, N)."""
        ...


@dataclass(frozen=True)
class DecodedSample:
    """One decoded prompt, to be looked at."""

    prompt: str
    response: str
    reference: str
    is_correct: bool
    unmask_step: list[int]


class Evaluation(nn.Module):
    """Measures forgetting, decoding and order, by the kind of batch.

    * base-domain text (``CorruptedBatch``): NELBO, and for a post-trained model its change and KL(base || model);
    * prompts (``PromptBatch``): accuracy of decoding, once per entry of ``tokens_per_step``; trajectory discrimination
      score and sample decodings of the first;
    * held-out trajectories (``TrajectoryBatch``): reconstruction, ranking and order agreement of ``probe``, the same
      for every method, whatever it trains with.

    Args:
        sampler: Decodes prompts.
        tokens_per_step: Parallelism of each decoding; 1 is full decoding.
        probe: Cuts segments out of held-out trajectories; None leaves them out.
        num_samples: Decoded prompts that are kept to be looked at.

    Raises:
        TabomError: If ``tokens_per_step`` is empty or holds a number below 1.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokens_per_step: tuple[int, ...] = (1, 2),
        probe: TabomObjective | None = None,
        num_samples: int = 8,
    ) -> None:
        super().__init__()
        require(len(tokens_per_step) > 0, "tokens_per_step: expected at least one number, got none")
        self._samplers = [sampler.with_tokens_per_step(number) for number in tokens_per_step]
        self._probe = probe
        self._num_samples = num_samples
        self.samples: list[DecodedSample] = []
        self.curve: Tensor | None = None
        self.accuracy = nn.ModuleDict({f"accuracy_{number}_per_step": MeanMetric() for number in tokens_per_step})
        self.forgetting = Forgetting()
        self.order_agreement = OrderAgreement()
        self.probe_terms = nn.ModuleDict({name: MeanMetric() for name in ("reconstruction", "ranking")})
        self.discrimination: TrajectoryDiscriminationScore | None = None

    def prepare(self, response_length: int, device: torch.device) -> None:
        """Forget earlier results.

        Raises:
            TabomError: If the probe does not fit the response length.
        """
        if self._probe is not None:
            self._probe.check_response_length(response_length)
        num_steps = self._samplers[0].num_steps(response_length)
        self.discrimination = TrajectoryDiscriminationScore(num_steps).to(device)
        self.samples = []
        for metric in (*self.accuracy.values(), *self.probe_terms.values(), self.forgetting, self.order_agreement):
            metric.reset()  # pyright: ignore[reportCallIssue]

    def measure_text(self, backbone: Backbone, base: Denoiser | None, batch: CorruptedBatch) -> None:
        """Add base-domain text; without a base only the NELBO is kept."""
        hidden = backbone(batch.noisy_ids, batch.attention_mask)[batch.is_target]
        logits, clean_ids = backbone.logits(hidden), batch.clean_ids[batch.is_target]
        base_logits = logits
        if base is not None:
            base_logits = base.logits(base(batch.noisy_ids, batch.attention_mask)[batch.is_target])
        canvas = torch.zeros(batch.is_target.shape, dtype=torch.float64, device=logits.device)
        nll, base_nll, kl = (
            canvas.masked_scatter(batch.is_target, values.double())
            for values in (
                token_statistics(logits, clean_ids).nll,
                token_statistics(base_logits, clean_ids).nll,
                kl_divergence(base_logits, logits),
            )
        )
        self.forgetting.update(nll, base_nll, kl, batch.is_target)

    def measure_decoding(self, backbone: Backbone, batch: PromptBatch, judge: Judge) -> None:
        """Decode prompts at every parallelism and verify."""
        for index, (sampler, accuracy) in enumerate(zip(self._samplers, self.accuracy.values(), strict=True)):
            decoded = sampler.decode(backbone, batch, record_steps=index == 0)
            verdicts = judge.judge(batch.examples, decoded.response_ids)
            accuracy.update(torch.tensor([float(verdict.is_correct) for verdict in verdicts]))  # pyright: ignore[reportCallIssue]
            if index == 0:
                assert self.discrimination is not None
                assert decoded.step_entropy is not None
                self.discrimination.update(decoded.step_entropy, judge.is_before_end(decoded.response_ids))
                self._keep_samples(batch, verdicts, decoded.unmask_step)

    def measure_order(self, backbone: Backbone, batch: TrajectoryBatch, generator: torch.Generator) -> None:
        """Cut one segment per held-out trajectory and add its terms; filler after the end is left out."""
        if self._probe is None:
            return
        corrupted = self._probe.corrupt(batch, backbone.mask_token_id, generator)
        corrupted = dataclasses.replace(corrupted, is_target=corrupted.is_target & ~batch.is_filler)
        statistics = target_statistics(backbone, corrupted)
        terms = self._probe.terms(statistics, corrupted)
        for name, metric in self.probe_terms.items():
            metric.update(terms[name], weight=len(batch.query_ids))  # pyright: ignore[reportCallIssue]
        self.order_agreement.update(*segment_pairs(statistics, corrupted))

    def compute(self, *, has_base: bool) -> dict[str, Tensor]:
        """All measured values by name; what got no batch is left out. Sets :attr:`curve`."""
        results: dict[str, Tensor] = {}
        for name, metric in {**self.accuracy, **self.probe_terms}.items():
            results |= _computed(name, metric)
        results |= _computed("order_agreement", self.order_agreement)
        if self.forgetting.update_called:
            forgetting = self.forgetting.compute()
            results |= forgetting if has_base else {"nelbo": forgetting["nelbo"]}
        if self.discrimination is not None and self.discrimination.update_called:
            discrimination = self.discrimination.compute()
            self.curve = discrimination["curve"].cpu().reshape(-1)  # torchmetrics squeezes a curve of one step
            results["tds"] = discrimination["score"]
        return {name: value.float() for name, value in results.items()}

    def _keep_samples(self, batch: PromptBatch, verdicts: Sequence[Verdict], unmask_step: Tensor) -> None:
        for example, verdict, steps in zip(batch.examples, verdicts, unmask_step.tolist(), strict=True):
            if len(self.samples) == self._num_samples:
                return
            self.samples.append(
                DecodedSample(example.prompt, verdict.text, example.reference, verdict.is_correct, steps)
            )


def _computed(name: str, metric: nn.Module) -> dict[str, Tensor]:
    assert isinstance(metric, Metric)
    return {name: metric.compute()} if metric.update_called else {}
