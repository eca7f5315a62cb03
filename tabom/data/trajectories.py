"""Trajectory shards as training data."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from lightning.pytorch.utilities.rank_zero import rank_zero_info  # pyright: ignore[reportPrivateImportUsage]
from torch.utils.data import DataLoader

from tabom.data.encoding import Row, cut_prompts, encode_answers, fill_response
from tabom.data.prompts import PromptDataModule, ValidationSizes
from tabom.data.query_weighting import QueryWeighting, pass_rates
from tabom.data.replay import ReplayData
from tabom.data.stream import EndlessLoader, EndlessRows
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.data.trajectory_rows import TrajectoryRows, tell_answers
from tabom.errors import TabomError, check_range, check_used, require
from tabom.seeding import run_seed, share_of
from tabom.tasks import ExampleSource, Split, Task
from tabom.trajectories import TrajectoryTable, read_trajectories, row_names
from tabom.types import GROUND_TRUTH, SELF_DISTILLED, Example, TrajectoryBatch


class TrajectoryDataModule(PromptDataModule):
    """Trains on recorded trajectories; evaluates like :class:`PromptDataModule`, and on held-out trajectories.

    Args:
        path: Directory that ``tabom predict`` wrote.
        task: New domain.
        tokenizer: The one the trajectories were made with: ``characters``, a directory or a hub id.
        response_length: N of the trajectories.
        base_domains: Held-out text by name, on which forgetting is measured, for each and on average; or None.
        batch_size: Rows a batch and device; an optimizer step takes ``accumulate_grad_batches`` of them.
        global_batch_size: Rows of an optimizer step over all processes, whatever their number: the process's share is
            cut into equal batches of at most ``batch_size`` rows, and ``accumulate_grad_batches`` follows. None leaves
            both as they are given.
        answers: ``self_distilled``: what the model decoded, with the order. ``ground_truth``: the task's own answers to
            the same queries, without an order (SFT-GT).
        truncate_answers: Cut ground-truth answers that are longer than the response, as the released code does; False
            refuses them.
        max_prompt_length: Tokens to which recorded prompts are cut, at the end of the question; None keeps them whole.
        only_verified: Leave out the decodings whose answer is wrong.
        query_weighting: What the other decodings of its query (``num_samples`` of the distillation) make of a
            trajectory. ``failure_rate``: its loss counts in proportion to the share of them that failed, 1 on average.
            ``advantage``: failed ones are trained on as well, whatever ``only_verified`` says; each is tilted by
            ``tilt`` of the objective times its verdict, 1 or 0, minus the mean verdict of its query. Queries that give
            nothing are left out: those of which all passed, and for ``advantage`` those of which all failed.
        one_per_query: Train on the first trajectory of a query alone.
        held_out: Share of the queries kept for validation and test, by a hash of the query id, in [0, 1).
        chat_template: Whether prompts are a user's turns and answers an assistant's; recorded ones are as they are.
        group_by_length: Whether the rows of an optimizer step are of about one length, so that little is padded.
        num_workers: Processes that make batches ahead of the training; 0: the training does.
        replay: Rows in the same steps on which the model is kept near the base; None for none.
        validation: Sizes of everything outside training.
        mask_token: Mask token by its text, in place of the tokenizer's; None is the backbone's, which the command line
            fills in.

    Raises:
        TabomError: If a value is out of range.
    """

    def __init__(
        self,
        path: str,
        task: Task,
        response_length: int,
        tokenizer: str | None = None,
        base_domains: dict[str, ExampleSource] | None = None,
        batch_size: int = 48,
        global_batch_size: int | None = None,
        answers: Literal["self_distilled", "ground_truth"] = "self_distilled",
        truncate_answers: bool = False,
        max_prompt_length: int | None = None,
        only_verified: bool = True,
        query_weighting: QueryWeighting = "none",
        one_per_query: bool = False,
        held_out: float = 0.1,
        chat_template: bool = False,
        group_by_length: bool = False,
        num_workers: int = 0,
        replay: ReplayData | None = None,
        validation: ValidationSizes = ValidationSizes(),
        mask_token: str | None = None,
    ) -> None:
        super().__init__(
            task=task,
            tokenizer=tokenizer,
            response_length=response_length,
            base_domains=base_domains,
            chat_template=chat_template,
            validation=validation,
            mask_token=mask_token,
        )
        check_range("batch_size", batch_size, least=1)
        check_range("global_batch_size", global_batch_size, least=1)
        check_range("max_prompt_length", max_prompt_length, least=1)
        check_range("held_out", held_out, least=0, below=1)
        check_range("num_workers", num_workers, least=0)
        check_used(
            "truncate_answers", truncate_answers, False, is_used=answers == GROUND_TRUTH, owner=f"answers {answers}"
        )
        check_used(
            "query_weighting", query_weighting, "none", is_used=answers == SELF_DISTILLED, owner=f"answers {answers}"
        )
        require(
            not one_per_query or query_weighting != "advantage",
            "one_per_query: expected False with query_weighting advantage, which compares the trajectories of a query, "
            "got True",
        )
        self.path = Path(path)
        self.batch_size = batch_size
        self.global_batch_size = global_batch_size
        self.answers: Literal["self_distilled", "ground_truth"] = answers
        self.truncate_answers = truncate_answers
        self.max_prompt_length = max_prompt_length
        self.only_verified = only_verified
        self.query_weighting: QueryWeighting = query_weighting
        self.one_per_query = one_per_query
        self.has_advantages = query_weighting == "advantage"
        self.held_out = held_out
        self.group_by_length = group_by_length
        self.num_workers = num_workers
        self.replay = replay

    @functools.cached_property
    def table(self) -> TrajectoryTable:
        """All trajectories; read and validated at first use."""
        return read_trajectories(
            self.path,
            tokenizer_fingerprint=tokenizer_fingerprint(self.tokenizer),
            response_length=self.response_length,
        )

    @functools.cached_property
    def _cut_table(self) -> TrajectoryTable:
        """The trajectories, with prompts as long as they may be."""
        table = self.table
        if self.max_prompt_length is None:
            return table
        prompts = cut_prompts(
            self.tokenizer, table.prompt_ids, table.query_ids, self.max_prompt_length, chat=self.chat_template
        )
        return dataclasses.replace(table, prompt_ids=prompts)

    def setup(self, stage: str) -> None:
        """Read the shards, so that bad ones end the run before anything else happens; size the optimizer steps.

        Raises:
            TabomError: If processes cannot share ``global_batch_size`` evenly, or another accumulation is given.
        """
        if self._cut_table.manifest.origin.block_length is None:
            rank_zero_info(
                f"{self.path}: it does not say in which blocks the trajectories were decoded, so that all positions of "
                "a response count as compared; tabom trajectories import --block_length N says it"
            )
        if stage == "fit" and self.trainer is not None and self.global_batch_size is not None:
            num_rows, world_size = self.global_batch_size, self.trainer.world_size
            share, num_left = divmod(num_rows, world_size)
            require(
                num_left == 0, f"global_batch_size: expected a multiple of the {world_size} processes, got {num_rows}"
            )
            self.batch_size = max(size for size in range(1, self.batch_size + 1) if share % size == 0)
            num_batches, given = share // self.batch_size, self.trainer.accumulate_grad_batches
            require(
                given in (1, num_batches),
                f"trainer.accumulate_grad_batches: expected {num_batches}, which follows from data.global_batch_size "
                f"{num_rows}, or nothing, got {given}",
            )
            self.trainer.accumulate_grad_batches = num_batches
            rank_zero_info(
                f"an optimizer step: {num_rows} rows in {num_batches} batches of {self.batch_size} on each of "
                f"{world_size} processes"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Trajectories that are not held out."""
        if self.answers == GROUND_TRUTH:
            indices = self._answered(self._trained(self._wanted), "data.answers ground_truth")
            rows = self._ground_truth_rows(indices, truncate=self.truncate_answers)
        else:
            rows = self._self_distilled_rows()
        return self.training_loader(
            rows,
            self.batch_size,
            group_by_length=self.group_by_length,
            num_workers=self.num_workers,
            replay=None if self.replay is None else self._replay_loader(self.replay),
        )

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """What prompts are decoded and text is masked, and the held-out trajectories with their queries' references."""
        return [*super().val_dataloader(), *self._held_out_loaders()]

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """What prompts are decoded and text is masked, and the held-out trajectories with their queries' references."""
        return [*super().test_dataloader(), *self._held_out_loaders()]

    def base_examples(self, name: str, split: Split, num_examples: int) -> list[Example]:
        """What forgetting in a base domain is measured on: no document that is replayed."""
        examples = super().base_examples(name, split, num_examples)
        if self.replay is not None:
            self.replay.check_apart(name, self.base_domains[name], examples)
        return examples

    def _replay_loader(self, replay: ReplayData) -> EndlessLoader:
        """Looks at what is measured first, since a training is in vain if it cannot be measured afterwards."""
        sizes = self.validation
        for name, domain in self.base_domains.items():
            for split in ("validation", "test"):
                try:
                    examples = domain.examples(split, max(sizes.num_base_examples, sizes.num_base_prompts))
                except TabomError:  # a training does not need it
                    continue
                replay.check_apart(name, domain, examples)
        rows = replay.rows(self.tokenizer, chat=self.chat_template)
        self.checked_lengths(rows)
        stream = EndlessRows(rows, run_seed())
        return EndlessLoader(stream, batch_size=replay.batch_size, **self.collating(self.num_workers))

    def _held_out_loaders(self) -> list[DataLoader[Any]]:
        """Held-out queries twice: as decoded, and with the task's own answers, cut to the response where too long."""
        indices = self._indices(self._wanted, is_held_out=True)
        answered = [i for i in indices if self.table.references[i]]
        kinds = {
            SELF_DISTILLED: TrajectoryRows(self._cut_table, indices),
            GROUND_TRUTH: self._ground_truth_rows(answered, truncate=True),
        }
        return [
            self._loader(rows, functools.partial(self._collate_held_out, answers=answers))
            for answers, rows in kinds.items()
            if rows and self.checked_lengths(rows)
        ]

    def _collate_held_out(self, rows: Sequence[Row], answers: str) -> TrajectoryBatch:
        return dataclasses.replace(self.collate(rows), answers=answers)

    @property
    def _wanted(self) -> npt.NDArray[np.bool_]:
        """Rows to train on and to hold out."""
        is_wanted = self.table.is_verified if self.only_verified else np.ones_like(self.table.is_verified)
        require(
            bool(is_wanted.any()),
            f"{self.path}: expected at least one verified trajectory, found none among {len(is_wanted)}",
        )
        return is_wanted

    @functools.cached_property
    def _measured_rows(self) -> set[int]:
        """Rows whose prompt the task measures on: imported trajectories were not split as the task splits."""
        sizes = self.validation
        numbers: dict[Split, int] = {"validation": sizes.num_validation_prompts, "test": sizes.num_test_prompts}
        prompts: set[str] = set()
        for split, number in numbers.items():
            if number == 0:
                continue
            with contextlib.suppress(TabomError):  # a training needs no test split; validation says what it lacks
                prompts |= {example.prompt for example in self._all_or(split, number)}
        return {row for row, (_, _, prompt) in enumerate(row_names(self.path)) if prompt in prompts}

    def _all_or(self, split: Split, number: int) -> list[Example]:
        """All questions of a split, or so many of a task that generates them without end."""
        try:
            return self.task.examples(split, None)
        except TabomError:
            return self.task.examples(split, number)

    def _trained(self, is_wanted: npt.NDArray[np.bool_]) -> list[int]:
        """Rows that are not held out; with ``one_per_query`` the first of each query.

        Raises:
            TabomError: If the task measures on the questions of all of them.
        """
        candidates = self._indices(is_wanted, is_held_out=False)
        indices = [i for i in candidates if i not in self._measured_rows]
        if len(indices) < len(candidates):
            text = f"{self.path}: {len(candidates) - len(indices)} of {len(candidates)} rows are not trained on"
            rank_zero_info(f"{text}, since data.task has their questions for validation or test")
        is_left = len(indices) > 0 or not candidates
        require(is_left, f"{self.path}: expected rows whose questions data.task does not measure on, found none")
        if not self.one_per_query:
            return indices
        first = {self.table.query_ids[i]: i for i in reversed(indices)}
        return sorted(first.values())

    def _self_distilled_rows(self) -> TrajectoryRows:
        """Rows with the weight or advantage that the other decodings of their queries give them.

        Raises:
            TabomError: If there are none.
        """
        is_wanted, rates = self._wanted, np.zeros(0, np.float32)
        if self.query_weighting != "none":
            is_wanted, rates = self._compared()
        indices = self._trained(is_wanted)
        told: list[list[int]] = []
        if self.teacher_prompt is not None:
            indices = self._answered(indices, "model.objective.teacher_prompt")
            told = tell_answers(self.tokenizer, self._cut_table, indices, self.teacher_prompt, chat=self.chat_template)
        advantage = (self.table.is_verified - rates)[indices] if self.has_advantages else None
        weight = 1 - rates[indices] if self.query_weighting == "failure_rate" else None
        return TrajectoryRows(
            self._cut_table,
            indices,
            row_weight=None if weight is None else weight / weight.mean(),
            advantage=advantage,
            teacher_prompt_ids=told,
        )

    def _compared(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float32]]:
        """Rows that the other decodings of their queries say something of, and the pass rate of each row's query.

        Raises:
            TabomError: If there are none.
        """
        table, ids = self.table, set(self.table.query_ids)
        kind = f"data.query_weighting {self.query_weighting}"
        require(
            len(ids) < len(table.query_ids),
            f"{self.path}: expected several decodings per query for {kind}, got one of each; distil with "
            "data.num_samples above 1",
        )
        rates = pass_rates(table.query_ids, table.is_verified)
        is_mixed = (rates > 0) & (rates < 1)
        is_wanted = is_mixed if self.has_advantages else self._wanted & (rates < 1)
        num_used = len({table.query_ids[i] for i in np.flatnonzero(is_wanted)})
        require(
            num_used > 0,
            f"{self.path}: expected a query with verified and refused decodings for {kind}, found none of {len(ids)}",
        )
        rank_zero_info(f"{self.path}: {len(ids) - num_used} of {len(ids)} queries give nothing for {kind}, left out")
        return is_wanted, rates

    def _indices(self, is_wanted: npt.NDArray[np.bool_], *, is_held_out: bool) -> list[int]:
        parts: dict[bool, list[int]] = {False: [], True: []}
        for i, query_id in enumerate(self.table.query_ids):
            if is_wanted[i]:
                parts[share_of(f"held out/{query_id}") < self.held_out].append(i)
        prompts = {part: {tuple(self.table.prompt_ids[i]): i for i in rows} for part, rows in parts.items()}
        for prompt in prompts[False].keys() & prompts[True].keys():
            first, second = (self.table.query_ids[prompts[part][prompt]] for part in (False, True))
            raise TabomError(
                f"{self.path}: expected one id a prompt, so that none is both trained on and held out, got {first} and "
                f"{second} for the same one; import or distil the trajectories again"
            )
        return parts[is_held_out]

    def _answered(self, indices: list[int], option: str) -> list[int]:
        """Those that have a reference answer, which an option needs; says how many have none."""
        answered = [i for i in indices if self.table.references[i]]
        num_left_out = len(indices) - len(answered)
        require(
            len(answered) > 0,
            f"{self.path}: expected reference answers for {option}, found none in {len(indices)} rows",
        )
        if num_left_out:
            rank_zero_info(
                f"{self.path}: {num_left_out} of {len(indices)} rows have no reference answer and are left out"
            )
        return answered

    def _ground_truth_rows(self, indices: list[int], *, truncate: bool) -> list[Row]:
        query_ids = [self.table.query_ids[i] for i in indices]
        answers = [self.table.references[i] for i in indices]
        references = encode_answers(self.tokenizer, answers, query_ids, chat=self.chat_template)
        return [
            Row(
                query_id,
                self._cut_table.prompt_ids[i],
                fill_response(self.tokenizer, reference, self.response_length, query_id, truncate=truncate),
            )
            for i, query_id, reference in zip(indices, query_ids, references, strict=True)
        ]
