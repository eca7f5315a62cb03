"""Where one run writes: ``--run_dir``, or a directory for each run of a W&B agent."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace


def run_directory(given: str | None, root: str | None, environment: Mapping[str, str]) -> str | None:
    """The run's own directory, or None if it writes to ``trainer.default_root_dir``.

    Args:
        given: By ``--run_dir``.
        root: ``trainer.default_root_dir``.
        environment: Variables of the process; an agent sets the ids of sweep and run.
    """
    if given is not None or "WANDB_SWEEP_ID" not in environment:
        return given
    return str(Path(root or ".", environment["WANDB_SWEEP_ID"], environment["WANDB_RUN_ID"]))


def move(trainer: Namespace, directory: str) -> None:
    """Put a directory in the place of ``default_root_dir`` in every path of the trainer that lies at or below it."""
    root = Path(trainer.default_root_dir or ".")
    if root != Path():
        _replace(trainer, root, Path(directory))
    trainer.default_root_dir = directory


def _replace(node: Any, root: Path, directory: Path) -> Any:
    if isinstance(node, Namespace):
        for name, value in vars(node).items():
            setattr(node, name, _replace(value, root, directory))
    elif isinstance(node, dict):
        node.update({name: _replace(value, root, directory) for name, value in node.items()})
    elif isinstance(node, list):
        node[:] = [_replace(value, root, directory) for value in node]
    elif isinstance(node, str) and Path(node).is_relative_to(root):
        return str(directory / Path(node).relative_to(root))
    return node
