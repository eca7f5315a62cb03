"""A benchmark, and how its prompts become tokens."""

import functools
from typing import Any

from lightning import LightningDataModule
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerBase

from tabom.data.loading import held_out_loader
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import check_range
from tabom.evaluation.benchmarks import Benchmark


class BenchmarkDataModule(LightningDataModule):
    """Serves one benchmark to ``evaluate``, on every process; lm-eval shares its questions out.

    Args:
        benchmark: The questions, and how answers are scored.
        response_length: N, tokens a response is decoded into.
        tokenizer: ``characters``, a directory or a hub id; None is the backbone's, which the command line fills in.
        chat_template: Whether prompts are a user's turns.
        limit: Questions, the first ones; None is all.
        mask_token: Mask token by its text, in place of the tokenizer's; None is the backbone's, which the command line
            fills in.

    Raises:
        TabomError: If a number is below 1.
    """

    def __init__(
        self,
        benchmark: Benchmark,
        response_length: int,
        tokenizer: str | None = None,
        chat_template: bool = False,
        limit: int | None = None,
        mask_token: str | None = None,
    ) -> None:
        super().__init__()
        check_range("response_length", response_length, least=1)
        check_range("limit", limit, least=1)
        self.benchmark = benchmark
        self.response_length = response_length
        self.chat_template = chat_template
        self.limit = limit
        self._tokenizer_name = tokenizer
        self._mask_token = mask_token

    @functools.cached_property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Read at first use."""
        return load_tokenizer(self._tokenizer_name, self._mask_token)

    def settings(self) -> dict[str, Any]:
        """What decides the prompts, as JSON can hold it."""
        return {
            "benchmark": self.benchmark.settings(),
            "response_length": self.response_length,
            "chat_template": self.chat_template,
        }

    def predict_dataloader(self) -> DataLoader[Any]:
        """The benchmark, once on every process."""
        assert self.trainer is not None
        return held_out_loader(
            [self.benchmark] * self.trainer.world_size,
            batch_size=1,
            rank=self.trainer.global_rank,
            world_size=self.trainer.world_size,
            collate_fn=_first,
        )


def _first(benchmarks: list[Benchmark]) -> Benchmark:
    return benchmarks[0]
