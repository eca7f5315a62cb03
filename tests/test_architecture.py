"""Who may import whom, read from the source; and that every module can be imported."""

import ast
import importlib
import pkgutil
from pathlib import Path

import pytest

import tabom

SIBLINGS = {"backbones", "corruption", "metrics", "objectives", "samplers", "tasks", "trajectories"}
ALLOWED = {("objectives", "corruption")}
GLUE = {"callbacks", "commands", "data", "evaluation", "modules", "reporting", "sweeping"}
HOMES = {
    "lightning": {"lightning_cli", "demo", "modules", "data", "callbacks"},
    "transformers": {"backbones", "data", "evaluation"},
    "tokenizers": {"data"},
    "peft": {"backbones"},
    "wandb": {"lightning_cli", "callbacks", "reporting", "sweeping"},
    "matplotlib": {"reporting"},
    "datasets": {"evaluation", "tasks", "trajectories"},
    "lm_eval": {"evaluation"},
    "nltk": {"evaluation"},
    "punkt": {"evaluation"},
    "pyarrow": {"tasks", "trajectories"},
    "torchmetrics": {"metrics", "modules"},
    "math_verify": {"tasks"},
    "pyseccomp": {"tasks"},
    "rich": {"commands", "demo", "reporting", "sweeping"},
    "optuna": {"sweeping"},
    "jinja2": {"reporting"},
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


def test_folders_of_one_row_do_not_import_each_other():
    pairs = {(room, module.split(".")[1]) for room, module in IMPORTS if module.startswith("tabom.")}
    siblings = {(a, b) for a, b in pairs if a in SIBLINGS and b in SIBLINGS and a != b}
    assert siblings <= ALLOWED


def test_imports_run_one_way():
    pairs = {(room, module.split(".")[1]) for room, module in IMPORTS if module.startswith("tabom.")}
    assert not {(a, b) for a, b in pairs if a in SIBLINGS and b in GLUE}
    assert not {(a, b) for a, b in pairs if a == "functional" and b not in {"functional", "types"}}
    assert not {(a, b) for a, b in pairs if a in {"types", "errors", "seeding"} and b != a}


def test_no_foreign_path_in_the_package(repository):
    for folder in ("tabom", "configs", "sweeps"):
        for path in (repository / folder).rglob("*"):
            if path.suffix in {".py", ".yaml"}:
                assert "shared/" not in path.read_text(), path
