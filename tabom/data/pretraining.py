"""Text of the base domain with a share of the new one."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from tabom.data.encoding import Row, encode_examples, fill_response
from tabom.data.prompts import PromptDataModule, ValidationSizes
from tabom.errors import check_range, check_used
from tabom.tasks import ExampleSource, Split, Task
from tabom.types import GROUND_TRUTH, TrajectoryBatch


class PretrainingDataModule(PromptDataModule):
    """Trains on base-domain text mixed with a small pool of new-domain problems and their answers.

    The size of the pool decides how competent the base becomes in the new domain. The cross-entropy of its held-out
    answers is measured as well.

    Args:
        task: New domain.
        base_domain: Text.
        response_length: N of the new domain; answers are filled with end-of-sequence tokens. Text keeps its length.
        tokenizer: ``characters``, a directory or a hub id; None is the backbone's, which the command line fills in.
        batch_size: Rows a batch and device; an optimizer step takes ``accumulate_grad_batches`` of them.
        num_base_rows: Pieces of text in an epoch.
        num_task_examples: Distinct problems in the pool.
        task_share: Share of the rows that come from the pool, in [0, 1).
        num_workers: Processes that make batches ahead of the training; 0: the training does.
        validation: Sizes of everything outside training.
        mask_token: Mask token by its text, in place of the tokenizer's; None is the backbone's, which the command line
            fills in.

    Raises:
        TabomError: If a value is out of range.
    """

    def __init__(
        self,
        task: Task,
        base_domain: ExampleSource,
        response_length: int,
        tokenizer: str | None = None,
        batch_size: int = 32,
        num_base_rows: int = 20000,
        num_task_examples: int = 120,
        task_share: float = 0.5,
        num_workers: int = 0,
        validation: ValidationSizes = ValidationSizes(),
        mask_token: str | None = None,
    ) -> None:
        super().__init__(
            task=task,
            tokenizer=tokenizer,
            response_length=response_length,
            base_domains={"text": base_domain},
            validation=validation,
            mask_token=mask_token,
        )
        check_range("task_share", task_share, least=0, below=1)
        for name, number in {
            "batch_size": batch_size,
            "num_base_rows": num_base_rows,
            "num_task_examples": num_task_examples,
        }.items():
            check_range(name, number, least=1)
        check_range("num_workers", num_workers, least=0)
        check_used("num_task_examples", num_task_examples, 120, is_used=task_share > 0, owner="task_share 0")
        self._text = base_domain
        self.batch_size = batch_size
        self.num_base_rows = num_base_rows
        self.num_task_examples = num_task_examples
        self.task_share = task_share
        self.num_workers = num_workers

    def train_dataloader(self) -> DataLoader[Any]:
        """Both domains, shuffled together."""
        text = encode_examples(self.tokenizer, self._text.examples("pretrain", self.num_base_rows), None, chat=False)
        num_task_rows = round(self.num_base_rows * self.task_share / (1 - self.task_share))
        pool = encode_examples(
            self.tokenizer, self.task.examples("pretrain", self.num_task_examples), self.response_length, chat=False
        )
        repeated = [pool[i % len(pool)] for i in range(num_task_rows)]
        return self.training_loader(text + repeated, self.batch_size, num_workers=self.num_workers)

    def _split_loaders(self, split: Split, num_prompts: int) -> list[DataLoader[Any]]:
        examples = self.task.examples(split, self.validation.num_base_examples)
        answered = [example for example in examples if example.reference]
        rows = [self._cut(row) for row in encode_examples(self.tokenizer, answered, None, chat=False)]
        loaders = super()._split_loaders(split, num_prompts)
        return [*loaders, self._loader(rows, self._collate_answers)] if rows else loaders

    def _cut(self, row: Row) -> Row:
        """With an answer of ``response_length`` tokens."""
        ids = fill_response(self.tokenizer, list(row.response_ids), self.response_length, row.query_id, truncate=True)
        return dataclasses.replace(row, response_ids=ids)

    def _collate_answers(self, rows: Sequence[Row]) -> TrajectoryBatch:
        return dataclasses.replace(self.collate(rows), answers=GROUND_TRUTH)
