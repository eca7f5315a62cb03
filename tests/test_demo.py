"""The shipped pipelines: their commands are understood, and small versions of them run from end to end."""

import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import parsed, wait_for

from tabom.cli.main import VERBS, main
from tabom.cli.verbs import report, trajectories
from tabom.jobs.job import is_locked
from tabom.modules.checkpoints import read_checkpoint
from tabom.pipelines import command
from tabom.pipelines.file import read_pipeline
from tabom.shipped import find
from tabom.storage.files import file_sha256
from tabom.storage.run_record import find_records

PIPELINES = sorted((Path(__file__).parents[1] / "configs/pipelines").glob("*.yaml"))
PARSERS = {"report": report, "trajectories": trajectories}
SMALL = {
    "fit": {
        "trainer.max_steps": 4,
        "trainer.val_check_interval": 2,
        "model.lr_scheduler.num_warmup_steps": 1,
        "data.batch_size": 4,
        "data.validation.num_validation_prompts": 3,
        "data.validation.num_base_examples": 4,
    },
    "predict": {"data.num_queries": 20},
    "test": {"data.validation.num_base_examples": 4, "data.validation.num_test_prompts": 3},
}


@pytest.fixture
def here(monkeypatch, tmp_path, repository):
    """An empty working directory, from which other processes find the package."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    return tmp_path


def small(name, **parameters):
    """A file of a shipped pipeline with small steps; they teach nothing, so that wrong answers count as well."""
    content = yaml.safe_load(find(f"pipelines/{name}", "configs").read_text())
    content["parameters"] |= parameters

    def shrink(entries):
        for entry in entries:
            if "steps" in entry:
                shrink(entry["steps"])
            elif entry["verb"] in SMALL:
                is_training = "pretrain" not in str(entry["config"]) and entry["verb"] != "predict"
                further = {"data.only_verified": False} if is_training else {}
                further |= {"data.num_samples": 2} if entry["name"].endswith("text") else {}
                given, ours = entry.get("options", {}), SMALL[entry["verb"]] | further
                given = given if isinstance(given, list) else [given]
                entry["options"] = [*given, ours] if name == "study" else [ours, *given]

    shrink(content["steps"])
    Path("small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return "small.yaml"


def rows(page, caption):
    """Cells of one table of a page in Markdown."""
    text = page.read_text().partition(f"**{caption}")[2].partition("\n\n")[2].partition("\n\n")[0]
    return [line.strip("| ").split(" | ") for line in text.splitlines() if not line.startswith("| ---")]


@pytest.mark.parametrize("path", PIPELINES, ids=lambda path: path.stem)
def test_every_command_is_understood(path, monkeypatch, repository):
    """Every step that differs from others in more than its values; each configuration has its own test."""
    monkeypatch.chdir(repository)
    known = yaml.safe_load(path.read_text())["parameters"]
    given = {
        name: value for name, value in {"public_tests": ["puzzles.csv"], "trainer": "cpu"}.items() if name in known
    }
    pipeline = read_pipeline(path.relative_to(repository), given, list(VERBS))
    seen = set()
    for step in pipeline.steps.values():
        verb, *words = pipeline.command(step, best=lambda step: f"{step.slug}.ckpt")
        kind = (verb, *sorted(step.options))
        if kind in seen:
            continue
        seen.add(kind)
        if verb in PARSERS:
            PARSERS[verb].parser().parse_args([verb, *words])
        else:
            assert parsed(verb, *words, "--trainer.logger=false").config[verb].run_dir.startswith("runs/")
    assert path.read_text().startswith("# ")


def test_the_demos_steps(monkeypatch, repository):
    monkeypatch.chdir(repository)
    methods = ("sft_gt", "sft_sd", "tabom", "sft_sd with replay", "tabom with replay")
    pipeline = read_pipeline(find(command.DEMO, "configs"), {"seeds": [3]}, list(VERBS))
    assert [name for name in pipeline.steps if name.startswith("fit")] == [f"fit {method} seed 3" for method in methods]
    (test,) = (step for name, step in pipeline.steps.items() if name == "test tabom seed 3")
    assert "seed_everything" not in test.options  # all models are tested under the same masks


def test_the_full_demos_steps(monkeypatch, repository):
    """Ten methods at three rates, and SFT-GT at the middle one; each has its config. The base is the demo's."""
    monkeypatch.chdir(repository)
    pipeline = read_pipeline(find(command.DEMO_FULL, "configs"), {}, list(VERBS))
    demo = read_pipeline(find(command.DEMO, "configs"), {}, list(VERBS))
    same = [name for name, step in pipeline.steps.items() if demo.steps.get(name) == step]
    assert same == ["pretrain", "distill"]
    assert pipeline.output_dir == demo.output_dir
    trainings = [step for step in pipeline.steps.values() if step.name.startswith("full fit")]
    assert len(trainings) == 2 * (10 * 3 + 1)
    assert [step.options["model.optimizer.lr"] for step in trainings if "sft_gt" in step.name] == [1e-3, 1e-3]
    between = [step.options["model.interpolation"] for step in pipeline.steps.values() if "between" in step.name]
    assert between == [0.25, 0.5, 0.75] * 2


@pytest.mark.slow  # a score of steps
def test_a_small_study(here, capsys):
    """Two bases and six methods, one of each kind; the reports compare them."""
    content = yaml.safe_load(find("pipelines/study", "configs").read_text())["parameters"]
    (sudoku, *_), methods = content["domains"], {method["name"]: method for method in content["methods"]}
    short = {"trainer.max_steps": 4, "trainer.val_check_interval": 4}
    domains = [{**sudoku, "pretraining": short, "bases": [{"base": base, "pool": 20} for base in (1, 2)]}]
    names = ("sft_gt", "sft_gt_all", "sft_sd", "sft_sd_text", "tabom")
    (manual,) = (method for method in content["further"] if method["name"] == "tabom_manual")
    few = {"methods": [methods[name] for name in names], "further": [manual], "rates": [1.0e-4, 1.0e-3]}
    main(["pipeline", small("study", domains=domains, **few), "--jobs=2"])
    text = Path("runs/study/sudoku-four-per-step.md").read_text()
    assert "2 base models; each is one replicate" in text
    for name in ("SFT-GT", "SFT-GT + all queries", "SFT-SD + replay of own text", "TABOM"):
        assert any(line.startswith(f"| {name} |") for line in text.splitlines()), text
    capsys.readouterr()


def test_the_studys_steps(monkeypatch, repository):
    """Nine methods and nine further ones at four rates, on every base of every domain."""
    monkeypatch.chdir(repository)
    pipeline = read_pipeline(find("pipelines/study", "configs"), {}, list(VERBS))
    domains = yaml.safe_load(pipeline.path.read_text())["parameters"]["domains"]
    num_bases = {domain["domain"]: len(domain["bases"]) for domain in domains}
    assert num_bases["sudoku"] == 5
    for what in ("fit", "test"):
        steps = [step for name, step in pipeline.steps.items() if f" {what} " in name and not name.endswith("base")]
        assert len(steps) == sum(num_bases.values()) * (9 + 9) * 4
    pretraining = [step for name, step in pipeline.steps.items() if name.endswith("pretrain")]
    bases = {(step.options["seed_everything"], str(step.options["data.task"])) for step in pretraining}
    assert len(bases) == len(pretraining) == sum(num_bases.values())


def test_options(monkeypatch, repository):
    seen = []
    monkeypatch.setattr(command, "run_file", lambda *given: seen.append(given))
    monkeypatch.chdir(repository)
    main(["demo", "--jobs=3"])
    main(["demo", "--seeds", "5", "6", "--public_test", "a.csv", "--jobs=1", "--rerun_changed"])
    main(["demo", "--full", "--jobs=1"])
    assert seen == [
        (command.DEMO, {}, 3, False),
        (command.DEMO, {"seeds": [5, 6], "public_tests": [f"{repository}/a.csv"]}, 1, True),
        (command.DEMO_FULL, {}, 1, False),
    ]


@pytest.mark.slow
def test_a_small_demo(here, capsys):
    """Every step is a process, which takes a few seconds to start."""
    public = here / "public.csv"
    public.write_text("Puzzle,Solution\n" + "1204341221434321,1234341221434321\n" * 500)
    path = small("demo", seeds=[3], methods=["sft_sd"], with_replay=["tabom"], public_tests=[str(public)])
    main(["pipeline", path, "--jobs=2"])
    out = capsys.readouterr().out
    assert out.count("\n") < 80
    kl = []
    for kind in ("test", "public"):
        head, base, *others = rows(Path(f"runs/demo/{kind}.md"), "After post-training")
        assert [row[0] for row in others] == ["SFT-SD", "TABOM + replay of own text"]
        assert base[head.index("KL(base ‖ model) ↓")] == "0.000 ± 0.000"
        assert Path(f"runs/demo/{kind}.html").read_text().startswith("<!DOCTYPE html>")
        assert Path(f"runs/demo/figures-{kind}/frontier.png").stat().st_size > 1000
    kl = [row["kl"] for row in (record.last("test") for record in find_records([here / "runs/demo"])) if row]
    assert len(set(kl)) == 3
    shown = r"accuracy_1_per_step [\d.]+, kl [\d.e-]+; about \d:\d\d left"
    assert re.search(rf"\[8/13\] test tabom with replay seed 3: \d:\d\d, {shown}", out)
    main(["pipeline", path])
    assert capsys.readouterr().out == "small.yaml: 13 steps, 13 of them done; logs: runs/demo/steps/\n"


def test_the_example_of_the_documentation(monkeypatch, repository, tmp_path):
    monkeypatch.chdir(repository)
    example, *_ = re.findall(r"```yaml\n(.*?)```", (repository / "docs/pipelines.md").read_text(), re.DOTALL)
    (tmp_path / "example.yaml").write_text(example)
    pipeline = read_pipeline(tmp_path / "example.yaml", {}, list(VERBS))
    assert len(pipeline.steps) == 1 + 2 * 2 * 2 + 1
    test = pipeline.steps["test lr 0.001 seed 2"]
    assert test.needs == ["fit lr 0.001 seed 2"]
    assert pipeline.steps[test.needs[0]].options["data.path"] == "runs/demo/trajectories"


def test_rounds_name_their_parents(monkeypatch, repository):
    """Each distillation reads the checkpoint of the round before; every training begins with the base."""
    monkeypatch.chdir(repository)
    pipeline = read_pipeline(Path("configs/pipelines/rounds.yaml"), {}, list(VERBS))
    checkpoints = [pipeline.steps[f"round {n} distill"].options["ckpt_path"] for n in (1, 2)]
    assert checkpoints == [None, "runs/rounds/tabom-round1-seed1/checkpoints/last.ckpt"]
    assert all("backbone" not in word for step in pipeline.steps.values() for word in pipeline.command(step))
    (rule,) = pipeline.steps["round 2 fit"].rules
    assert rule.steps == ("round 0 validate", "round 1 fit")


def run_until_killed(seconds):
    """Start the small pipeline, and kill it with all that it has started; None waits for its end."""
    words = [sys.executable, "-m", "tabom", "pipeline", "small.yaml", "--jobs=2"]
    with Path("out.txt").open("w") as out, subprocess.Popen(words, stdout=out, stderr=out) as process:
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert process.wait(seconds) == 0, Path("out.txt").read_text()
            return Path("out.txt").read_text()
        process.kill()
    for lock in Path("runs/demo/steps").glob("*.lock"):
        wait_for(lambda lock=lock: lock.read_text() or not is_locked(lock))  # asked for, and still importing
        if is_locked(lock):
            os.killpg(int(lock.read_text()), signal.SIGKILL)
            wait_for(lambda lock=lock: not is_locked(lock))
    return None


def left():
    """Shards, and the weights of checkpoints."""
    shards = {str(path): path.read_bytes() for path in Path("runs").rglob("*.parquet")}
    checkpoints = {str(path): read_checkpoint(path)["state_dict"] for path in Path("runs").rglob("last.ckpt")}
    weights = {
        f"{path} {name}": tensor.numpy().tobytes() for path, s in checkpoints.items() for name, tensor in s.items()
    }
    return shards | weights | {str(path): path.read_bytes() for path in Path("runs").rglob("manifest.json")}


@pytest.mark.slow
def test_rounds_that_are_killed_end_with_the_same_bytes(here, monkeypatch):
    """Ten times at random moments, with all processes; each step takes seconds to start."""
    small("rounds")
    content = yaml.safe_load(Path("small.yaml").read_text())
    measured = ("validate", "test", "report")
    loop = next(entry for entry in content["steps"] if "steps" in entry)
    del loop["while_rises"]  # four steps raise nothing
    for entries in (content["steps"], loop["steps"]):
        entries[:] = [entry for entry in entries if entry.get("verb") not in measured]
    for name in ("whole", "killed"):
        (here / name).mkdir()
        (here / name / "small.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    monkeypatch.chdir(here / "whole")
    start = time.monotonic()
    assert run_until_killed(None).count("\n") == 2 + 6
    seconds = time.monotonic() - start
    whole = left()
    assert len([name for name in whole if name.endswith("manifest.json")]) == 3
    monkeypatch.chdir(here / "killed")
    draw = random.Random(0)
    ended = [run_until_killed(draw.uniform(0.02, 0.25) * seconds) for _ in range(10)]
    run_until_killed(None)
    print("killed before its end:", ended.count(None))
    assert left() == whole
    records = find_records([Path("runs/rounds")])
    (first, *_), (second, *_) = ([r for r in records if name in str(r.path)] for name in ("round1", "distill-2"))
    assert second.parent in {r.run_id for r in records if r.directory == first.directory}
    assert {r.data for r in records if r.verb == "fit"} == {
        file_sha256(Path(f"runs/rounds/{name}/manifest.json")) for name in ("trajectories-1", "mixed-2")
    }
