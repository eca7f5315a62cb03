"""What the pages tell people to write and to type runs."""

import re
import subprocess
import sys

import pytest
from helpers import write_trajectories
from pages import blocks


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
    assert len(re.findall(r'"sudoku [0-4]{16}="', text)) == 3
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
    for language, _, code in blocks(text):
        if language == "python":
            exec(compile(code, "README.md and docs/library.md", "exec"), names)
    out = capsys.readouterr().out
    assert "steps: " in out
    assert any(line.count(".") >= 18 for line in out.splitlines())
    assert "tensor([0.0667])" in out
    assert (tmp_path / "runs/library/weights/model.safetensors").is_file()


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
