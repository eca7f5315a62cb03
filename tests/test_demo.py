"""The demo's own commands on a model and data that are small enough for a test."""

import json
import shutil
from pathlib import Path

import pytest
from helpers import slow

from tabom.cli.main import main
from tabom.demo import stages
from tabom.demo.stages import (
    FULL_METHODS,
    FULL_OUTPUT_DIR,
    METHODS,
    OUTPUT_DIR,
    Demo,
    FullDemo,
    Training,
)
from tabom.errors import TabomError
from tabom.reporting.names import human_name
from tabom.storage.run_record import find_records
from tabom.tasks import Sudoku4x4

SMALL = (
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=2",
    "--model.lr_scheduler.num_warmup_steps=1",
    "--model.lr_scheduler.num_training_steps=4",
    "--data.batch_size=4",
    "--data.validation.num_validation_prompts=3",
    "--data.validation.num_base_examples=4",
)


OVERRIDES = {
    "fit": list(SMALL),
    "predict": ["--data.num_queries=20"],
    "test": ["--data.validation.num_base_examples=4", "--data.validation.num_test_prompts=3"],
}


@pytest.fixture
def elsewhere(monkeypatch, tmp_path):
    """A working directory where all answers verify, since four steps teach nothing."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda self, example, response: True)


@pytest.fixture
def small_demo(elsewhere, tmp_path, repository):
    public = tmp_path / "public.csv"
    public.write_text("Puzzle,Solution\n" + "1204341221434321,1234341221434321\n" * 500)
    return Demo(repository / "configs" / "demo", seeds=[3], public_test=public, overrides=OVERRIDES)


@pytest.fixture
def small_full_demo(elsewhere, monkeypatch, repository):
    """Two methods of the full demo, one of them off the frontier; made anew, as by another process."""
    monkeypatch.setattr(FullDemo, "methods", ["sft_gt", "sft_sd"])

    def make(**changes):
        options = {"seeds": [3], "overrides": OVERRIDES, "learning_rates": [1e-2, 1e-3], **changes}
        return FullDemo(repository / "configs" / "demo", **options)

    return make


def rows(page, caption):
    """Cells of one table of a page in Markdown."""
    text = page.read_text().partition(f"**{caption}")[2].partition("\n\n")[2].partition("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in text.splitlines() if not line.startswith("| ---")]


@pytest.mark.parametrize("methods", [["tabom"], *slow([*METHODS])], ids=["one method", "all methods"])
def test_all_stages_and_what_they_leave(small_demo, methods, monkeypatch, capsys):
    monkeypatch.setattr(Demo, "methods", methods)
    small_demo.run()
    kl = []
    for kind in ("test", "public"):
        head, base, *others = rows(OUTPUT_DIR / f"{kind}.md", "After post-training")
        assert [row[0] for row in others] == list(map(human_name, methods))
        accuracies = {"accuracy at 1 token per step, % ↑", "accuracy at 2 tokens per step, % ↑"}
        columns = accuracies | {"NELBO change ↓", "KL(base ‖ model) ↓", "TDS", "order agreement ↑"}
        assert columns <= set(head)
        assert base[head.index("KL(base ‖ model) ↓")] == "0.000 ± 0.000"
        kl += [row["kl"] for row in (r.last("test") for r in find_records([OUTPUT_DIR])) if row]
        assert (OUTPUT_DIR / f"{kind}.html").read_text().startswith("<!DOCTYPE html>")
        assert (OUTPUT_DIR / f"figures-{kind}/frontier.png").stat().st_size > 1000
    assert len(set(kl)) == 1 + len(methods)
    out = capsys.readouterr().out
    assert "tabom fit --config" in out
    assert "After post-training" in out
    assert "Time, throughput, tokens and device hours" in out
    small_demo.run()
    assert commands_of(capsys.readouterr().out) == []


def commands_of(out):
    return [line.split()[1] for line in out.splitlines() if line.startswith("tabom ")]


@pytest.mark.slow
def test_full_demo_goes_on_where_it_stopped(small_full_demo, monkeypatch, capsys):
    """Killed in its third training: the shared stages and the two finished runs are not done again."""
    run = FullDemo._run

    def run_until_killed(self, training):
        if training.config == "sft_sd" and training.learning_rate == 1e-2:
            raise KeyboardInterrupt
        return run(self, training)

    monkeypatch.setattr(FullDemo, "_run", run_until_killed)
    with pytest.raises(KeyboardInterrupt):
        small_full_demo().run()
    assert commands_of(capsys.readouterr().out) == ["fit", "predict", "test", *["fit", "test"] * 2]
    assert not (FULL_OUTPUT_DIR / "test.md").exists()

    monkeypatch.setattr(FullDemo, "_run", run)
    small_full_demo(learning_rates=[1e-3, 1e-2]).run()
    out = capsys.readouterr().out
    assert commands_of(out) == ["fit", "test", *["test"] * len(FullDemo.interpolations)]
    assert "3 of 3 runs done" in out
    assert {path.name for path in FULL_OUTPUT_DIR.iterdir() if path.is_file()} == {
        "settings.json",
        *(f"test{suffix}.{ending}" for suffix in FullDemo.metrics for ending in ("md", "html")),
    }
    between = [f"SFT-SD x {weight:g}" for weight in reversed(FullDemo.interpolations)]
    _, *table = rows(FULL_OUTPUT_DIR / "test.md", "After post-training")
    assert [row[:3] for row in table] == [
        ["base", "-", "1"],
        ["SFT-GT", "0.01", "1"],
        ["SFT-SD", "0.001", "1"],
        ["SFT-SD", "0.01", "1"],
        *([method, "0.01", "1"] for method in between),
    ]
    measured = {record.run_id: record.last("test").get("kl") for record in find_records([FULL_OUTPUT_DIR])}
    assert len({kl for kl in measured.values() if kl is not None}) == len(table)
    for suffix in FullDemo.metrics:
        _, *frontier = rows(FULL_OUTPUT_DIR / f"test{suffix}.md", "Accuracy at matched forgetting")
        assert [row[:2] for row in frontier] == [["SFT-SD", "1"], ["SFT-SD (lr 0.01) towards the base", "1"]]
        assert all("(+0.0)" in cell for cell in frontier[1][3:])


def test_commands_of_one_run_of_the_full_demo(small_full_demo, monkeypatch, tmp_path):
    """The seed is the training's alone: all models are tested under the same masks. The public test logs nothing."""
    commands = []

    def record(self, *words):
        commands.append(words)
        return "best.ckpt"

    monkeypatch.setattr(FullDemo, "_command", record)
    public = tmp_path / "public.csv"
    name = "sft_sd-lr0.001-seed3"
    assert small_full_demo(public_test=public)._run(Training("sft_sd", seed=3, learning_rate=1e-3)) == [name]
    place, rate, checkpoint = f"--run_dir=runs/demo-full/{name}", "--model.optimizer.lr=0.001", "--ckpt_path=best.ckpt"
    assert commands == [
        ("fit", "sft_sd", place, "--seed_everything=3", rate, "--ckpt_path=last"),
        ("test", "sft_sd", f"{place}-test", checkpoint),
        (
            *("test", "sft_sd", f"{place}-public", checkpoint),
            "--data.validation.num_test_prompts=500",
            "--trainer.logger=false",
            f"--data.task.test_file={public}",
        ),
    ]


def test_a_full_demo_is_not_mixed_with_another(small_full_demo, tmp_path, monkeypatch):
    """What the results depend on is looked at before anything runs."""
    configs = tmp_path / "configs"
    monkeypatch.setattr(FullDemo, "_command", lambda *words: pytest.fail("expected an error before"))
    first = small_full_demo()
    path = FULL_OUTPUT_DIR / "settings.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps(first._settings()))
    advice = "give what was given before, or move runs/demo-full away to start afresh"

    with pytest.raises(TabomError) as error:
        small_full_demo(seeds=[3, 4]).run()
    assert str(error.value) == f"{path}: expected seeds [3], of the results that are there, got [3, 4]; {advice}"
    with pytest.raises(TabomError, match=r"expected learning_rates \[0.001, 0.01\], of the results .* got \[0.01\]; "):
        small_full_demo(learning_rates=[1e-2]).run()

    shutil.copytree(first.configs.parent, configs)
    demo_of_edited = small_full_demo()
    demo_of_edited.configs = configs / "demo"
    part, own = configs / "parts/demo_trainer.yaml", configs / "demo/sft_sd.yaml"
    for edited, old, new in ((part, "max_steps: 150", "max_steps: 151"), (own, "NelboObjective", "DInferObjective")):
        text = edited.read_text()
        assert old in text
        edited.write_text(text.replace(old, new))
        with pytest.raises(TabomError, match=rf"expected {edited.name} \w{{12}}, of the results .* got \w{{12}}; "):
            demo_of_edited.run()
        edited.write_text(text)
    own.unlink()
    with pytest.raises(TabomError, match=r"demo/sft_sd.yaml: expected a file, found none"):
        demo_of_edited.run()


def test_other_trajectories_are_other_results(small_full_demo, monkeypatch):
    directory = OUTPUT_DIR / "trajectories"
    directory.mkdir(parents=True)
    (directory / "manifest.json").write_text("one")
    (OUTPUT_DIR / "base").mkdir()
    (OUTPUT_DIR / "base" / "model.safetensors").write_text("")
    FULL_OUTPUT_DIR.mkdir()
    settings = small_full_demo()._settings() | {"trajectories": "of another"}
    (FULL_OUTPUT_DIR / "settings.json").write_text(json.dumps(settings))
    with pytest.raises(
        TabomError, match='expected trajectories "of another", of the results that are there, got 7692c3ad'
    ):
        small_full_demo().run()


def test_full_demo_wants_different_positive_values(small_full_demo):
    with pytest.raises(TabomError) as error:
        small_full_demo(seeds=[1, 1])
    assert str(error.value) == "seeds: expected different values, got [1, 1]"
    with pytest.raises(TabomError) as error:
        small_full_demo(learning_rates=[1e-3, 0.0])
    assert str(error.value) == "learning_rates: expected values above 0, got [0.001, 0.0]"


def test_plan_of_the_full_demo(repository):
    """Ten methods at three rates, and SFT-GT at the middle one; each has its config."""
    trainings = FullDemo(repository / "configs" / "demo", seeds=[1, 2])._trainings()
    assert len(trainings) == 2 * (10 * 3 + 1)
    assert [t.learning_rate for t in trainings if t.config == "sft_gt"] == [1e-3, 1e-3]
    assert len(FULL_METHODS) == 11
    assert all((repository / "configs" / "demo" / f"{config}.yaml").is_file() for config in FULL_METHODS)


def test_options(monkeypatch, tmp_path, repository):
    monkeypatch.chdir(repository)
    monkeypatch.setattr(stages, "OUTPUT_DIR", tmp_path / "runs")
    seen = []
    monkeypatch.setattr(Demo, "run", lambda self: seen.append(self))
    main(["demo"])
    main(["demo", "--seeds", "5", "6", "--public_test", "a.csv"])
    assert [(list(d.seeds), d.public_test) for d in seen] == [([1, 2], None), ([5, 6], Path("a.csv"))]


def test_options_of_the_full_demo(monkeypatch, repository, capsys):
    monkeypatch.chdir(repository)
    seen = []
    monkeypatch.setattr(FullDemo, "run", lambda self: seen.append(self))
    main(["demo", "--full"])
    main(["demo", "--full", "--seeds", "5", "--learning_rates", "1e-3", "2e-3"])
    assert [(list(d.seeds), list(d.learning_rates)) for d in seen] == [
        ([1, 2], [3e-4, 1e-3, 2e-3]),
        ([5], [1e-3, 2e-3]),
    ]
    with pytest.raises(SystemExit):
        main(["demo", "--learning_rates", "1e-3"])
    expected = "tabom: error: learning_rates: expected --full beside it, which compares learning rates\n"
    assert capsys.readouterr().err == expected


@pytest.mark.slow
def test_the_base_is_partly_competent(monkeypatch, tmp_path, repository):
    """The demo's own pretraining, in full: what is left to learn decides whether the comparison says anything.

    The last bits of a processor decide which base it is: 42 to 64 % were seen on three of them.
    """
    from tabom.cli.lightning_cli import run

    monkeypatch.chdir(tmp_path)
    config = repository / "configs" / "demo" / "pretrain.yaml"
    cli = run(["fit", "--config", str(config), "--data.validation.num_validation_prompts=300"])
    assert 0.25 <= cli.trainer.callback_metrics["validate/accuracy_1_per_step"] <= 0.75
