"""What the pages tell people to write and to type runs."""

import re
import shlex
import subprocess
import sys

import pytest
from helpers import write_trajectories

SHORT = [
    "--trainer.max_steps=4",
    "--trainer.val_check_interval=4",
    "--trainer.logger=false",
    "--model.lr_scheduler.num_warmup_steps=1",
    "--data.batch_size=8",
    "--data.validation.num_validation_prompts=4",
    "--data.validation.num_base_examples=4",
]


def blocks(text, language):
    """(title, content) of the page's blocks in a language."""
    return re.findall(rf'^```{language}(?: title="([^"]+)")?\n(.*?)^```', text, re.DOTALL | re.MULTILINE)


# https://github.com/Lightning-AI/pytorch-lightning/issues/21438
@pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning")
@pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning")
def test_python_of_readme_and_library_page_runs(repository, tmp_path, monkeypatch, checkpoint, tokenizer, capsys):
    (tmp_path / "runs/demo").mkdir(parents=True)
    (tmp_path / "runs/demo/base").symlink_to(checkpoint)
    write_trajectories(tmp_path / "runs/demo/trajectories", tokenizer)
    monkeypatch.chdir(tmp_path)
    text = "".join((repository / page).read_text() for page in ("README.md", "docs/library.md"))
    assert len(re.findall(r'"sudoku [0-4]{16}="', text)) == 2
    for long, short in (
        ("batch_size=48", "batch_size=4"),
        ("=150", "=2"),
        ("num_warmup_steps=15", "num_warmup_steps=1"),
        ("base_domains={", "validation=ValidationSizes(4, 4, 4), base_domains={"),
        ("import TrajectoryDataModule", "import TrajectoryDataModule, ValidationSizes"),
    ):
        assert long in text
        text = text.replace(long, short)
    names = {"__name__": "page"}
    for _, code in blocks(text, "python"):
        exec(compile(code, "README.md and docs/library.md", "exec"), names)
    out = capsys.readouterr().out
    assert "steps" in out
    assert "tensor([0.0667])" in out
    assert (tmp_path / "runs/library/weights/model.safetensors").is_file()


@pytest.mark.slow  # eight commands, the sweep's runs among them
def test_the_page_on_ones_own_task_runs_from_an_empty_directory(repository, tmp_path, monkeypatch):
    text = (repository / "docs/own_task.md").read_text()
    for language in ("python", "yaml"):
        for title, content in blocks(text, language):
            (tmp_path / title).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(repository))
    commands = [line for _, content in blocks(text, "bash") for line in content.splitlines()]
    for command in commands:
        words = shlex.split(command)
        assert words[0] == "tabom"
        if words[1] == "fit":
            words += SHORT
        if words[1] == "predict":
            words += ["--data.num_queries=30", "--data.queries_per_shard=30"]
        if words[1] == "sweep":
            words += ["--", *(word for word in SHORT if "logger" not in word)]
        if words[1] == "sweep" or "demo/sft_sd" in words:
            words += ["--data.only_verified=false"]  # four steps teach no base to write backwards
        command = [sys.executable, "-m", "tabom", *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, (command, done.stderr[-2000:])
    assert "gamma" in (tmp_path / "sweep.html").read_text()
    assert "focal" in (tmp_path / "mine.html").read_text()


def test_the_site_is_built_without_a_warning(repository, tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(command, cwd=repository, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    pages = {path.stem for path in (repository / "docs").glob("*.md")} - {"index"}
    built = {path.parent.name for path in (tmp_path / "site").rglob("index.html")}
    assert pages <= built
    assert "pairwise_ranking_loss" in (tmp_path / "site/api/index.html").read_text()


def test_every_page_is_in_the_navigation(repository):
    text = (repository / "mkdocs.yml").read_text()
    for page in (repository / "docs").glob("*.md"):
        assert f": {page.name}\n" in text
