"""Prompts to decode, and what every run is evaluated on."""

import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from tabom.corruption import CountMasking
from tabom.data.encoding import (
    NumberedRows,
    Row,
    Tokens,
    check_length,
    collate_prompts,
    collate_rows,
    decode_responses,
    encode_examples,
    encode_prompts,
)
from tabom.data.loading import ResumableLoader, held_out_loader
from tabom.data.replay import ReplayData
from tabom.data.stream import EndlessLoader
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import check_range, check_used, require
from tabom.functional.end_of_sequence import until_eos
from tabom.functional.masking import block_index
from tabom.seeding import RowDraws, run_seed
from tabom.tasks import ExampleSource, Split, Task
from tabom.types import Example, PromptBatch, PromptShard, SpecialIds, TrajectoryBatch, Verdict


@dataclass(frozen=True)
class ValidationSizes:
    """How much every run is evaluated on; the same in all runs that are to be compared.

    Attributes:
        num_validation_prompts: Prompts of the validation split; 0 leaves decoding out.
        num_test_prompts: Prompts of the test split; 0 leaves decoding out.
        num_base_examples: Pieces of text of each base domain; of a pretraining also held-out answers.
        num_base_prompts: Prompts that are decoded of each base domain that is a task, by the model and by the base; 0
            leaves that out.
        batch_size: Rows a batch.
        mask_seed: Of the masks on base-domain text.

    Raises:
        TabomError: If a number of prompts is below 0, or another number below 1.
    """

    num_validation_prompts: int = 100
    num_test_prompts: int = 300
    num_base_examples: int = 512
    num_base_prompts: int = 0
    batch_size: int = 128
    mask_seed: int = 0

    def __post_init__(self) -> None:
        least = dict.fromkeys(("num_validation_prompts", "num_test_prompts", "num_base_prompts"), 0)
        least |= {"num_base_examples": 1, "batch_size": 1}
        for name, smallest in least.items():
            number = getattr(self, name)
            check_range(f"validation.{name}", number, least=smallest)


class PromptDataModule(LightningDataModule):
    """Serves prompts of a task, and held-out base-domain text on which forgetting is measured.

    ``validate`` and ``test`` get text of every base domain under masks that never change (``CorruptedBatch``), prompts
    of those that are tasks, and prompts of the new domain (``PromptBatch``); the ``domain`` of a batch is its base
    domain. ``predict`` gets the prompts of the training split, by shards (``PromptShard``) that depend on these
    arguments alone: not on the number of processes, nor on what has been decoded before.

    Args:
        task: New domain.
        response_length: N, tokens a response is decoded into.
        tokenizer: ``characters``, a directory or a hub id; None is the backbone's, which the command line fills in.
        base_domains: Held-out text by name, on which forgetting is measured, for each and on average; or None.
        num_queries: Prompts of the training split for ``predict``; None for all there are.
        num_samples: Decodings of each of them.
        queries_per_shard: Prompts whose trajectories are kept in one file; at most so many are decoded twice when a run
            is killed.
        chat_template: Whether prompts are a user's turns and answers an assistant's, in the task and the base domain.
        validation: Sizes of everything outside training.
        mask_token: Mask token by its text, in place of the tokenizer's; None is the backbone's, which the command line
            fills in.

    Attributes:
        finished_shards: Those that ``predict`` need not decode again.
        next_shard: Gives the index of the next one to decode, or None once there is nothing left; by it several runs
            share them. None shares them out among the processes of this run beforehand.
        has_advantages: Whether rows of training data say how they compare with others of their query.
        replay: What the model is kept near the base on in a training; None for nothing.
        teacher_prompt: How rows of training data tell a teacher the answer, as the objective words it; None for rows
            that tell it nothing.
        max_length: Most tokens of prompt and response together, which the model sets; longer rows are refused by name
            when a loader is made. None: no limit.
        block_size: Tokens in a block of a block-causal model, which the model sets; held-out text is masked by blocks.

    Raises:
        TabomError: If a number is below 1.
    """

    has_advantages = False
    replay: ReplayData | None = None
    teacher_prompt: str | None = None

    def __init__(
        self,
        task: Task,
        response_length: int,
        tokenizer: str | None = None,
        base_domains: dict[str, ExampleSource] | None = None,
        num_queries: int | None = None,
        num_samples: int = 1,
        queries_per_shard: int = 256,
        chat_template: bool = False,
        validation: ValidationSizes = ValidationSizes(),
        mask_token: str | None = None,
    ) -> None:
        super().__init__()
        for name, number in {
            "response_length": response_length,
            "num_queries": num_queries,
            "num_samples": num_samples,
            "queries_per_shard": queries_per_shard,
        }.items():
            check_range(name, number, least=1)
        self.task = task
        self.response_length = response_length
        self.base_domains = base_domains or {}
        for name in self.base_domains:
            is_name = name.replace("-", "_").isidentifier()
            require(is_name, f"base_domains: expected names of letters, digits, - and _, got {name!r}")
        check_used(
            "validation.num_base_prompts",
            validation.num_base_prompts,
            0,
            is_used=any(isinstance(domain, Task) for domain in self.base_domains.values()),
            owner="base_domains of which none has a verifier",
        )
        self.num_queries = num_queries
        self.num_samples = num_samples
        self.queries_per_shard = queries_per_shard
        self.finished_shards: frozenset[int] = frozenset()
        self.next_shard: Callable[[], int | None] | None = None
        self.max_length: int | None = None
        self.block_size: int | None = None
        self.chat_template = chat_template
        self.validation = validation
        self._tokenizer_name = tokenizer
        self._mask_token = mask_token

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Read at first use."""
        return load_tokenizer(self._tokenizer_name, self._mask_token)

    @property
    def special_ids(self) -> SpecialIds:
        """Of the tokenizer."""
        return SpecialIds.of(self.tokenizer)

    @property
    def base_tasks(self) -> dict[str, Task]:
        """The base domains that have a verifier."""
        return {name: domain for name, domain in self.base_domains.items() if isinstance(domain, Task)}

    def judge(self, examples: Sequence[Example], response_ids: Tensor, domain: str = "") -> list[Verdict]:
        """Turn decoded tokens (B, N) into text and verify it, by the task or the base domain ``domain``."""
        task = self.base_tasks[domain] if domain else self.task
        texts, eos = decode_responses(self.tokenizer, response_ids, chat=self.chat_template), self.special_ids.eos
        correct = task.are_correct(examples, texts)
        num_tokens, has_ended = until_eos(response_ids, eos).sum(1).tolist(), (response_ids == eos).any(1).tolist()
        return [Verdict(*parts) for parts in zip(texts, correct, num_tokens, has_ended, strict=True)]

    def val_dataloader(self) -> list[DataLoader[Any]]:
        """Base-domain text and prompts of the validation split."""
        return self._split_loaders("validation", self.validation.num_validation_prompts)

    def test_dataloader(self) -> list[DataLoader[Any]]:
        """Base-domain text and prompts of the test split."""
        return self._split_loaders("test", self.validation.num_test_prompts)

    def predict_dataloader(self) -> DataLoader[Any]:
        """Prompts of the training split, one shard at a time; those to be decoded come first, shared by all ranks.

        Raises:
            TabomError: If a prompt cannot be encoded.
        """
        left = [index for index in range(self.num_shards) if index not in self.finished_shards]
        encoded = {index: self._encode(self._shard_queries(index)) for index in left}
        if self.next_shard is not None:
            collate = functools.partial(self._collate_next, encoded, self.next_shard)
            return held_out_loader(left or [-1], batch_size=1, collate_fn=collate, rank=0, world_size=1)
        shards = [*left, *sorted(self.finished_shards & set(range(self.num_shards)))]
        num_idle = max(0, self._ranks["world_size"] - len(shards))  # every rank has to come by
        collate = functools.partial(self._collate_shard, encoded)
        return held_out_loader([*shards, *[-1] * num_idle], batch_size=1, collate_fn=collate, **self._ranks)

    @property
    def num_shards(self) -> int:
        """Files that ``predict`` fills."""
        return math.ceil(len(self._queries) / self.queries_per_shard)

    def num_to_decode(self) -> int:
        """Trajectories that are left for this rank."""
        left = [index for index in range(self.num_shards) if index not in self.finished_shards]
        rank, world_size = self._ranks["rank"], self._ranks["world_size"]
        return sum(len(self._shard_queries(index)) for index in left[rank::world_size]) * self.num_samples

    def query_settings(self) -> dict[str, Any]:
        """What decides which queries are decoded and how they are judged, as JSON can hold it."""
        mask_token = {} if self._mask_token is None else {"mask_token": self._mask_token}
        return {
            **mask_token,
            "task": f"{type(self.task).__module__}.{type(self.task).__qualname__}",
            "verifier": getattr(self.task, "verifier", None),
            "chat_template": self.chat_template,
            "num_queries": len(self._queries),
            "num_samples": self.num_samples,
            "queries_per_shard": self.queries_per_shard,
        }

    def query_fingerprint(self) -> str:
        """SHA-256 of all prompts and references that ``predict`` serves."""
        return _digest(json.dumps(dataclasses.astuple(example)) for example in self._queries)

    @property
    def collate(self) -> Callable[[Sequence[Row]], TrajectoryBatch]:
        """Pads rows to a batch; holds the special ids alone, so that a worker process needs nothing else."""
        ids = self.special_ids
        return functools.partial(collate_rows, pad_token_id=ids.pad, eos_token_id=ids.eos)

    def training_loader(
        self,
        rows: Sequence[Row],
        batch_size: int,
        *,
        group_by_length: bool = False,
        num_workers: int = 0,
        replay: EndlessLoader | None = None,
    ) -> ResumableLoader:
        """Shuffle by the run's seed and the epoch, and number the rows as they stand here.

        Args:
            rows: Training data.
            batch_size: Rows a batch and device.
            group_by_length: Whether the rows of an optimizer step are of about one length.
            num_workers: Processes that collate; 0: this one does.
            replay: Gives the batches that go with those of the rows.

        Raises:
            TabomError: If the rows do not fill one optimizer step.
        """
        lengths = self.checked_lengths(rows)
        return ResumableLoader(
            NumberedRows(rows),
            batch_size=batch_size,
            accumulation=1 if self.trainer is None else self.trainer.accumulate_grad_batches,
            seed=run_seed(),
            identity=_digest(row.query_id for row in rows)[:8],
            lengths=lengths if group_by_length else None,
            is_repeated=self.trainer is not None and self.trainer.overfit_batches > 0,  # pyright: ignore[reportAttributeAccessIssue]
            replay=replay,
            **self.collating(num_workers),
        )

    def checked_lengths(self, rows: Sequence[Row]) -> list[int]:
        """Tokens of each row, with the longer one of its prompts.

        Raises:
            TabomError: If one is longer than the model's positions.
        """
        lengths = [row.num_tokens for row in rows]
        for row, length in zip(rows, lengths, strict=True) if self.max_length is not None else ():
            name = f"{row.query_id}, told the answer" if len(row.teacher_prompt_ids) else row.query_id
            check_length(name, length, self.max_length)
        return lengths

    def collating(self, num_workers: int) -> dict[str, Any]:
        """How the batches of a training are made, and which rows of a step are this process's."""
        is_pinned = self.trainer is not None and self.trainer.strategy.root_device.type == "cuda"
        return {"collate_fn": self.collate, "num_workers": num_workers, "is_pinned": is_pinned, **self._ranks}

    @property
    def _ranks(self) -> dict[str, int]:
        if self.trainer is None:
            return {"rank": 0, "world_size": 1}
        return {"rank": self.trainer.global_rank, "world_size": self.trainer.world_size}

    def _split_loaders(self, split: Split, num_prompts: int) -> list[DataLoader[Any]]:
        loaders = [self._text_loader(name, split) for name in self.base_domains]
        if number := self.validation.num_base_prompts:
            loaders += [
                self._prompt_loader(self.base_examples(name, split, number), domain=name) for name in self.base_tasks
            ]
        return [*loaders, self._prompt_loader(self.task.examples(split, num_prompts))] if num_prompts else loaders

    def base_examples(self, name: str, split: Split, num_examples: int) -> list[Example]:
        """What forgetting in a base domain is measured on."""
        examples = self.base_domains[name].examples(split, num_examples)
        require(len(examples) > 0, f"base_domains.{name}: expected examples of split {split}, got none")
        return examples

    def _prompt_loader(self, examples: Sequence[Example], domain: str = "") -> DataLoader[Any]:
        return self._loader(self._encode(examples), functools.partial(self._collate_prompts, domain=domain))

    def _collate_prompts(
        self, rows: Sequence[tuple[Example, Tokens]], domain: str = "", samples: tuple[int, ...] | None = None
    ) -> PromptBatch:
        return collate_prompts(
            rows,
            pad_token_id=self.special_ids.pad,
            mask_token_id=self.special_ids.mask,
            response_length=self.response_length,
            domain=domain,
            samples=samples,
        )

    def _encode(self, examples: Sequence[Example]) -> list[tuple[Example, Tokens]]:
        """Prompts in tokens, as arrays: those of all shards are held at once."""
        texts, query_ids = [example.prompt for example in examples], [example.query_id for example in examples]
        prompt_ids = encode_prompts(self.tokenizer, texts, query_ids, chat=self.chat_template)
        for query_id, ids in zip(query_ids, prompt_ids, strict=True):
            check_length(query_id, len(ids) + self.response_length, self.max_length)
        return [(example, np.array(ids, np.int32)) for example, ids in zip(examples, prompt_ids, strict=True)]

    @functools.cached_property
    def _queries(self) -> list[Example]:
        return self.task.examples("train", self.num_queries)

    def _shard_queries(self, index: int) -> list[Example]:
        return self._queries[index * self.queries_per_shard : (index + 1) * self.queries_per_shard]

    def _collate_shard(
        self, encoded: Mapping[int, Sequence[tuple[Example, Tokens]]], indices: Sequence[int]
    ) -> PromptShard:
        index = indices[0]
        if index not in encoded:
            return PromptShard(index, None)
        return self._prompts_of(index, encoded[index])

    def _collate_next(
        self,
        encoded: Mapping[int, Sequence[tuple[Example, Tokens]]],
        next_shard: Callable[[], int | None],
        indices: Sequence[int],
    ) -> PromptShard:
        """Whatever the loader's turn, the shard that is to be decoded now."""
        del indices
        index = next_shard()
        if index is None:
            return PromptShard(-1, None)
        return self._prompts_of(index, encoded.get(index) or self._encode(self._shard_queries(index)))

    def _prompts_of(self, index: int, encoded: Sequence[tuple[Example, Tokens]]) -> PromptShard:
        rows = [row for row in encoded for _ in range(self.num_samples)]
        samples = tuple(range(self.num_samples)) * len(encoded)
        return PromptShard(index, self._collate_prompts(rows, samples=samples))

    def _text_loader(self, name: str, split: Split) -> DataLoader[Any]:
        """Masks depend on ``mask_seed``, the domain's name, and query and place of a text: every check is paired."""
        examples = self.base_examples(name, split, self.validation.num_base_examples)
        rows = encode_examples(self.tokenizer, examples, None, chat=self.chat_template)
        self.checked_lengths(rows)
        clean = dataclasses.replace(self.collate(rows), domain=name)
        if self.block_size is not None:
            block = block_index(clean.attention_mask, block_length=self.block_size)
            clean = dataclasses.replace(clean, attention_block=block)
        draws = RowDraws.of_ids(clean.query_ids, self.validation.mask_seed, name)
        offset = RowDraws.of_ids(("offset",), self.validation.mask_seed, name).per_row()
        corrupted = CountMasking(float(offset))(clean, self.special_ids.mask, draws)
        return self._loader(range(len(rows)), corrupted.select)

    def _loader(self, rows: Sequence[Any], collate_fn: Any) -> DataLoader[Any]:
        return held_out_loader(rows, batch_size=self.validation.batch_size, collate_fn=collate_fn, **self._ranks)


def _digest(texts: Iterable[str]) -> str:
    """SHA-256 of texts one after the other."""
    digest = hashlib.sha256()
    for text in texts:
        digest.update(text.encode())
    return digest.hexdigest()
