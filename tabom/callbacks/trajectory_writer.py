"""Writes decoded trajectories to shards while they are made."""

import sys
import time
from pathlib import Path
from typing import Any, cast

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import BasePredictionWriter
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

from tabom.callbacks.run_recorder import record
from tabom.callbacks.tracking import wandb_runs
from tabom.data import PromptDataModule
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.modules import DistillationModule
from tabom.modules.distillation import DistilledShard
from tabom.trajectories import Manifest, Origin, TrajectoryStore, read_rows
from tabom.viewer import viewer_page

_NUM_SHOWN = 50
"""Trajectories that can be played in W&B."""


class TrajectoryWriter(BasePredictionWriter):
    """Keeps what ``DistillationModule`` decodes, a file a shard, and says at the end what came out.

    A run that was killed goes on where it stopped when the same command is given again, on any number of processes; one
    that is finished has nothing to do. The same command may be given any number of times at once, on any machines that
    share the directory: the runs share its shards, and each ends when all are there. Another model, other queries or
    settings are refused.

    Args:
        output_dir: Directory, on a file system that all processes share; None is ``trajectories``, on the command line
            below ``run_dir``.
    """

    def __init__(self, output_dir: str | None = None) -> None:
        super().__init__(write_interval="batch")
        self.output_dir = Path(output_dir or "trajectories")
        self._store = TrajectoryStore(self.output_dir)
        self._num_decoded = self._num_tokens = 0
        self._start = self._waited = 0.0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell the data module which shards are there, and where it gets the next one."""
        del pl_module, stage
        data = cast("PromptDataModule", trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
        data.finished_shards = self._store.finished()
        data.next_shard = self._next_shard

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """See to it that shards that are there belong to this run.

        Raises:
            TabomError: If they do not, or one is damaged.
        """
        failure = ""
        if trainer.is_global_zero:
            try:
                self._store.open(_origin(cast("DistillationModule", pl_module)))
            except TabomError as error:
                failure = str(error)
        failure, run = trainer.strategy.broadcast((failure, self._store.claims.token))
        if failure:
            raise TabomError(failure)
        self._store.join(run)
        self._start = time.monotonic()

    def write_on_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, prediction: Any, *_: Any, **__: Any
    ) -> None:
        """Write the shard."""
        del trainer, pl_module
        shard = cast("DistilledShard", prediction)
        if shard.num_queries:
            counts = {"num_queries": shard.num_queries, "num_tokens": shard.num_tokens}
            if self._store.write(shard.index, shard.rows, **counts, rejected=shard.rejected) is None:
                return
            self._num_decoded += shard.num_queries
            self._num_tokens += shard.num_tokens

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the manifest, and say what came out."""
        seconds = time.monotonic() - self._start - self._waited
        counts = torch.tensor([self._num_decoded, self._num_tokens], device=pl_module.device)
        num_decoded, num_tokens = cast("torch.Tensor", trainer.strategy.reduce(counts, reduce_op="sum")).tolist()
        trainer.strategy.barrier("all shards are written")
        if not trainer.is_global_zero:
            self._store.close()
            return
        self._next_shard()  # None, unless one was lost to a process that has ended since
        self._store.add_timing(num_tokens=num_tokens, seconds=seconds, num_processes=trainer.world_size)
        manifest = self._store.finish()
        statistics = _statistics(manifest) | {
            "decoded by this run": num_decoded,
            "tokens per second": round(num_tokens / max(seconds, 1e-9), 1),
        }
        record(trainer, "distill", statistics)
        for run in wandb_runs(trainer):
            import wandb

            values: list[Any] = [[name, str(value)] for name, value in statistics.items()]
            run.log({"distill/statistics": wandb.Table(columns=["", "value"], data=values)})
            run.summary.update({f"distill/{name}": value for name, value in statistics.items()})
            if manifest.num_rows:
                rows = read_rows(self.output_dir, range(min(manifest.num_rows, _NUM_SHOWN))).values()
                title, note = str(self.output_dir), f"the first {len(rows):,} of {manifest.num_rows:,} trajectories"
                data = cast("DistillationModule", pl_module).data
                shown, drawing = [[row] for row in rows], data.task.drawing
                page = viewer_page([title], shown, data.tokenizer, title=title, note=note, drawing=drawing)
                run.log({"distill/viewer": wandb.Html(page, inject=False)})
        width = max(map(len, statistics))
        lines = [f"  {name:<{width}}  {value:,}" for name, value in statistics.items()]
        print("\n".join([f"{self.output_dir}:", *lines]))

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Let others have what this run had claimed; without a shard nothing is left behind."""
        del trainer, pl_module, exception
        self._store.close()

    def _next_shard(self) -> int | None:
        """Claim a shard, and count how long that takes."""
        start = time.monotonic()
        index = self._store.claim(_tell)
        self._waited += time.monotonic() - start
        return index


def _tell(sentence: str) -> None:
    rank_zero_only(print)(f"tabom: {sentence}", file=sys.stderr, flush=True)


def _origin(module: DistillationModule) -> Origin:
    data = module.data
    return Origin(
        response_length=data.response_length,
        mask_token_id=module.backbone.mask_token_id,
        tokenizer_fingerprint=tokenizer_fingerprint(data.tokenizer),
        model_fingerprint=module.backbone.fingerprint(),
        query_fingerprint=data.query_fingerprint(),
        num_shards=data.num_shards,
        settings=module.settings() | data.query_settings(),
    )


def _statistics(manifest: Manifest) -> dict[str, float]:
    """What is in the directory."""
    return {
        "trajectories": manifest.num_queries,
        "verified": manifest.num_verified,
        "verified, %": round(100 * manifest.num_verified / max(1, manifest.num_queries), 1),
        "kept": manifest.num_rows,
        **{f"rejected, {reason}": number for reason, number in sorted(manifest.rejected.items())},
        "mean response tokens": round(manifest.num_tokens / max(1, manifest.num_queries), 1),
    }
