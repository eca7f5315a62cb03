"""The name of a run, its ``run_dir``, and what follows from it: directories, and the names in W&B."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jsonargparse import Namespace

from tabom.errors import require

_MODES = ("online", "offline", "disabled", "shared", "run", "dryrun")
"""What W&B knows; the last two are old names of the first two."""


def fill_in_directory(config: Namespace, environment: Mapping[str, str]) -> None:
    """Fill in what follows from ``run_dir``; what the configuration gives wins.

    Paths at or below another ``trainer.default_root_dir``, as in the configuration of an earlier run, move to
    ``run_dir``. What has been filled in stays as it is.

    Args:
        config: Of one verb.
        environment: Variables of the process; a W&B agent sets the ids of sweep and run.
    """
    name = config.run_dir
    require(name != "", "run_dir: expected a directory, got an empty name")
    directory = own_directory(name, environment)
    for logger in _options(config.trainer.logger):
        if logger.get("offline") is not None:
            _follow_variables(logger, environment)
    if directory is None:
        _fill_in_checkpoints(config, "")
        return
    root = Path(config.trainer.default_root_dir or name or ".")
    parts = [config[key] for key in ("trainer", "checkpoint", "writer") if key in config]
    if root not in (Path(), Path(directory)):
        for part in parts:
            _move(part, root, Path(directory))
    config.run_dir = config.trainer.default_root_dir = directory
    _fill_in_checkpoints(config, directory)
    if "writer" in config:
        _fill_in(config.writer, {"output_dir": str(Path(directory, "trajectories"))})
    names = _names(name or directory, environment)
    for logger in _options(config.trainer.logger):
        _fill_in(logger, {"save_dir": directory})
        if logger.get("offline") is not None:
            _fill_in(logger, names)


def _fill_in_checkpoints(config: Namespace, directory: str) -> None:
    """Keep all checkpoints together; those of a callback without a directory would lie in one that W&B names."""
    callbacks = [config[key] for key in ("checkpoint",) if key in config] + list(
        _options(config.trainer.get("callbacks"))
    )
    for options in callbacks:
        _fill_in(options, {"dirpath": str(Path(directory, "checkpoints"))})


def _names(run_dir: str, environment: Mapping[str, str]) -> dict[str, str | None]:
    """What W&B is to call a run, as far as its variables do not say so; it names the runs of a sweep itself."""
    group, name = group_and_name(run_dir)
    names = {} if "WANDB_RUN_GROUP" in environment else {"group": group}
    return names if {"WANDB_SWEEP_ID", "WANDB_NAME"} & environment.keys() else {**names, "name": name}


def _follow_variables(logger: Namespace, environment: Mapping[str, str]) -> None:
    """Let W&B's own variables say what its logger would not read from them: mode and project."""
    mode = logger.get("mode") or environment.get("WANDB_MODE")
    require(mode in (None, *_MODES), f"W&B's mode: expected {', '.join(_MODES)}, got {mode}; see WANDB_MODE")
    if mode is not None:
        logger.offline = mode in ("offline", "dryrun", "disabled")
    _fill_in(logger, {"project": environment.get("WANDB_PROJECT", "tabom")})


def own_directory(run_dir: str | None, environment: Mapping[str, str]) -> str | None:
    """The run's directory: of an agent's run it lies below ``run_dir``, by the ids of sweep and run.

    Args:
        run_dir: Of the configuration.
        environment: Variables of the process.
    """
    if "WANDB_SWEEP_ID" not in environment:
        return run_dir
    ids = (environment["WANDB_SWEEP_ID"], environment["WANDB_RUN_ID"])
    path = Path(run_dir or ".")
    return str(path if path.parts[-2:] == ids else path.joinpath(*ids))


def group_and_name(run_dir: str) -> tuple[str | None, str]:
    """What W&B calls a run: ``runs/evaluate/llada/gsm8k`` is ``llada_gsm8k`` in the group ``evaluate``.

    Args:
        run_dir: What lies before its last folder ``runs`` does not count; without such a folder the last two parts do.
    """
    parts = Path(run_dir).parts
    last = max((index for index, part in enumerate(parts[:-1]) if part == "runs"), default=len(parts) - 3)
    group, *names = parts[max(last + 1, 0) :]
    return (group, "_".join(names)) if names else (None, group)


def _options(given: Any) -> Iterator[Namespace]:
    """Options of one object or of several: loggers, callbacks."""
    for one in given if isinstance(given, list) else [given]:
        if isinstance(one, Namespace) and "init_args" in one:
            yield one.init_args


def _fill_in(options: Namespace, values: dict[str, str | None]) -> None:
    for key, value in values.items():
        if key in options and options[key] in (None, "."):
            options[key] = value


def _move(node: Any, root: Path, directory: Path) -> Any:
    if isinstance(node, Namespace):
        for name, value in vars(node).items():
            setattr(node, name, _move(value, root, directory))
    elif isinstance(node, dict):
        node.update({name: _move(value, root, directory) for name, value in node.items()})
    elif isinstance(node, list):
        node[:] = [_move(value, root, directory) for value in node]
    elif isinstance(node, str) and Path(node).is_relative_to(root):
        return str(directory / Path(node).relative_to(root))
    return node
