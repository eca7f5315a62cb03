"""What is measured on masked text of base domains: forgetting."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tabom.backbones import Backbone, Denoiser
from tabom.backbones.target_pass import TargetPass
from tabom.metrics import CalibrationError, Forgetting
from tabom.types import CorruptedBatch


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
            kl = seen.divergence_from(base_seen)
        self.forgetting[batch.domain].update(statistics.nll, base_nll, kl, batch.is_target, batch.token_weight)  # pyright: ignore[reportCallIssue]
        self.calibration.update(statistics.confidence[batch.is_target], statistics.is_correct[batch.is_target])

    def compute(self, *, has_base: bool) -> dict[str, Tensor]:
        """Means over the domains, and with several ``NAME/DOMAIN`` for each."""
        parts = {name: metric.compute() for name, metric in self.forgetting.items()}  # pyright: ignore[reportCallIssue]
        wanted = ("nelbo", "nelbo_change", "kl") if has_base else ("nelbo",)
        results = {name: torch.stack([part[name] for part in parts.values()]).mean() for name in wanted}
        for name in wanted:
            errors = torch.stack([part[f"{name}_error"] for part in parts.values()])
            results[f"{name}_error"] = errors.square().sum().sqrt() / len(errors)
        if len(parts) > 1:
            results |= {f"{name}/{domain}": part[name] for name in wanted for domain, part in parts.items()}
        return {**results, "text_calibration_error": self.calibration.compute()}
