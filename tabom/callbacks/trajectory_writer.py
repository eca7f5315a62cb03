"""Writes decoded trajectories to shards while they are made."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch.distributed as dist
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter

from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import require
from tabom.trajectories import Manifest, ShardInfo, TrajectoryRow, check_output_dir, write_shard
from tabom.trajectories.schema import features


class TrajectoryWriter(BasePredictionWriter):
    """Collects what ``DistillationModule`` predicts; writes a shard as soon as it is full, and the manifest last.

    Args:
        output_dir: Directory; must not hold trajectories yet, which is checked before decoding starts.
        rows_per_shard: Trajectories a file.

    Raises:
        TabomError: If ``rows_per_shard`` is below 1.
    """

    def __init__(self, output_dir: str, rows_per_shard: int = 1000) -> None:
        super().__init__(write_interval="batch")
        require(rows_per_shard >= 1, f"rows_per_shard: expected at least 1, got {rows_per_shard}")
        self.output_dir = Path(output_dir)
        self.rows_per_shard = rows_per_shard
        self._rows: list[TrajectoryRow] = []
        self._shards: list[ShardInfo] = []

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Raise ``TabomError`` where trajectories would be overwritten."""
        del pl_module
        check_output_dir(self.output_dir)
        trainer.strategy.barrier("nobody writes before everybody has looked")

    def write_on_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        prediction: Any,
        batch_indices: Sequence[int] | None,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int,
    ) -> None:
        """Keep the rows; write full shards."""
        del batch_indices, batch, batch_idx, dataloader_idx
        self._rows += prediction
        while len(self._rows) >= self.rows_per_shard:
            self._flush(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the rest, the manifest, and say what came out."""
        if self._rows:
            self._flush(trainer, pl_module)
        shards = self._shards
        if trainer.world_size > 1:
            gathered: list[list[ShardInfo]] = [[] for _ in range(trainer.world_size)]
            dist.all_gather_object(gathered, self._shards)
            shards = [shard for part in gathered for shard in part]
        if trainer.is_global_zero:
            manifest = self._manifest(pl_module, shards)
            manifest.save(self.output_dir)
            verified = f"{manifest.num_verified} of {manifest.num_rows} trajectories verified"
            share = 100 * manifest.num_verified / max(manifest.num_rows, 1)
            print(f"{self.output_dir}: {verified} ({share:.1f} %)")

    def _flush(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows, self._rows = self._rows[: self.rows_per_shard], self._rows[self.rows_per_shard :]
        path = self.output_dir / f"shard-{trainer.global_rank:03d}-{len(self._shards):05d}.parquet"
        self._shards.append(write_shard(rows, path, pl_module.data.response_length))  # pyright: ignore

    def _manifest(self, pl_module: Any, shards: list[ShardInfo]) -> Manifest:
        response_length = pl_module.data.response_length
        return Manifest(
            response_length=response_length,
            mask_token_id=pl_module.backbone.mask_token_id,
            tokenizer_fingerprint=tokenizer_fingerprint(pl_module.data.tokenizer),
            model_fingerprint=pl_module.backbone.fingerprint(),
            sampler=pl_module.sampler.settings(),
            schema={field.name: str(field.type) for field in features(response_length).arrow_schema},
            shards=tuple(shards),
        )
