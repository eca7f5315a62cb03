"""Rows that are longer than the model's positions are named before anything is decoded or trained, by every verb."""

import json
from pathlib import Path

import pytest

from tabom.cli.lightning_cli import run
from tabom.errors import TabomError

MESSAGE = (
    r"^{}: expected at most {} tokens of prompt and response together, which the model has positions for "
    r"\(max_position_embeddings\), got \d+$"
)


def limit(number):
    file = Path("runs/demo/base/config.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": number}))


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("predict", "distill", "--data.num_queries=4", "--writer.output_dir=other"), "sudoku4x4/.*"),
        (("fit", "tabom", "--trainer.limit_val_batches=0"), "sudoku4x4/.*"),
        (("fit", "sft_gt", "--trainer.limit_val_batches=0"), "sudoku4x4/.*"),
        (("validate", "tabom", "--data.base_domains=null"), "sudoku4x4/.*"),
        (("test", "tabom"), ".*"),
    ],
)
def test_a_row_that_is_too_long(stage, tmp_path, words, name):
    limit(25)
    with pytest.raises(TabomError, match=MESSAGE.format(name, 25)):
        stage(*words)
    assert not list(tmp_path.rglob("*.ckpt"))


def test_evaluation(stage, repository):
    limit(25)
    config = str(repository / "configs/demo/evaluate.yaml")
    with pytest.raises(TabomError, match=MESSAGE.format("sudoku/0", 25)):
        run(["evaluate", "--config", config, "--trainer.logger=false", "--data.benchmark.num_examples=4"])


def test_rows_that_just_fit(stage):
    """Prompts of the demo have 24 tokens, responses 19."""
    limit(43)
    stage("fit", "tabom", "--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.callbacks=null")
