"""What is in the wheel, used from an empty directory with nothing of the repository."""

import os
import subprocess
import sys
import zipfile

import pytest


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
    code = f"import sys; sys.path.insert(0, {str(installed)!r}); import tabom.cli.main as m; m.main()"
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=directory, env=env, check=True, capture_output=True, text=True, timeout=900)


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
