"""What the README tells people to type works, and what it lists exists."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from helpers import ParseOnlyTrainer, parsed, slow
from pages import blocks, command_lines
from test_pages import reasons

from tabom.cli.lightning_cli import run
from tabom.cli.verbs import chat, convert, generate, report, trajectories, view
from tabom.pipelines import command as pipelines
from tabom.sweeping import command as sweep


def commands(readme, program):
    """What follows the program's name, wherever it stands in a line; a backslash continues a line."""
    lines = [words for language, _, block in blocks(readme) if language == "bash" for words in command_lines(block)]
    return [words[words.index(program) + 1 :] for words in lines if program in words]


def not_run(text):
    """Commands of a page that test_pages.py does not run."""
    return [words for words in commands(text, "tabom") if words and reasons(["tabom", *words])]


RUN = ("own_task.md",)  # its configurations are on the page itself
ROOT = Path(__file__).parents[1]
PAGES = sorted(f"docs/{p.name}" for p in ROOT.glob("docs/*.md") if p.name not in RUN)
PARSERS = {
    module.__name__.split(".")[-1]: module.parser for module in (chat, convert, generate, report, trajectories, view)
} | {
    "sweep": sweep.parser,
    "pipeline": pipelines.parser,
    "demo": pipelines.demo_parser,
}


@pytest.fixture(scope="module")
def readme(repository):
    return (repository / "README.md").read_text()


@pytest.fixture(scope="module")
def documents(repository, readme):
    """The README and all pages under docs."""
    return {"README.md": readme, **{page: (repository / page).read_text() for page in PAGES}}


@pytest.mark.parametrize("page", ["README.md", *slow(*(p for p in PAGES if not_run((ROOT / p).read_text())))])
def test_tabom_commands_are_understood(documents, page, repository, monkeypatch, tmp_path, capsys):
    """All of the README, and those of the pages that test_pages.py does not run."""
    found = commands(documents[page], "tabom") if page == "README.md" else not_run(documents[page])
    assert len(found) >= 5 or page != "README.md"
    monkeypatch.chdir(repository)
    here = ("--trainer.accelerator=cpu", "--trainer.devices=1", "--trainer.num_nodes=1")  # GPUs of several machines
    for words in found:
        if not words or words[0] == "init" or "--help" in words:  # pip install tabom; the others have their own tests
            continue
        if words[0] in PARSERS:
            own = words[: words.index("--")] if "--" in words else words
            PARSERS[words[0]]().parse_args(own)
            continue
        if "--print_config" in words:
            with pytest.raises(SystemExit) as error:
                run(words, trainer_class=ParseOnlyTrainer)
            assert error.value.code == 0
            assert "margin: 0.1" in capsys.readouterr().out
        else:
            parsed(*words, *here, f"--run_dir={tmp_path}")


def test_make_targets_exist(readme, repository):
    makefile = (repository / "Makefile").read_text()
    contributing = (repository / "CONTRIBUTING.md").read_text()
    targets = [words[0] for text in (readme, contributing) for words in commands(text, "make")]
    assert {"demo", "test", "setup", "check", "test-slow", "docs"} <= set(targets)
    assert all(re.search(rf"^{target}:.*## ", makefile, re.MULTILINE) for target in targets)
    listing = subprocess.run(["make"], cwd=repository, check=True, capture_output=True, text=True).stdout
    assert all(f"  {target} " in listing for target in targets)


def test_the_demo_installs_no_tools(repository, tmp_path):
    """What the tests need comes into the same environment later, also where the demo was first."""

    def installed(target):
        words = ["make", "-n", f"VENV={tmp_path}", target]
        printed = subprocess.run(words, cwd=repository, check=True, capture_output=True, text=True).stdout
        return [words[-1] for line in printed.splitlines() if " pip install " in line for words in [shlex.split(line)]]

    torch = "torch==2.13.0"
    assert installed("demo") == installed("demo-full") == [torch, "."]
    assert installed("test") == installed("setup") == [torch, ".", ".[dev]"]
    (tmp_path / ".installed-runtime").touch()
    assert installed("demo") == []
    assert installed("lint") == [".[dev]"]
    (tmp_path / ".installed").touch()
    assert installed("demo") == installed("type") == []


@pytest.mark.parametrize("failing", ["", "test", "lint", "type", "test-slow"])
def test_ci_runs_all_parts_and_fails_with_any(repository, tmp_path, failing):
    """With a ``make`` that only says its target; the suites' closing lines come last."""
    make = tmp_path / "make"
    make.write_text(f'#!/bin/sh\necho "doing $1"\ntest "$1" != "{failing}"\n')
    make.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run([repository / ".ci/run"], env=environment, capture_output=True, text=True)
    parts = ["test", "lint", "type", "test-slow"]
    assert done.stdout.splitlines() == [*(f"doing {p}" for p in parts), *(f"make {p}: doing {p}" for p in parts)]
    assert done.returncode == (1 if failing else 0)


def test_the_demos_commands_are_the_ones_listed(documents, repository):
    listed = {w for words in commands(documents["docs/demo.md"], "tabom") for w in words if w.startswith("configs/")}
    demo = {str(path.relative_to(repository)) for path in (repository / "configs/demo").rglob("*.yaml")}
    assert demo == {path for path in listed if path.startswith("configs/demo/")}
    assert all((repository / path).is_file() for path in listed)


def test_tables_list_every_folder_of_configs_and_every_room(documents, repository):
    configs = (repository / "configs/README.md").read_text()
    folders = {f"{path.name}/" for path in (repository / "configs").iterdir() if path.is_dir()}
    rows = set(re.findall(r"^\| `([^`]+)` \|", configs, re.MULTILINE))
    assert {row for row in rows if row.count("/") == 1 and row.endswith("/")} == folders - {"demo/"} | {"demo/"} & rows
    rooms = set(re.findall(r"^\| `([^`]+)` \|", documents["docs/layout.md"], re.MULTILINE))
    packages = {f"tabom/{path.name}/" for path in (repository / "tabom").iterdir() if (path / "__init__.py").is_file()}
    assert {row for row in rooms if row.endswith("/")} == packages
    assert all((repository / row).exists() for row in rooms)


def test_the_readme_is_short(readme):
    assert readme.count("\n") <= 120


def test_links_lead_somewhere(documents, repository):
    links = [(name, link) for name, text in documents.items() for link in re.findall(r"\]\(([^)]+)\)", text)]
    assert links
    for name, link in links:
        file = (repository / name).parent / (link.partition("#")[0] or Path(name).name)
        assert link.startswith("https://") or file.is_file(), (name, link)
