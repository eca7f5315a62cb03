"""What is measured on prompts of base domains that have a verifier: the accuracy that is kept."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tabom.backbones import Backbone, Denoiser
from tabom.metrics import AccuracyKept
from tabom.samplers import Sampler
from tabom.types import PromptBatch
from tabom.validation.judge import Judge, is_correct


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
        verdicts = self._verdicts(backbone, batch, judge)
        keys = [(batch.domain, example.query_id) for example in batch.examples]
        if base is None:
            base_verdicts = verdicts
        else:
            if any(key not in self.base_verdicts for key in keys):
                self.base_verdicts |= dict(zip(keys, self._verdicts(base, batch, judge).tolist(), strict=True))
            base_verdicts = torch.tensor([self.base_verdicts[key] for key in keys])
        device = batch.noisy_ids.device
        self.kept[batch.domain].update(verdicts.to(device), base_verdicts.to(device))  # pyright: ignore[reportCallIssue]

    def compute(self) -> dict[str, Tensor]:
        """``base_accuracy`` and ``accuracy_kept``, means over the domains, and with several for each.

        Their standard errors over the prompts are ``NAME_error``. A domain where the base solves nothing is no part of
        the mean that is kept.
        """
        parts = {name: metric.compute() for name, metric in self.kept.items()}  # pyright: ignore[reportCallIssue]
        results: dict[str, Tensor] = {}
        for name, key in (("base_accuracy", "accuracy"), ("accuracy_kept", "kept")):
            means, errors = (torch.stack([part[one] for part in parts.values()]) for one in (key, f"{key}_error"))
            is_known = ~means.isnan()
            results[name] = means.nanmean()
            results[f"{name}_error"] = errors[is_known].square().sum().sqrt() / is_known.sum()
            if len(parts) > 1:
                for domain, part in parts.items():
                    results |= {f"{name}/{domain}": part[key], f"{name}/{domain}_error": part[f"{key}_error"]}
        return results

    def _verdicts(self, model: Denoiser, batch: PromptBatch, judge: Judge) -> Tensor:
        decoded = self._sampler.decode(model, batch, eos_token_id=judge.special_ids.eos)
        return is_correct(judge.judge(batch.examples, decoded.response_ids, batch.domain))
