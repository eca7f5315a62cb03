"""Shows results where people would rather look than read."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn

from tabom.callbacks.run_recorder import logged, run_name
from tabom.callbacks.tracking import wandb_runs
from tabom.reporting.curves import training_figures, validation_figures
from tabom.validation import Validation
from tabom.viewer import viewer_page

_SAMPLE_COLUMNS = ("prompt", "response", "reference", "is_verified", "unmask_step")


class ValidationMedia(Callback):
    """Draws what is measured along curves: after validation and test, and over a training at its end.

    Figures are written as PNG to ``figures/<name of the run's record>/`` in the trainer's ``default_root_dir``, where
    those of a later check of the same run replace them. W&B, if it is on, gets them as well, with sample decodings as a
    table and as a page that plays them.
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

    def on_train_batch_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Note the share of pairs in the wrong order, as often as values are logged."""
        agreement = logged(trainer, "train").get("order_agreement")
        if agreement is not None and trainer.global_step % trainer.log_every_n_steps == 0:  # pyright: ignore[reportAttributeAccessIssue]
            self._violations.append((trainer.global_step, 1 - agreement))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw under ``validate``; note accuracy and forgetting."""
        self._show(trainer, pl_module, "validate")
        values = logged(trainer, "validate")
        is_training = trainer.state.fn == TrainerFn.FITTING and not trainer.sanity_checking
        if is_training and {"kl", "accuracy_1_per_step"} <= values.keys():
            self._checks.append((values["kl"], values["accuracy_1_per_step"]))

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw under ``test``."""
        self._show(trainer, pl_module, "test")

    def on_fit_end(self, trainer: Trainer, *_: Any, **__: Any) -> None:
        """Draw the training."""
        self._keep(trainer, "fit", training_figures(self._violations, self._checks))

    def _show(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        validation = getattr(module, "validation", None)
        if trainer.sanity_checking or not isinstance(validation, Validation):
            return
        curves = {name: curve.tolist() for name, curve in validation.curves.items()}
        self._keep(trainer, stage, validation_figures(curves, validation.mask_ratios))
        samples = validation.samples
        for run in wandb_runs(trainer) if samples else ():
            import wandb

            data = trainer.datamodule  # pyright: ignore[reportAttributeAccessIssue]
            note, drawing = f"{len(samples)} sample decodings", data.task.drawing
            queries = [[row] for row in samples]
            page = viewer_page([stage], queries, data.tokenizer, title=stage, note=note, drawing=drawing)
            rows: list[Any] = [[str(getattr(sample, name)) for name in _SAMPLE_COLUMNS] for sample in samples]
            table = wandb.Table(columns=list(_SAMPLE_COLUMNS), data=rows)
            run.log({f"{stage}/viewer": wandb.Html(page, inject=False), f"{stage}/samples": table})

    def _keep(self, trainer: Trainer, stage: str, figures: Mapping[str, Any]) -> None:
        if not (figures and trainer.is_global_zero) or trainer.fast_dev_run:  # pyright: ignore[reportAttributeAccessIssue]
            return
        directory = Path(trainer.default_root_dir) / "figures" / run_name(trainer)
        directory.mkdir(parents=True, exist_ok=True)
        paths = {name: directory / f"{stage}_{name}.png" for name in figures}
        for name, figure in figures.items():
            figure.savefig(paths[name], dpi=150)
        for run in wandb_runs(trainer):
            import wandb

            run.log({f"{stage}/{name}": wandb.Image(str(path)) for name, path in paths.items()}, commit=False)
