"""Self-distillation: the base decodes, the task verifies."""

from typing import TYPE_CHECKING, Any, cast

import torch
from lightning import LightningModule

from tabom.backbones import Backbone, BackboneSource
from tabom.errors import require
from tabom.functional.unmasking import dense_steps
from tabom.samplers import Sampler
from tabom.trajectories import TrajectoryRow
from tabom.types import PromptBatch

if TYPE_CHECKING:
    from tabom.data import PromptDataModule


class DistillationModule(LightningModule):
    """Decodes prompts and returns one trajectory per prompt, right or wrong.

    Args:
        backbone: Where the weights come from; read in ``configure_model``.
        sampler: Decodes.
    """

    backbone: Backbone

    def __init__(self, backbone: BackboneSource, sampler: Sampler) -> None:
        super().__init__()
        self.sampler = sampler
        self._source = backbone

    def configure_model(self) -> None:
        """Read the weights."""
        if "backbone" not in self._modules:
            self.backbone = self._source.load(self.data.tokenizer)

    @property
    def data(self) -> "PromptDataModule":
        """Gives tokenizer and verdicts."""
        data = cast("PromptDataModule | None", self.trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
        require(data is not None, "data: expected tabom.data.PromptDataModule, got none")
        return cast("PromptDataModule", data)

    def predict_step(self, batch: PromptBatch, batch_idx: int) -> list[TrajectoryRow]:
        """Decode, verify, and gather what a shard stores; steps that reveal nothing are not counted there."""
        del batch_idx
        decoded = self.sampler.decode(self.backbone, batch)
        verdicts = self.data.judge(batch.examples, decoded.response_ids)
        is_prompt = batch.attention_mask & ~batch.is_response
        columns: tuple[Any, ...] = (
            batch.examples,
            verdicts,
            decoded.response_ids.tolist(),
            dense_steps(decoded.unmask_step, where=torch.ones_like(decoded.unmask_step, dtype=torch.bool)).tolist(),
            decoded.unmask_entropy.tolist(),
            [ids[kept].tolist() for ids, kept in zip(batch.noisy_ids, is_prompt, strict=True)],
        )
        return [
            TrajectoryRow(
                query_id=example.query_id,
                is_verified=verdict.is_correct,
                prompt_ids=prompt_ids,
                response_ids=response_ids,
                unmask_step=unmask_step,
                unmask_entropy=unmask_entropy,
                prompt=example.prompt,
                response=verdict.text,
                reference=example.reference,
            )
            for example, verdict, response_ids, unmask_step, unmask_entropy, prompt_ids in zip(*columns, strict=True)
        ]
