"""The README's pictures are taken of a finished demo, by the script beside the pages."""

import itertools
import shutil
import subprocess
import sys

import pytest
from helpers import write_trajectories
from PIL import Image, ImageChops, ImageSequence
from records import check, write_record

from tabom.cli.main import main


@pytest.fixture
def finished(tmp_path, checkpoint, tokenizer):
    """A directory as `make demo` leaves it, as far as it is looked at."""
    path = tmp_path / "demo"
    shutil.copytree(checkpoint, path / "base")
    write_trajectories(path / "trajectories", tokenizer, settings={"task": "tabom.tasks.sudoku.Sudoku4x4"})
    write_record(path / "tabom", lines=[check("validate", accuracy_1_per_step=0.5)])
    main(["report", str(path), "-o", str(path / "test.html")])
    return path


def width_of(path):
    with Image.open(path) as image:
        return image.width


def take(repository, run, output_dir):
    words = [sys.executable, "docs/pictures.py", f"--run={run}", f"--output_dir={output_dir}"]
    return subprocess.run(words, cwd=repository, capture_output=True, text=True)


@pytest.mark.slow  # a browser, and a picture for every step
def test_both_pictures(browser, repository, finished, tmp_path):
    done = take(repository, finished, tmp_path / "pictures")
    assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "pictures/viewer.gif") as film:
        assert (film.width, film.n_frames, film.info["loop"]) == (640, 20, 0)
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(film)]
    assert all(ImageChops.difference(*pair).getbbox() for pair in itertools.pairwise(frames))
    assert (tmp_path / "pictures/viewer.gif").stat().st_size < 600_000
    assert width_of(tmp_path / "pictures/report.png") == 1280


def test_those_in_the_readme_are_small(repository):
    for name, width in (("viewer.gif", 640), ("report.png", 1280)):
        path = repository / "docs" / name
        assert f"](docs/{name})" in (repository / "README.md").read_text()
        assert path.stat().st_size < 600_000
        assert width_of(path) == width


@pytest.mark.slow  # a process that imports torch
def test_a_run_that_is_not_there_is_named(repository, tmp_path):
    done = take(repository, tmp_path / "none", tmp_path)
    path = tmp_path / "none/trajectories/manifest.json"
    expected = f"pictures: error: {path}: expected that of a finished demo, found no such file; run make demo\n"
    assert (done.returncode, done.stderr) == (1, expected)
