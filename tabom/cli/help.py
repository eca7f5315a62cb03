"""One screen of help for a verb that takes a configuration, read from the source: no class is imported."""

import ast
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

from tabom import shipped

_WHAT = {
    "fit": "Train a backbone with an objective.",
    "validate": "Measure a checkpoint, or the base model, on the validation split.",
    "test": "Measure a checkpoint, or the base model, on the test split.",
    "predict": "Decode queries and write trajectory shards.",
    "evaluate": "Run a benchmark.",
    "export": "Write a trained model or adapter for other tools.",
}
_TRAINING = (
    ("model.backbone", "backbones", "BackboneSource"),
    ("model.objective", "objectives", "Objective"),
    ("data.task", "tasks", "ExampleSource"),
)
_DECODING = (("model.backbone", "backbones", "BackboneSource"), ("model.sampler.schedule", "samplers", "Schedule"))
_CLASSES = {"predict": (*_DECODING, ("data.task", "tasks", "ExampleSource")), "evaluate": _DECODING}
_FOLDERS = {"predict": "distill", "evaluate": "evaluate"}
_NO_RECIPES = ("parts", "trainer", "ablation", "block", "study", "pipelines")
_EXAMPLES = {
    "fit": "--config demo/tabom --model.objective.margin=0.3 --seed_everything=2",
    "predict": "--config demo/distill --data.num_queries=200",
    "evaluate": "--config demo/evaluate",
    "export": "--config demo/tabom --ckpt_path runs/demo/tabom/checkpoints/last.ckpt --output_dir runs/merged",
}


def text(verb: str) -> str:
    """What to know about a verb.

    Args:
        verb: ``fit``, ``validate``, ``test``, ``predict``, ``evaluate`` or ``export``.
    """
    example = _EXAMPLES.get(verb, "--config demo/tabom --ckpt_path runs/demo/tabom/checkpoints/last.ckpt")
    lines = [
        f"usage: tabom {verb} --config FILE [--config FILE ...] [--key value ...]",
        "",
        f"{_WHAT[verb]} For example:",
        f"  tabom {verb} {example}",
        "",
        "A configuration has the keys model, data and trainer, and run_dir, the directory of the run. Later files and",
        "options on the command line win. Values are YAML; a dotted key reaches any depth.",
        "",
        "Classes that a configuration can name, or MODULE.CLASS of your own in the current directory:",
    ]
    for key, room, base in _CLASSES.get(verb, _TRAINING):
        lines += [f"  {key}", *(f"    {name:<22}{line}" for name, line in classes(room, base))]
    last = ["  --ckpt_path last        go on with the last checkpoint of run_dir, or begin"] if verb == "fit" else []
    lines += [
        "",
        "To see more:",
        "  --print_config=skip_default   the configuration as it would run; without =skip_default every option",
        f"  --{_CLASSES.get(verb, _TRAINING)[1][0]}.help CLASS   after --config FILE: the options of a class",
        "  --help=all                    every option of the trainer, the callbacks and the loggers",
        *last,
        "",
        "Shipped configurations (FOLDER/NAME):",
        *(textwrap.fill(line, 118, initial_indent="  ", subsequent_indent="    ") for line in configs(verb)),
    ]
    return "\n".join(lines)


def configs(verb: str) -> list[str]:
    """Shipped configurations for a verb, ``FOLDER, FOLDER: FILE, FILE``; overlays and parts are left out."""
    recipes = [name for name in shipped.names("configs") if name.split("/")[0] not in _NO_RECIPES]
    return _grouped([name for name in recipes if _verb_of(name) == (verb if verb in _FOLDERS else "fit")])


def _verb_of(name: str) -> str:
    """``predict`` for ``demo/distill`` and ``demo/distill_own``."""
    parts = [part.partition("_")[0] for part in name.split("/")]
    return next((verb for verb, kind in _FOLDERS.items() if kind in parts), "fit")


def _grouped(names: Sequence[str]) -> list[str]:
    """Folders that hold the same files on one line."""
    files: dict[str, list[str]] = {}
    for name in names:
        folder, _, file = name.rpartition("/")
        files.setdefault(folder, []).append(file)
    folders: dict[str, list[str]] = {}
    for folder, inside in files.items():
        folders.setdefault(", ".join(inside), []).append(folder)
    return [f"{', '.join(places)}: {inside}" for inside, places in folders.items()]


class _Class:
    """What the source says of a class."""

    def __init__(self, node: ast.ClassDef) -> None:
        self.bases = [ast.unparse(base) for base in node.bases]
        docstring = (ast.get_docstring(node) or "").partition("\n")[0]
        self.summary = re.sub(r":\w+:|`", "", docstring)
        self.is_abstract = any("abstractmethod" in ast.unparse(part).splitlines()[0] for part in node.body)


def classes(room: str, base: str) -> list[tuple[str, str]]:
    """Public classes of a room that inherit from a base, with the first line of their docstrings."""
    folder = Path(__file__).parents[1] / room
    found = {
        node.name: _Class(node)
        for path in sorted(folder.glob("*.py"))
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef)
    }

    def inherits(name: str) -> bool:
        return name == base or (name in found and any(map(inherits, found[name].bases)))

    exported = ast.parse((folder / "__init__.py").read_text()).body[-1]
    public = ast.literal_eval(exported.value) if isinstance(exported, ast.Assign) else []
    return [
        (name, found[name].summary)
        for name in public
        if name in found and not found[name].is_abstract and inherits(name)
    ]
