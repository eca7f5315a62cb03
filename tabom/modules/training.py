"""Training of a backbone with an injected objective: pretraining and post-training alike."""

import math
from collections.abc import Mapping
from typing import Any, Literal, cast

import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable, ReduceLROnPlateau
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # pyright: ignore[reportPrivateImportUsage]
from lightning.pytorch.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from tabom.backbones import Backbone, BackboneSource, Denoiser
from tabom.backbones.sharding import gather, release, shard
from tabom.backbones.snapshot import Snapshot
from tabom.data import PromptDataModule, TrajectoryDataModule
from tabom.errors import TabomError, check_range, check_used, require
from tabom.modules.averaging import check_averaging, keep_frozen_weights
from tabom.modules.checkpoints import check_weights
from tabom.modules.reference import Reference, measure
from tabom.modules.resuming import Resumption
from tabom.modules.schedules import CosineWithWarmup, check_settings
from tabom.objectives import Alignment, Objective, Replay
from tabom.seeding import RowDraws, run_seed, stream_key
from tabom.types import TrajectoryBatch
from tabom.validation import Validation


class TrainingModule(LightningModule):
    """Corrupts, runs the backbone, minimises the objective.

    Forgetting is measured against the base of a pretrained backbone: a frozen copy, or the same weights with the
    adapter switched off. With an adapter, checkpoints hold the adapter alone. The random masks of a
    row depend on seed, epoch and the row's number alone, dropout on seed, epoch, batch and rank: a resumed run draws
    the same ones, and the masks are also the same however the rows are spread over batches and processes.

    Args:
        backbone: Where the weights come from; read in ``configure_model``.
        objective: What is minimised.
        optimizer: Optimizer class with its settings.
        lr_scheduler: Schedule, stepped every optimizer step; None keeps the rate.
        validation: What ``validate`` and ``test`` measure; None for nothing.
        replay: How the model is kept near the base on the rows of ``data.replay``, where there are any.
        alignment: How the hidden states of the causal model are kept while a diffusion model is made of it.
        interpolation: Between the base (0) and the trained model (1), for ``validate``, ``test`` and ``export``: an
            adapter is scaled by it, other weights are averaged. Trades gain against forgetting after the training.
        reference: What an objective that needs a reference compares with: the ``base``, which is the model with the
            adapter switched off, or the ``start``, which is the model with the adapter as it was loaded. They differ
            where the backbone starts from a trained ``adapter``; the start then keeps a copy of the adapter's weights
            alone. Forgetting is measured against the base in both.

    Raises:
        TabomError: If ``interpolation`` is not from 0 to 1, or ``reference`` is set for an objective without one.

    Attributes:
        source: Where the weights come from.
    """

    backbone: Backbone

    def __init__(
        self,
        backbone: BackboneSource,
        objective: Objective,
        optimizer: OptimizerCallable,
        lr_scheduler: LRSchedulerCallable | None = None,
        validation: Validation | None = None,
        replay: Replay = Replay(),
        alignment: Alignment = Alignment(),
        interpolation: float = 1.0,
        reference: Literal["base", "start"] = "base",
    ) -> None:
        super().__init__()
        check_range("interpolation", interpolation, least=0, most=1)
        owner = f"{type(objective).__name__}, in these settings"
        has_choice = objective.needs_reference and not objective.reference_is_model
        check_used("reference", reference, "base", is_used=has_choice, owner=owner)
        self.interpolation = interpolation
        self.objective = objective
        self.validation = validation
        self.replay = replay
        self.alignment = alignment
        self.source = backbone
        self._optimizer = optimizer
        self._lr_scheduler = lr_scheduler
        self._base: list[Denoiser] = []  # in a list: neither trained, nor saved, nor wrapped
        self._reference = Reference()
        self._compared_with: Literal["base", "start"] = reference
        self._resumption: Resumption | None = None
        self._seed = 0
        self.register_load_state_dict_post_hook(_allow_frozen_weights_to_be_missing)

    def setup(self, stage: str) -> None:
        """Check that objective, data, precision and strategy fit each other."""
        self._seed = run_seed()
        require(
            not str(self.trainer.precision).endswith("16-true"),
            "precision: expected 32-true (with dtype bfloat16 of the backbone, if its weights are to be bfloat16) or "
            f"bf16-mixed, got {self.trainer.precision}, which would round the entropies that the data records",
        )
        if self.validation is not None:
            self.validation.check_response_length(self._data.response_length)
        if stage == "fit":
            check_averaging(self.trainer)
            require(self.interpolation == 1, f"interpolation: expected 1 in a training, got {self.interpolation}")
            self.objective.check_response_length(self._data.response_length)
            self._data.teacher_prompt = self.objective.teacher_prompt
            require(
                self.objective.tilt is not None or not self._data.has_advantages,
                "data.query_weighting: expected none or failure_rate without a tilt, got advantage; "
                "set model.objective.tilt, without which failed decodings would be learnt like the others",
            )
            if self.objective.needs_recorded_entropy and isinstance(self._data, TrajectoryDataModule):
                self._data.table.require_entropies(self._data.path)
            has_replay = self._data.replay is not None
            check_used("model.replay", self.replay, Replay(), is_used=has_replay, owner="data.replay null")
            interval = self.objective.reference_interval
            require(
                self.device_mesh is None or (interval is None and self._compared_with == "base"),
                f"objective: {type(self.objective).__name__} compares with a snapshot of the model, which sharded "
                "weights cannot give: expected reference_interval null and reference base, or the strategy ddp, "
                f"got reference_interval {interval} and reference {self._compared_with}",
            )

    def configure_model(self) -> None:
        """Make or read the weights; spread them over the processes if the strategy has a device mesh (FSDP2)."""
        if "backbone" in self._modules:
            return
        self.backbone = self.source.load(self._data.tokenizer)
        self._data.max_length = self.backbone.max_length
        self._data.block_size = self.backbone.block_size
        if self.source.is_pretrained:
            self._base = [self.backbone.reference()]
        if self._compared_with == "start":
            require(
                self.backbone.has_adapter,
                "reference: expected base with a backbone that has no adapter, where the start is the base, got start",
            )
            self._reference = Reference(Snapshot(self.backbone))
        self.strict_loading = not self.backbone.has_adapter  # checked in on_load_checkpoint
        require(
            self.source.is_pretrained or not self.objective.needs_reference,
            f"objective: {type(self.objective).__name__} compares with a reference model, so expected a pretrained "
            f"backbone, got {type(self.source).__name__}",
        )
        require(
            self.source.is_pretrained or self._data.replay is None,
            "data.replay: expected a pretrained backbone, which the replay keeps the model near, got "
            f"{type(self.source).__name__}",
        )
        self.alignment.check(self.backbone, next(iter(self._base), None))
        if self.device_mesh is not None:
            dtype = torch.bfloat16 if self.trainer.precision == "bf16-mixed" else None
            for part in (self.backbone, *self._base):
                if isinstance(part, Backbone):  # a base with the adapter off has no weights of its own
                    shard(part, self.device_mesh, dtype)

    def interpolate(self) -> None:
        """Move the loaded weights towards the base, once.

        Raises:
            TabomError: If there is no base.
        """
        if self.interpolation < 1:
            require(len(self._base) > 0, "interpolation: expected a pretrained backbone, whose weights are the base")
            self.backbone.interpolate(self._base[0], self.interpolation)
            self.interpolation = 1.0

    def on_validation_start(self) -> None:
        """Evaluate between base and trained model, if that is wanted."""
        self.interpolate()

    on_test_start = on_validation_start

    def on_fit_start(self) -> None:
        """Say how much is trained; bring what is compared with to the device."""
        self._base = [base.to(self.device) for base in self._base]
        keep_frozen_weights(self.trainer)
        if self.trainer.world_size > 1:
            self.objective.mean_over_ranks = self._mean_over_ranks
        num_all, num_trained = (
            sum(p.numel() for p in self.backbone.parameters() if p.requires_grad or count_frozen)
            for count_frozen in (True, False)
        )
        rank_zero_info(f"training {num_trained:,} of {num_all:,} parameters ({num_trained / num_all:.2%})")

    def state_dict(self, *args: Any, prefix: str = "", **kwargs: Any) -> dict[str, Any]:
        """As torch gives it, without weights that do not change."""
        state = super().state_dict(*args, prefix=prefix, **kwargs)
        if self.backbone.has_adapter:
            trained = {prefix + name for name in self._trained_names()}
            for name in [name for name in state if name.startswith(prefix) and name not in trained]:
                del state[name]
        return state

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what is compared with, and the names of an adapter's weights and what else defines it."""
        if self.backbone.has_adapter:
            checkpoint["adapter"] = sorted(self._trained_names())
            checkpoint["adapter_settings"] = self.backbone.adapter_settings
        if "optimizer_states" in checkpoint:  # else no training goes on with it
            checkpoint["reference"] = self._reference.state_dict()
        checkpoint["optimizer"] = self.try_optimizer()
        if self.validation is not None:
            checkpoint["largest_drop"] = self.validation.largest_drop[0].state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ``TabomError`` if the checkpoint holds another adapter or optimizer than the configuration."""
        check_weights(self, checkpoint)
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._resumption = Resumption(checkpoint, self.try_optimizer())
        self._reference.load_state_dict(checkpoint.get("reference", {}), self.backbone)
        if self.validation is not None and "largest_drop" in checkpoint:
            self.validation.largest_drop[0].load_state_dict(checkpoint["largest_drop"])

    def try_optimizer(self) -> str:
        """Name of the optimizer's class; settings that it or the schedule refuse are found before the run begins."""
        return check_settings(self._optimizer, self._lr_scheduler)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Optimizer over the trainable parameters, scheduler by step.

        Lightning would step a ``ReduceLROnPlateau`` after the checkpoint of the step is written, so it is done here.
        """
        optimizer = self._optimizer([p for p in self.parameters() if p.requires_grad])
        if self._lr_scheduler is None:
            return {"optimizer": optimizer}
        scheduler = self._lr_scheduler(optimizer)
        if isinstance(scheduler, CosineWithWarmup) and scheduler.num_training_steps is None:
            num_trial_steps = scheduler.num_warmup_steps if self.trainer.fast_dev_run else 0  # pyright: ignore[reportAttributeAccessIssue]
            num_steps = self.trainer.estimated_stepping_batches
            scheduler.end_after(num_steps + num_trial_steps)
            if num_steps == math.inf and self._resumption is None:
                rank_zero_info("num_training_steps: no number of steps limits the training, so the rate does not decay")
        for group in optimizer.param_groups:
            group.setdefault("initial_lr", group["lr"])
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step", "reduce_on_plateau": False},  # pyright: ignore[reportReturnType]
        }

    def on_train_start(self) -> None:
        """Take over the settings that are configured, where the training goes on from a checkpoint."""
        if self._resumption is not None:
            self._resumption.apply(self)
            self._resumption = None

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Step a schedule after an optimizer step; one that follows what a validation measures waits for that."""
        del metric
        if not isinstance(scheduler, ReduceLROnPlateau):
            scheduler.step()
        elif not scheduler.monitor.startswith("validate/"):
            self._reduce_on_plateau(scheduler, self.trainer.callback_metrics)

    def _reduce_on_plateau(self, scheduler: ReduceLROnPlateau, metrics: Mapping[str, Tensor]) -> None:
        name = scheduler.monitor
        require(
            name in metrics,
            f"model.lr_scheduler.monitor: expected one of {', '.join(sorted(metrics))}, got {name}",
        )
        scheduler.step(metrics[name])  # pyright: ignore[reportArgumentType]

    def training_step(self, batch: TrajectoryBatch, batch_idx: int) -> Tensor:
        """One corrupted batch; returns the loss in nats."""
        torch.manual_seed(stream_key(self._seed, "dropout", self.global_rank, self.current_epoch, batch_idx))
        if batch.row_numbers is None:
            raise TabomError("training batch: expected row_numbers, which random masks are drawn by, got none")
        draws = RowDraws.of_numbers(stream_key(self._seed, "train", self.current_epoch), batch.row_numbers)
        self.objective.set_step(self.global_step)
        with self.alignment.watching(self.backbone) as states:
            measured = measure(
                self.objective,
                batch,
                backbone=self.backbone,
                reference=self._reference,
                base=next(iter(self._base), None),
                step=self.global_step,
                draws=draws,
            )
        terms = self.objective.terms(*measured)
        if states:
            terms |= self.alignment.terms(terms["loss"], measured.corrupted, states, cast("Any", self._base[0]))
        if batch.replay is not None:
            terms |= self._replayed(terms["loss"], batch.replay)
        self._check_finite(terms, batch)
        num_rows = len(batch.query_ids)
        logged = dict(zip(terms, self._mean_over_ranks(torch.stack([v.detach() for v in terms.values()])), strict=True))
        self.log_dict({f"train/{name}": value for name, value in logged.items()}, batch_size=num_rows)
        self.log("loss", logged["loss"], prog_bar=True, logger=False, batch_size=num_rows)
        return terms["loss"]

    def _replayed(self, loss: Tensor, batch: TrajectoryBatch) -> dict[str, Tensor]:
        """Loss with the replay; the masks of a row depend on the seed and its place in the stream."""
        assert batch.row_numbers is not None
        draws = RowDraws.of_numbers(stream_key(self._seed, "replay"), batch.row_numbers)
        pair = {"backbone": self.backbone, "base": self._base[0]}
        return self.replay.terms(loss, batch, **pair, step=self.global_step, draws=draws)

    def on_before_optimizer_step(self, optimizer: Optimizer) -> None:
        """Log learning rate and L2 norm of all gradients before they are clipped, at the steps that are logged.

        Raises:
            TabomError: If the norm is not finite; the weights are those of the step before. A gradient scaler
                (``16-mixed``) leaves such steps out by itself.
        """
        norm = get_total_norm([p.grad for p in self.parameters() if p.grad is not None])
        norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        is_scaled = getattr(self.trainer.precision_plugin, "scaler", None) is not None
        if not is_scaled and not torch.isfinite(norm):
            wrong = [name for name, p in self.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
            raise TabomError(
                f"step {self.global_step}: expected finite gradients, got a norm of {norm.item():g}, from {wrong[:3]}"
            )
        interval: int = self.trainer.log_every_n_steps  # pyright: ignore[reportAttributeAccessIssue]
        if interval > 0 and (self.global_step + 1) % interval == 0:
            self.log("train/learning_rate", optimizer.param_groups[0]["lr"])
            self.log("train/gradient_norm", norm)

    def _mean_over_ranks(self, values: Tensor) -> Tensor:
        return cast("Tensor", self.trainer.strategy.reduce(values, reduce_op="mean"))

    def on_validation_epoch_start(self) -> None:
        """Start afresh, with the base on the device."""
        if self.validation is not None:
            self.validation.prepare(
                self._data.response_length,
                self.device,
                base_domains=self._data.base_domains,
                base_tasks=self._data.base_tasks,
                block_size=self.backbone.block_size,
            )
            self._base = [base.to(self.device) for base in self._base]
        for part in (self.backbone, *self._base):
            gather(part)

    on_test_epoch_start = on_validation_epoch_start

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        """Measure by the kind of batch."""
        del batch_idx, dataloader_idx
        if self.validation is not None:
            self.validation.measure(self.backbone, next(iter(self._base), None), batch, self._data)

    test_step = validation_step

    def on_validation_epoch_end(self) -> None:
        """Log what was measured."""
        self._log_validation("validate")

    def on_test_epoch_end(self) -> None:
        """Log what was measured."""
        self._log_validation("test")

    @property
    def _data(self) -> PromptDataModule:
        data = cast("PromptDataModule | None", self.trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
        require(data is not None, "data: expected one of the data modules of tabom.data, got none")
        return cast("PromptDataModule", data)

    def _trained_names(self) -> set[str]:
        return {name for name, parameter in self.named_parameters() if parameter.requires_grad}

    def _log_validation(self, stage: str) -> None:
        for part in (self.backbone, *self._base):
            release(part)
        if self.validation is None:
            return
        results = self.validation.compute(
            has_base=len(self._base) > 0,
            is_check=self.trainer.state.fn == TrainerFn.FITTING and not self.trainer.sanity_checking,
            sum_over_ranks=lambda counts: cast("Tensor", self.trainer.strategy.reduce(counts, reduce_op="sum")),
        )
        self.log_dict({f"{stage}/{name}": value.to(self.device) for name, value in results.items()}, sync_dist=True)
        schedulers = [] if self.trainer.sanity_checking else [c.scheduler for c in self.trainer.lr_scheduler_configs]
        for scheduler in schedulers:
            if isinstance(scheduler, ReduceLROnPlateau) and scheduler.monitor.startswith("validate/"):
                self._reduce_on_plateau(scheduler, {f"{stage}/{name}": value for name, value in results.items()})

    def _check_finite(self, terms: dict[str, Tensor], batch: TrajectoryBatch) -> None:
        """Divergence ends the run; it is never repaired or skipped."""
        if not torch.isfinite(terms["loss"]):
            values = ", ".join(f"{name}={value.item():g}" for name, value in terms.items())
            queries = ", ".join(batch.query_ids + (batch.replay.query_ids if batch.replay else ()))
            raise TabomError(f"step {self.global_step}: expected a finite loss, got {values}; queries: {queries}")


def _allow_frozen_weights_to_be_missing(module: nn.Module, keys: Any) -> None:
    """Beside an adapter; names of missing weights may begin with that of a module around this one."""
    if cast("TrainingModule", module).backbone.has_adapter:
        trained = tuple(name for name, parameter in module.named_parameters() if parameter.requires_grad)
        keys.missing_keys[:] = [name for name in keys.missing_keys if name.endswith(trained)]
