"""Who may import whom, read from the source; and that every module can be imported."""

import ast
import importlib
import pkgutil
from collections import Counter
from pathlib import Path

import pytest

import tabom

FLOORS = (
    "types errors seeding signals",
    "functional storage sandbox shipped jobs",
    "backbones corruption metrics samplers tasks trajectories",
    "objectives",
    "validation data",
    "modules reporting viewer generation",
    "callbacks sweeping",
    "evaluation",
    "cli",
    "pipelines",
)
"""Rooms from the ground up: a room imports from floors below its own. Files at the top are rooms too."""

HOMES = {
    "lightning": {"cli", "modules", "data", "callbacks", "evaluation"},
    "transformers": {"backbones", "data", "evaluation", "generation"},
    "tokenizers": {"data"},
    "peft": {"backbones"},
    "wandb": {"evaluation", "callbacks", "reporting", "sweeping"},
    "matplotlib": {"reporting"},
    "datasets": {"evaluation", "tasks", "trajectories"},
    "lm_eval": {"evaluation"},
    "nltk": {"evaluation"},
    "punkt": {"evaluation"},
    "pyarrow": {"tasks", "trajectories"},
    "torchmetrics": {"metrics", "modules", "validation"},
    "math_verify": {"tasks"},
    "pyseccomp": {"sandbox"},
    "rich": {"cli", "reporting", "sweeping"},
    "optuna": {"sweeping"},
    "jinja2": {"reporting", "viewer"},
    "pandas": {"reporting"},
    "scipy": {"reporting"},
}


def imports():
    """(room, module) for every import in the package; a room is a folder or a file at the top."""
    found = set()
    for info in pkgutil.walk_packages(tabom.__path__, "tabom."):
        spec = importlib.util.find_spec(info.name)
        room = info.name.split(".")[1]
        tree = ast.parse(Path(spec.origin).read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                found |= {(room, alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                found.add((room, node.module))
    return found


IMPORTS = imports()


@pytest.mark.parametrize("name", [info.name for info in pkgutil.walk_packages(tabom.__path__, "tabom.")])
def test_every_module_can_be_imported(name):
    if name != "tabom.__main__":
        importlib.import_module(name)


def test_libraries_stay_in_their_rooms():
    wrong = {
        (room, module)
        for room, module in IMPORTS
        if module.split(".")[0] in HOMES and room not in HOMES[module.split(".")[0]]
    }
    assert wrong == set()


def test_imports_go_down():
    floor = {room: number for number, rooms in enumerate(FLOORS) for room in rooms.split()}
    pairs = {(room, module.split(".")[1]) for room, module in IMPORTS if module.startswith("tabom.")}
    assert {room for room, _ in pairs} - {"__main__"} <= floor.keys()
    assert {(a, b) for a, b in pairs if a not in (b, "__main__") and floor[a] <= floor[b]} == set()


def test_no_file_is_long_and_no_room_is_the_house(repository):
    files = [path for suffix in ("py", "js", "css", "html") for path in (repository / "tabom").rglob(f"*.{suffix}")]
    lines = {path.relative_to(repository / "tabom"): path.read_text().count("\n") for path in files}
    assert {str(path): number for path, number in lines.items() if number > 400} == {}
    rooms = Counter()
    for path, number in lines.items():
        rooms[path.parts[0]] += number
    assert {room: number for room, number in rooms.items() if number > 0.13 * rooms.total()} == {}


def test_no_foreign_path_in_the_package(repository):
    for folder in ("tabom", "configs", "sweeps"):
        for path in (repository / folder).rglob("*"):
            if path.suffix in {".py", ".yaml"}:
                assert "shared/" not in path.read_text(), path
