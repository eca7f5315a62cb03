"""Shows evaluation results where people would rather look than read."""

import wandb
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import WandbLogger

from tabom.modules.evaluation import Evaluation
from tabom.reporting.figures import plot_discrimination_curve


class EvaluationMedia(Callback):
    """After validation and test, logs the trajectory discrimination curve and sample decodings to W&B, if it is on."""

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log under ``validate/``."""
        self._log(trainer, pl_module, "validate")

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log under ``test/``."""
        self._log(trainer, pl_module, "test")

    def _log(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        evaluation = getattr(pl_module, "evaluation", None)
        if trainer.sanity_checking or not isinstance(evaluation, Evaluation) or evaluation.curve is None:
            return
        for logger in trainer.loggers:
            if not isinstance(logger, WandbLogger):
                continue
            figure = plot_discrimination_curve(evaluation.curve.tolist())
            logger.experiment.log({f"{stage}/tds_curve": wandb.Image(figure)}, commit=False)
            columns = ["prompt", "response", "reference", "is_correct", "unmask_step"]
            rows = [
                [getattr(sample, name) for name in columns[:-1]] + [str(sample.unmask_step)]
                for sample in evaluation.samples
            ]
            logger.log_table(f"{stage}/samples", columns=columns, data=rows)
