"""The demo's own commands on a model and data that are small enough for a test."""

import json
from pathlib import Path

import pytest
import torch

from tabom import demo
from tabom.cli import main
from tabom.demo import METHODS, OUTPUT_DIR, Demo, keep_earlier_results
from tabom.tasks import Sudoku4x4

SMALL = (
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--model.init_args.lr_scheduler.init_args.num_warmup_steps=1",
    "--model.init_args.lr_scheduler.init_args.num_training_steps=4",
    "--data.init_args.batch_size=4",
    "--data.init_args.evaluation.num_validation_prompts=3",
    "--data.init_args.evaluation.num_base_examples=4",
)


@pytest.fixture
def small_demo(monkeypatch, tmp_path, repository):
    """A demo whose answers all verify, since four steps teach nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda self, example, response: True)
    public = tmp_path / "public.csv"
    public.write_text("Puzzle,Solution\n" + "1204341221434321,1234341221434321\n" * 500)
    overrides = {
        "fit": list(SMALL),
        "predict": ["--data.init_args.num_queries=20"],
        "test": ["--data.init_args.evaluation.num_base_examples=4", "--data.init_args.evaluation.num_test_prompts=3"],
    }
    return Demo(repository / "configs" / "demo", seeds=[3], public_test=public, overrides=overrides)


def test_all_stages_and_what_they_leave(small_demo, capsys):
    results = small_demo.run()
    assert [(result.method, result.seed) for result in results] == [
        ("base", 0),
        *((method, 3) for method in METHODS),
    ]
    record = json.loads((OUTPUT_DIR / "results.json").read_text())
    assert [row["metrics"] for row in record["results"]] == [result.metrics for result in results]
    columns = {column.metric for column in demo.COLUMNS + demo.PUBLIC_COLUMNS}
    assert all(columns <= result.metrics.keys() for result in results)
    assert results[0].metrics["kl"] == 0
    assert all(result.metrics["kl"] > 0 for result in results[1:])
    assert len({result.metrics["kl"] for result in results}) == 1 + len(METHODS)

    table = (OUTPUT_DIR / "table.md").read_text()
    assert table.count("\n") == 2 + 1 + len(METHODS)
    assert (OUTPUT_DIR / "figure.png").stat().st_size > 1000
    out = capsys.readouterr().out
    assert "tabom fit --config" in out
    assert "4x4 Sudoku after post-training" in out
    assert set(record["seconds"]) == set(small_demo.seconds)


def test_earlier_results_are_kept(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    keep_earlier_results()
    assert capsys.readouterr().out == ""
    OUTPUT_DIR.mkdir(parents=True)
    (OUTPUT_DIR / "table.md").write_text("mine")
    keep_earlier_results()
    (aside,) = Path("runs").iterdir()
    assert (aside / "table.md").read_text() == "mine"
    assert capsys.readouterr().out == f"Earlier results are kept in {aside}\n"


def test_options(monkeypatch, tmp_path, repository):
    monkeypatch.chdir(repository)
    monkeypatch.setattr(demo, "OUTPUT_DIR", tmp_path / "runs")
    seen = []
    monkeypatch.setattr(Demo, "run", lambda self: seen.append(self))
    main(["demo"])
    main(["demo", "--seeds", "5", "6", "--public_test", "a.csv"])
    assert [(list(d.seeds), d.public_test) for d in seen] == [([1, 2], None), ([5, 6], Path("a.csv"))]


@pytest.mark.slow
def test_the_base_is_partly_competent(monkeypatch, tmp_path, repository):
    """The demo's own pretraining, in full: what is left to learn decides whether the comparison says anything."""
    from tabom.lightning_cli import run

    monkeypatch.chdir(tmp_path)
    torch.set_num_threads(2)
    config = repository / "configs" / "demo" / "pretrain.yaml"
    cli = run(["fit", "--config", str(config), "--data.init_args.evaluation.num_validation_prompts=300"])
    assert 0.25 <= cli.trainer.callback_metrics["validate/accuracy_1_per_step"] <= 0.6
