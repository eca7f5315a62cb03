"""What ``validate`` and ``test`` measure."""

from collections.abc import Callable, Iterable
from typing import Any, cast

import torch
from torch import Tensor, nn

from tabom.backbones import Backbone, Denoiser
from tabom.errors import check_range, require
from tabom.functional.discrimination import End
from tabom.metrics import LargestDrop
from tabom.objectives import TabomObjective
from tabom.samplers import Sampler
from tabom.types import GROUND_TRUTH, SELF_DISTILLED, CorruptedBatch, PromptBatch, TrajectoryRow
from tabom.validation.decoding import DecodingMeasures, PassAt
from tabom.validation.judge import Judge
from tabom.validation.skills import SkillMeasures
from tabom.validation.text import TextMeasures
from tabom.validation.trajectories import TrajectoryMeasures

_KINDS = ("text", "prompts", "skills", SELF_DISTILLED, GROUND_TRUTH)


class Validation(nn.Module):
    """Measures forgetting, decoding and order, by the kind of batch.

    * base-domain text (``CorruptedBatch``): NELBO, and for a post-trained model its change, the largest change so far,
      and KL(base || model); calibration;
    * prompts (``PromptBatch``): accuracy of decoding, once per entry of ``tokens_per_step``; trajectory discrimination
      score, entropies and sample decodings of the first; of a base domain that is a task, the accuracy that is kept;
    * held-out trajectories (``TrajectoryBatch``): reconstruction, ranking, order and calibration of ``probe``, the same
      segments for every method, whatever it trains with; cross-entropy against the mask ratio, also of held-out answers
      alone.

    ``accuracy_minus_forgetting`` is the first accuracy minus ``forgetting_weight`` times the KL: what a checkpoint can
    be chosen by on validation.

    Args:
        sampler: Decodes prompts.
        tokens_per_step: Parallelism of each decoding; 1 is full decoding.
        probe: Cuts segments out of held-out trajectories; None leaves them out.
        num_samples: Decoded prompts that are kept to be looked at.
        mask_ratios: At which the cross-entropy of held-out answers is measured, each in (0, 1]; none leaves it out.
        pass_at: Several decodings of each prompt, or None.
        forgetting_weight: Accuracy that one nat of KL is worth.
        tds_end: Where a response ends for the trajectory discrimination score: at the first end-of-sequence token
            revealed ``so_far`` (the paper's released code), or at that of the ``final`` response.

    Raises:
        TabomError: If ``tokens_per_step`` is empty or holds a number below 1, or a value is out of range.
    """

    def __init__(
        self,
        sampler: Sampler,
        tokens_per_step: tuple[int, ...] = (1, 2),
        probe: TabomObjective | None = None,
        num_samples: int = 8,
        mask_ratios: tuple[float, ...] = (),
        pass_at: PassAt | None = None,
        forgetting_weight: float = 1.0,
        tds_end: End = "so_far",
    ) -> None:
        super().__init__()
        require(len(tokens_per_step) > 0, "tokens_per_step: expected at least one number, got none")
        for ratio in mask_ratios:
            check_range("mask_ratios", ratio, above=0, most=1)
        check_range("num_samples", num_samples, least=0)
        require(
            probe is None or (probe.tilt is None and not probe.ranking.needs_reference),
            "probe: expected no tilt and a ranking that needs no base model, so that it is the same for every training",
        )
        check_range("forgetting_weight", forgetting_weight, least=0)
        self._samplers = {
            f"accuracy_{number}_per_step": sampler.with_tokens_per_step(number) for number in tokens_per_step
        }
        self._probe = probe
        self._num_samples = num_samples
        self.mask_ratios = tuple(mask_ratios)
        self._pass_at = pass_at
        self._tds_end: End = tds_end
        self._forgetting_weight = forgetting_weight
        self.largest_drop = [LargestDrop()]  # in a list: not among the weights of a checkpoint
        self.parts = nn.ModuleDict()
        self.curves: dict[str, Tensor] = {}
        self._num_rows = dict.fromkeys(_KINDS, 0)

    @property
    def accuracies(self) -> tuple[str, ...]:
        """Names of the accuracies, one for each parallelism."""
        return tuple(self._samplers)

    @property
    def samples(self) -> list[TrajectoryRow]:
        """Decodings of the last check."""
        return cast("DecodingMeasures", self.parts["decoding"]).samples

    def check_response_length(self, response_length: int) -> None:
        """Raise ``TabomError`` if probe or samplers do not fit it."""
        if self._probe is not None:
            self._probe.check_response_length(response_length)
        for sampler in (*self._samplers.values(), *([self._pass_at.sampler] if self._pass_at else [])):
            sampler.check_response_length(response_length)

    def prepare(
        self,
        response_length: int,
        device: torch.device,
        *,
        base_domains: Iterable[str],
        base_tasks: Iterable[str],
        block_size: int | None = None,
    ) -> None:
        """Forget earlier results, but for what the base decoded and the largest drop.

        Args:
            response_length: N.
            device: Where the model is.
            base_domains: Names of those whose text is measured.
            base_tasks: Names of those of them that have a verifier.
            block_size: Of the model, if it is block-causal.

        Raises:
            TabomError: If probe or samplers do not fit response length or blocks.
        """
        self.check_response_length(response_length)
        first = next(iter(self._samplers.values()))
        skills = SkillMeasures(base_tasks, first)
        if "skills" in self.parts:
            skills.base_verdicts = cast("SkillMeasures", self.parts["skills"]).base_verdicts
        self.parts = nn.ModuleDict(
            {
                "text": TextMeasures(base_domains),
                "decoding": DecodingMeasures(
                    self._samplers, self._pass_at, self._num_samples, self._tds_end, response_length, block_size
                ),
                "skills": skills,
                "trajectories": TrajectoryMeasures(self._probe, self.mask_ratios),
            }
        ).to(device)
        self.curves = {}
        self._num_rows = dict.fromkeys(_KINDS, 0)

    def measure(self, backbone: Backbone, base: Denoiser | None, batch: Any, judge: Judge) -> None:
        """Add one batch of held-out data; ``base`` is None where there is nothing to forget."""
        parts: Any = self.parts
        match batch:
            case CorruptedBatch():
                kind = "text"
                parts["text"].update(backbone, base, batch)
            case PromptBatch(domain=""):
                kind = "prompts"
                parts["decoding"].update(backbone, batch, judge)
            case PromptBatch():
                kind = "skills"
                parts["skills"].update(backbone, base, batch, judge)
            case _:
                kind = batch.answers
                parts["trajectories"].update(backbone, base, batch)
        self._num_rows[kind] += len(batch.attention_mask)

    def compute(
        self, *, has_base: bool, is_check: bool, sum_over_ranks: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        """All measured values by name; what got no row is left out. Sets :attr:`curves`.

        Args:
            has_base: Whether there is something to forget.
            is_check: Whether the largest drop so far is wanted, of which this is a check.
            sum_over_ranks: Adds a tensor up over the processes, which all have to compute together.
        """
        parts: Any = self.parts
        counts = sum_over_ranks(torch.tensor(list(self._num_rows.values()), device=parts["text"].calibration.device))
        measured = {kind for kind, count in zip(self._num_rows, counts.tolist(), strict=True) if count > 0}
        results: dict[str, Tensor] = {}
        if "text" in measured:
            results |= parts["text"].compute(has_base=has_base)
        if "prompts" in measured:
            results |= parts["decoding"].compute()
            self.curves |= parts["decoding"].curves()
        if "skills" in measured:
            results |= parts["skills"].compute()
        if SELF_DISTILLED in measured:
            results |= parts["trajectories"].compute(has_base=has_base, has_ground_truth=GROUND_TRUTH in measured)
            self.curves |= parts["trajectories"].curves(has_ground_truth=GROUND_TRUTH in measured)
        elif GROUND_TRUTH in measured:
            self.curves |= parts["trajectories"].curves(has_self_distilled=False)
        self.curves = {name: curve.cpu().reshape(-1) for name, curve in self.curves.items()}  # one point: a scalar
        if has_base and "text" in measured:
            results |= self._derived(results, is_check=is_check)
        return {name: value.float() for name, value in results.items()}

    def _derived(self, results: dict[str, Tensor], *, is_check: bool) -> dict[str, Tensor]:
        derived: dict[str, Tensor] = {}
        accuracy = results.get(self.accuracies[0])
        if accuracy is not None:
            derived["accuracy_minus_forgetting"] = accuracy - self._forgetting_weight * results["kl"]
        if is_check:
            (largest_drop,) = self.largest_drop
            largest_drop.to(results["kl"].device).update(results["nelbo_change"])
            derived["largest_nelbo_change"] = largest_drop.compute()
        return derived
