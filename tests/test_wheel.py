"""What is in the wheel, used from an empty directory with nothing of the repository."""

import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from pages import blocks, command_lines
from test_demo import small

SHORT = [
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=4",
    "--trainer.logger=false",
    "--model.lr_scheduler.num_warmup_steps=1",
    "--data.batch_size=8",
    "--data.validation.num_validation_prompts=4",
    "--data.validation.num_base_examples=4",
]
ALL_ROWS = "--data.only_verified=false"  # four steps teach no base to write backwards


@pytest.fixture(scope="module")
def installed(repository, tmp_path_factory):
    """The wheel's content in a directory of its own."""
    place = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(place)]
    subprocess.run(command, cwd=repository, check=True, capture_output=True, timeout=300)
    with zipfile.ZipFile(next(place.glob("*.whl"))) as wheel:
        wheel.extractall(place / "site")
    return place / "site"


def tabom(installed, directory, *words):
    env = os.environ | {"PYTHONPATH": str(installed), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tabom", *words]
    done = subprocess.run(command, cwd=directory, env=env, capture_output=True, text=True, timeout=1800)
    if done.returncode:
        raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
    return done


def test_configurations_and_sweeps_are_found_by_name(installed, tmp_path):
    printed = tabom(installed, tmp_path, "fit", "--config=demo/tabom", "--print_config=skip_default").stdout
    assert "TabomObjective" in printed
    assert "path: runs/demo/base" in printed  # through a part, beside it in the wheel


def test_init_copies_them(installed, tmp_path, repository):
    tabom(installed, tmp_path, "init", "mine")
    for folder in ("configs", "sweeps"):
        copied = {path.relative_to(tmp_path / "mine") for path in (tmp_path / "mine" / folder).rglob("*.yaml")}
        assert copied == {path.relative_to(repository) for path in (repository / folder).rglob("*.yaml")}
    with pytest.raises(subprocess.CalledProcessError) as error:
        tabom(installed, tmp_path, "init", "mine")
    assert error.value.stderr == "tabom: error: mine/configs: expected none yet, found one\n"


@pytest.mark.slow  # seven processes
def test_the_demo(installed, tmp_path, monkeypatch):
    """The pipeline file in the wheel has small steps; all else is as it comes."""
    monkeypatch.chdir(tmp_path)
    shipped = installed / "tabom/configs/pipelines/demo.yaml"
    content = shipped.read_text()
    shipped.write_text(Path(small("demo", methods=[], with_replay=["tabom"])).read_text())
    Path("small.yaml").unlink()
    try:
        tabom(installed, tmp_path, "demo", "--seeds=3", "--jobs=2")
    finally:
        shipped.write_text(content)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    assert "TABOM + replay of own text" in Path("runs/demo/test.html").read_text()


@pytest.mark.slow  # eight commands
def test_own_task_and_objective_with_a_sweep_and_reports(installed, repository, tmp_path, monkeypatch, start_copy):
    """The page on them, from its files to its last command."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(installed))
    text = (repository / "docs/own_task.md").read_text()
    for _, title, content in blocks(text):
        if title:
            (tmp_path / title).write_text(content)
    for program, verb, *words in (
        line for language, _, content in blocks(text) if language == "bash" for line in command_lines(content)
    ):
        assert program == "tabom"
        further = {
            "fit": [*SHORT, *([ALL_ROWS] if "demo/sft_sd" in words else [])],
            "predict": ["--data.num_queries=30", "--data.queries_per_shard=30", "--trainer.logger=false"],
            "sweep": ["--seeds=1", "--", *(word for word in SHORT if "logger" not in word), ALL_ROWS],
        }
        command = start_copy(verb, *words, *further.get(verb, []))
        said = command.communicate()[1]
        assert command.returncode == 0, said
    assert "focal" in (tmp_path / "mine.html").read_text()
    assert {"0.5", "1", "2"} <= set(re.findall(r"gamma ([\d.]+)", (tmp_path / "sweep.html").read_text()))
