"""Self-distillation: the base decodes, the task verifies."""

import functools
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from lightning import LightningModule
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # pyright: ignore[reportPrivateImportUsage]

from tabom.backbones import Backbone, BackboneSource
from tabom.data import PromptDataModule
from tabom.errors import check_range, require
from tabom.functional.unmasking import dense_steps
from tabom.modules.checkpoints import check_weights
from tabom.samplers import Sampler
from tabom.samplers.static_shapes import StaticShapes
from tabom.types import PromptBatch, PromptShard, TrajectoryRow, Verdict


@dataclass(frozen=True)
class DistilledShard:
    """What became of a :class:`PromptShard`.

    Attributes:
        index: Number of the file.
        rows: Trajectories to keep.
        num_queries: Trajectories decoded; 0 if there was nothing to do.
        num_tokens: Their response tokens, up to and with the first end-of-sequence token.
        rejected: How many are wrong, by reason.
    """

    index: int
    rows: list[TrajectoryRow]
    num_queries: int
    num_tokens: int
    rejected: dict[str, int]

    @property
    def num_verified(self) -> int:
        """Trajectories whose answer is right."""
        return self.num_queries - sum(self.rejected.values())


class DistillationModule(LightningModule):
    """Decodes the prompts of a shard and returns their trajectories.

    What a query decodes to depends on the model, the query, the number of the sample and the sampler alone.

    Args:
        backbone: Where the weights come from; read in ``configure_model``.
        sampler: Decodes.
        batch_size: Rows that are decoded at a time; one that is finished makes room for the next.
        keep: ``all`` trajectories, right or wrong, or the ``verified`` ones.
        early_finish: Whether a row is finished as soon as everything up to its first end-of-sequence token is decoded.
            The rest is filled with that token, recorded as revealed in one further step, without entropies.
        compile: Whether the backbone is compiled (``torch.compile``), for at most 12 shapes of a shard's canvases.

    Raises:
        TabomError: If ``batch_size`` is below 1.
    """

    backbone: Backbone

    def __init__(
        self,
        backbone: BackboneSource,
        sampler: Sampler,
        batch_size: int = 32,
        keep: Literal["all", "verified"] = "all",
        early_finish: bool = True,
        compile: bool = False,  # noqa: A002, the name that everybody looks for
    ) -> None:
        super().__init__()
        check_range("batch_size", batch_size, least=1)
        self.sampler = sampler
        self.batch_size = batch_size
        self.keep: Literal["all", "verified"] = keep
        self.early_finish = early_finish
        self.on_finished: Callable[[int], None] | None = None
        self._is_compiled = compile
        self.source = backbone

    def setup(self, stage: str) -> None:
        """Raise ``TabomError`` if the sampler does not fit the response length."""
        del stage
        self.sampler.check_response_length(self.data.response_length)

    def configure_model(self) -> None:
        """Read the weights."""
        if "backbone" not in self._modules:
            self.backbone = self.source.load(self.data.tokenizer)
            self.data.max_length = self.backbone.max_length
            self.strict_loading = not self.backbone.has_adapter  # checked in on_load_checkpoint

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Raise ``TabomError`` if the checkpoint holds another adapter, or another model, than is configured."""
        check_weights(self, checkpoint)
        here = {callback.state_key for callback in self.trainer.callbacks}  # pyright: ignore[reportAttributeAccessIssue]
        checkpoint["callbacks"] = {key: state for key, state in checkpoint["callbacks"].items() if key in here}

    def on_predict_start(self) -> None:
        """Refuse to decode the same thing several times.

        Raises:
            TabomError: If several samples are asked for, and the sampler draws nothing.
        """
        num_samples = self.data.num_samples
        require(
            num_samples == 1 or self.sampler.is_random,
            f"num_samples: expected 1 with a sampler that draws nothing (temperature 0), got {num_samples}",
        )

    @property
    def data(self) -> PromptDataModule:
        """Gives tokenizer and verdicts."""
        data = cast("PromptDataModule | None", self.trainer.datamodule)  # pyright: ignore[reportAttributeAccessIssue]
        require(data is not None, "data: expected tabom.data.PromptDataModule, got none")
        return cast("PromptDataModule", data)

    def settings(self) -> dict[str, Any]:
        """Everything that decides the bytes of a shard, besides the model and the queries, as JSON can hold it.

        The block size of a block-causal model is said as well, since training needs it.
        """
        block_size = self.backbone.block_size
        return {
            "sampler": self.sampler.settings(),
            "batch_size": self.batch_size,
            "keep": self.keep,
            "early_finish": self.early_finish,
            "compile": self._is_compiled,
            "precision": self.trainer.precision,
            **({} if block_size is None else {"block_size": block_size}),
        }

    @functools.cached_property
    def _static_shapes(self) -> StaticShapes:
        return StaticShapes(self.backbone, self.batch_size)

    def on_predict_end(self) -> None:
        """Say how often the backbone was compiled."""
        if self._is_compiled:
            rank_zero_info(f"compiled for {len(self._static_shapes.shapes)} shapes of canvases")

    def predict_step(self, batch: PromptShard, batch_idx: int) -> DistilledShard:
        """Decode, verify, and gather what a shard stores; steps that reveal nothing are not counted there."""
        del batch_idx
        prompts = batch.prompts
        if prompts is None:
            return DistilledShard(batch.index, [], 0, 0, {})
        told = self.on_finished
        decoded = self.sampler.decode(
            self._static_shapes.for_canvases(prompts.noisy_ids.shape[1]) if self._is_compiled else self.backbone,
            prompts,
            num_slots=self.batch_size,
            eos_token_id=self.data.special_ids.eos if self.early_finish else None,
            on_finished=None if told is None else lambda rows, _: told(len(rows)),
        )
        verdicts = self.data.judge(prompts.examples, decoded.response_ids)
        unmask_step = dense_steps(decoded.unmask_step, where=torch.ones_like(decoded.unmask_step, dtype=torch.bool))
        rows = [
            TrajectoryRow(
                query_id=query_id,
                sample=sample,
                is_verified=verdict.is_correct,
                prompt_ids=prompt_ids,
                response_ids=response_ids,
                unmask_step=steps,
                unmask_entropy=entropies,
                prompt=example.prompt,
                response=verdict.text,
                reference=example.reference,
            )
            for (query_id, sample), example, verdict, prompt_ids, response_ids, steps, entropies in zip(
                prompts.queries,
                prompts.examples,
                verdicts,
                _prompt_ids(prompts),
                decoded.response_ids.tolist(),
                unmask_step.tolist(),
                decoded.unmask_entropy.tolist(),
                strict=True,
            )
            if verdict.is_correct or self.keep == "all"
        ]
        reasons = Counter(_reason(verdict) for verdict in verdicts if not verdict.is_correct)
        num_tokens = sum(verdict.num_tokens for verdict in verdicts)
        return DistilledShard(batch.index, rows, len(verdicts), num_tokens, rejected=dict(sorted(reasons.items())))


def _prompt_ids(prompts: PromptBatch) -> list[list[int]]:
    is_prompt = prompts.attention_mask & ~prompts.is_response
    return [ids[kept].tolist() for ids, kept in zip(prompts.noisy_ids.cpu(), is_prompt.cpu(), strict=True)]


def _reason(verdict: Verdict) -> str:
    """Why an answer does not count."""
    if not verdict.has_ended:
        return "no end of sequence"
    return "wrong answer" if verdict.text.strip() else "no answer"
