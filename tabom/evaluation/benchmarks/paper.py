"""The benchmarks of the paper."""

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tabom.errors import require
from tabom.evaluation.benchmarks import code, ifeval, released
from tabom.evaluation.benchmarks.base import Benchmark
from tabom.evaluation.benchmarks.harness import in_memory, load_changed, loading, package_version, stock_tasks
from tabom.evaluation.benchmarks.rows import (
    BOXED,
    NUMBER,
    OBJECTS,
    TEXT,
    TEXTS,
    THREE_TEXTS,
    Kind,
    find_file,
    read_objects,
)
from tabom.sandbox import Limits
from tabom.storage.files import file_sha256

if TYPE_CHECKING:
    from lm_eval.api.task import Task


@dataclass(frozen=True)
class _Stock:
    """A stock task of lm-eval, and where its rows are in a local folder."""

    task: str
    load: Callable[[Mapping[str, Any]], "Task"]
    domain: str
    metric: str
    max_fewshot: int
    files: tuple[str, ...]
    columns: dict[str, Kind]
    split: str = "test"
    runs_code: bool = False


def _stock_loader(folder: str, task: str) -> Callable[[Mapping[str, Any]], "Task"]:
    return lambda changes: load_changed(stock_tasks(folder), task, changes)


_STOCK = {
    "gsm8k": _Stock(
        task="gsm8k_cot",
        load=_stock_loader("gsm8k", "gsm8k_cot"),
        domain="maths",
        metric="exact_match,flexible-extract",
        max_fewshot=8,
        files=("gsm8k/test.jsonl",),
        columns={"question": TEXT, "answer": TEXT},
    ),
    "math500": _Stock(
        task="minerva_math500",
        load=_stock_loader("minerva_math", "minerva_math500"),
        domain="maths",
        metric="math_verify,none",
        max_fewshot=4,
        files=("math500/test.jsonl",),
        columns={"problem": TEXT, "solution": BOXED},
    ),
    "humaneval": _Stock(
        task="humaneval_instruct",
        load=code.load_humaneval,
        domain="code",
        metric="pass@1,create_test",
        max_fewshot=0,
        files=("humaneval/HumanEval.jsonl.gz", "humaneval/HumanEval.jsonl"),
        columns={"task_id": TEXT, "prompt": TEXT, "entry_point": TEXT, "test": TEXT},
        runs_code=True,
    ),
    "mbpp": _Stock(
        task="mbpp_instruct",
        load=code.load_mbpp,
        domain="code",
        metric="pass_at_1,extract_code",
        max_fewshot=3,
        files=("mbpp/mbpp.jsonl",),
        columns={"task_id": NUMBER, "text": TEXT, "code": TEXT, "test_list": THREE_TEXTS},
        runs_code=True,
    ),
    "ifeval": _Stock(
        task="ifeval",
        load=ifeval.load_ifeval,
        domain="instructions",
        metric="prompt_level_strict_acc,none",
        max_fewshot=0,
        files=("ifeval/input_data.jsonl",),
        columns={"key": NUMBER, "prompt": TEXT, "instruction_id_list": TEXTS, "kwargs": OBJECTS},
        split="train",
    ),
}

_RELEASED: dict[str, dict[str, Any]] = {
    "math500": {"load": released.load_math500},
    "humaneval": {"load": released.load_humaneval},
    "mbpp": {"load": released.load_mbpp, "metric": "pass_at_1,none"},
    "ifeval": {"metric": "prompt_level_loose_acc,none"},
}
"""What is not as in today's lm-eval."""


class PaperBenchmark(Benchmark):
    """A benchmark of the paper: questions, prompts, stop strings and scoring of lm-eval's task, or of the release.

    The tasks are ``gsm8k_cot``, ``minerva_math500``, ``humaneval_instruct``, ``mbpp_instruct`` and ``ifeval``. Code is
    scored in :class:`~tabom.sandbox.Sandbox` instead of lm-eval's own process.

    Args:
        name: Which one.
        data_dir: Folder with ``gsm8k/test.jsonl``, ``math500/test.jsonl``, ``humaneval/HumanEval.jsonl.gz``,
            ``mbpp/mbpp.jsonl`` (tasks 11 to 510 are asked) or ``ifeval/input_data.jsonl``, as they are released; None
            reads the data set of the hub.
        num_fewshot: Answered questions ahead of each one, the paper has none. Up to 8 for gsm8k, 4 for math500, 3 for
            mbpp; the others have no such examples.
        allow_code_execution: Needed by humaneval and mbpp: programs that the model wrote are run on this machine, in
            the sandbox.
        variant: ``lm_eval``: the tasks as lm-eval has them today; ``released``: prompts, scoring and headline of the
            paper's released evaluation (:mod:`tabom.evaluation.benchmarks.released`), and the text of a response with
            its special tokens.

    Raises:
        TabomError: If there is no such benchmark, or fewer examples than asked for, or code may not be run.
    """

    def __init__(
        self,
        name: Literal["gsm8k", "math500", "humaneval", "mbpp", "ifeval"],
        data_dir: str | None = None,
        num_fewshot: int = 0,
        allow_code_execution: bool = False,
        variant: Literal["lm_eval", "released"] = "lm_eval",
    ) -> None:
        require(name in _STOCK, f"name: expected {', '.join(_STOCK)}, got {name!r}")
        self._is_released = variant == "released"
        stock = _STOCK[name]
        if self._is_released:
            stock = dataclasses.replace(stock, max_fewshot=0, **_RELEASED.get(name, {}))
        require(
            0 <= num_fewshot <= stock.max_fewshot,
            f"num_fewshot: expected 0 to {stock.max_fewshot} for {name}, got {num_fewshot}",
        )
        require(
            allow_code_execution or not stock.runs_code,
            f"allow_code_execution: {name} runs the programs that the model writes on this machine, in a sandbox; "
            "expected true to allow that, got false",
        )
        self.name = name
        self.data_dir = Path(data_dir) if data_dir is not None else None
        self.domain = stock.domain
        self.metric = stock.metric
        self.num_fewshot = num_fewshot
        self.runs_code = stock.runs_code
        self.keeps_special_tokens = self._is_released
        self._stock = stock

    def load(self) -> "Task":
        """The stock task; its rows are in memory if they come from ``data_dir``."""
        with loading(self.name, "its data set on the hub or in the cache of datasets; data_dir names local files"):
            if self.name == "ifeval":
                ifeval.prepare_checkers()
            source = in_memory(self._splits(self.data_dir)) if self.data_dir is not None else {}
            return self._stock.load({"num_fewshot": self.num_fewshot, **source})

    def settings(self) -> dict[str, Any]:
        """Task, version of lm-eval, the file's digest, and a variant that is not lm-eval's own."""
        return {
            "task": self._stock.task,
            "lm_eval": package_version("lm_eval"),
            "num_fewshot": self.num_fewshot,
            "data": "hub" if self.data_dir is None else self._digest(self.data_dir),
            **({"variant": "released"} if self._is_released else {}),
            **(ifeval.checker_settings() if self.name == "ifeval" else {}),
            **({"limits": dataclasses.asdict(Limits())} if self.runs_code else {}),
        }

    def _digest(self, data_dir: Path) -> str:
        path = find_file(data_dir, self._stock.files)
        return f"{path.name} sha256:{file_sha256(path)}"

    def _splits(self, data_dir: Path) -> dict[str, list[Mapping[str, Any]]]:
        path = find_file(data_dir, self._stock.files)
        rows: list[Mapping[str, Any]] = []
        for where, row in read_objects(path, self._stock.columns):
            if self.name == "ifeval":
                ifeval.check_instructions(where, row)
            rows.append(row)
        is_mbpp = self.name == "mbpp"
        splits = code.split_mbpp(str(path), rows, self.num_fewshot or 0) if is_mbpp else {self._stock.split: rows}
        require(bool(splits[self._stock.split]), f"{path}: expected questions, found none")
        return splits
