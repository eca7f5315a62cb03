"""Shows results where people would rather look than read."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.trainer.states import TrainerFn

from tabom.data import PromptDataModule
from tabom.reporting.curves import training_figures, validation_figures
from tabom.reporting.viewer import viewer_page
from tabom.types import TrajectoryRow
from tabom.validation import Validation

_SAMPLE_COLUMNS = ("prompt", "response", "reference", "is_verified", "unmask_step")


class ValidationMedia(Callback):
    """Draws what is measured along curves: after validation and test, and over a training at its end.

    Figures are written as PNG to ``figures/`` in the trainer's ``default_root_dir`` (those of a later check replace
    them), and logged to W&B, if it is on, with sample decodings as a table and as a page that plays them.
    """

    def __init__(self) -> None:
        self._violations: list[tuple[int, float]] = []
        self._checks: list[tuple[float, float]] = []

    @property
    def state_key(self) -> str:
        """The name in checkpoints, which is older than the class's."""
        return "EvaluationMedia"

    def state_dict(self) -> dict[str, Any]:
        """What was seen of the training, so that a resumed one draws all of it."""
        return {"violations": self._violations, "checks": self._checks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on with what :meth:`state_dict` gave."""
        self._violations, self._checks = state_dict["violations"], state_dict["checks"]

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the share of pairs in the wrong order, as often as values are logged."""
        del pl_module, outputs, batch, batch_idx
        agreement = trainer.callback_metrics.get("train/order_agreement")
        if agreement is not None and trainer.global_step % trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]
            self._violations.append((trainer.global_step, 1 - float(agreement)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw under ``validate``; note accuracy and forgetting."""
        self._show(trainer, pl_module, "validate")
        values = [trainer.callback_metrics.get(f"validate/{name}") for name in ("kl", "accuracy_1_per_step")]
        if trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking and None not in values:
            kl, accuracy = (float(value) for value in values if value is not None)
            self._checks.append((kl, accuracy))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw under ``test``."""
        self._show(trainer, pl_module, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the training."""
        del pl_module
        self._keep(trainer, "fit", training_figures(self._violations, self._checks))

    def _show(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        validation = getattr(pl_module, "validation", None)
        if trainer.sanity_checking or not isinstance(validation, Validation):
            return
        curves = {name: curve.tolist() for name, curve in validation.curves.items()}
        self._keep(trainer, stage, validation_figures(curves, validation.mask_ratios))
        rows = [[str(getattr(sample, name)) for name in _SAMPLE_COLUMNS] for sample in validation.samples]
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger) and rows and trainer.is_global_zero:
                import wandb

                data = cast("PromptDataModule", trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
                page = _page(stage, validation.samples, data.tokenizer)
                logger.experiment.log({f"{stage}/viewer": wandb.Html(page, inject=False)}, commit=False)
                logger.log_table(f"{stage}/samples", columns=list(_SAMPLE_COLUMNS), data=rows)

    def _keep(self, trainer: Trainer, stage: str, figures: Mapping[str, Any]) -> None:
        if not trainer.is_global_zero or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        directory = Path(trainer.default_root_dir) / "figures"
        paths = {name: directory / f"{stage}_{name}.png" for name in figures}
        for name, figure in figures.items():
            directory.mkdir(parents=True, exist_ok=True)
            figure.savefig(paths[name], dpi=150)
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                import wandb

                images = {f"{stage}/{name}": wandb.Image(str(path)) for name, path in paths.items()}
                logger.experiment.log(images, commit=False)


def _page(stage: str, samples: Sequence[TrajectoryRow], tokenizer: Any) -> str:
    return viewer_page(
        [stage], [[row] for row in samples], tokenizer, title=stage, note=f"{len(samples)} sample decodings"
    )
