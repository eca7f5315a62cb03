"""What libraries and the system say of bad input, in one sentence; all else that they raise is a defect of ours."""

import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import metadata
from pathlib import Path, PurePath
from types import FrameType
from typing import Any

from tabom.cli.config_errors import explain

_ABOUT_INPUT = {
    "datasets.exceptions", "httpx", "httpx2", "huggingface_hub.errors", "json.decoder",
    "lightning.fabric.utilities.exceptions", "pyarrow.lib", "requests.exceptions", "safetensors._safetensors_rust",
    "wandb.errors.errors", "yaml.error",
}  # fmt: skip
"""Modules whose exceptions are about files, the network or settings, whoever calls."""

_NAMES = {"OutOfMemoryError", "UnpicklingError"}


def sentence(error: BaseException, config: Mapping[str, Any] | None = None) -> str | None:
    """Say in one sentence what an exception has against the input.

    It is about input if its class is (the system's, a reader's), or if it comes from an object of a library that the
    configuration names, such as an optimizer, a callback or the trainer, without code of ours in between.

    Args:
        error: As caught, with its traceback.
        config: Of the verb, as nested dictionaries; None before there is one.

    Returns:
        ``option or file: what was said``; None if it is a defect.
    """
    while (cause := error.__cause__ or error.__context__) and _is_wrapped(error):
        error = cause
    frames = list(_frames(error))
    text = " ".join(str(error).split()) or type(error).__name__
    if _is_wrapped(error):
        return explain(str(error), (), ())
    if isinstance(error, OSError) and error.strerror is not None:
        path = error.filename if error.filename is not None else _file(frames)
        is_file = isinstance(error, FileExistsError | NotADirectoryError)
        reason = "expected a directory, got a file" if is_file else error.strerror
        return ": ".join([*_option_of_path(path, config or {}), *([str(path)] if path else []), reason])
    if isinstance(error, UnicodeError):
        return f"{_file(frames) or 'input'}: expected UTF-8, got {text}"
    option = None if config is None else _option_of_object(frames, config, text)
    if option is not None:
        return f"{option}: {text}" if option else text
    is_about_input = any(cls.__module__ in _ABOUT_INPUT for cls in type(error).__mro__)
    if isinstance(error, OSError | MemoryError) or is_about_input or type(error).__name__ in _NAMES:
        path = _file(frames)
        return f"{path}: {text}" if path and str(path) not in text else text
    return None


def note_of_defect(error: BaseException) -> str:
    """What stands below the traceback of an exception that is not about input; empty if it is not our code's."""
    frames = list(_frames(error))
    if any(
        _module(frame).partition(".")[0] not in ("tabom", "__main__") and not _is_installed(frame) for frame in frames
    ):
        return ""
    urls = dict(url.split(", ", 1) for url in metadata("tabom").get_all("Project-URL") or ())
    where = urls.get("Issues", "the project that you have tabom from")
    return f"tabom: this is a defect of tabom, not of your input; please report all of the above to {where}"


def _is_wrapped(error: BaseException) -> bool:
    """Whether jsonargparse raised it, about values or on top of what the constructor of a class raised."""
    innermost = next(_frames(error), None)
    return innermost is not None and _module(innermost).startswith("jsonargparse")


def _frames(error: BaseException) -> Iterator[FrameType]:
    """From the one that raised outwards."""
    trace, frames = error.__traceback__, []
    while trace is not None:
        frames.append(trace.tb_frame)
        trace = trace.tb_next
    yield from reversed(frames)


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _is_installed(frame: FrameType) -> bool:
    """Whether its code is a library's or Python's own, and not a user's."""
    root = _module(frame).partition(".")[0]
    return "site-packages" in frame.f_code.co_filename or root in sys.stdlib_module_names


def _file(frames: Iterable[FrameType]) -> PurePath | None:
    """The file that was being read: the innermost variable that holds a path."""
    for frame in frames:
        for name in ("self", "path", "file", "directory"):
            if isinstance(value := frame.f_locals.get(name), PurePath):
                return value
    return None


def _option_of_path(path: Any, config: Mapping[str, Any]) -> list[str]:
    """The option that names a file or a directory above it; the nearest one."""
    if not isinstance(path, str | PurePath):
        return []
    named = {
        key: value
        for key, value in leaves(config)
        if isinstance(value, str | Path)
        and Path(value) != Path()
        and Path(path).absolute().is_relative_to(Path(value).absolute())
    }
    nearest = sorted(named, key=lambda key: (-len(str(named[key])), len(key)))[:1]
    return [key.replace(".init_args.", ".") for key in nearest]


def _option_of_object(frames: Iterable[FrameType], config: Mapping[str, Any], text: str) -> str | None:
    """The option by which a library's object got into the run, if its code raised without ours in between.

    Empty for the trainer, where no option of it is named.
    """
    paths = {key.removesuffix(".class_path"): str(value) for key, value in leaves(config) if key.endswith("class_path")}
    classes = {("lightning", "ModelCheckpoint"): "checkpoint"}
    classes |= {(path.partition(".")[0], path.rpartition(".")[2]): key for key, path in paths.items()}
    innermost = ""
    for frame in frames:
        root = _module(frame).partition(".")[0]
        innermost = innermost or root
        if root == "tabom" or not _is_installed(frame):
            return None
        for cls in type(frame.f_locals.get("self")).__mro__:
            if key := classes.get((cls.__module__.partition(".")[0], cls.__qualname__)):
                return f"{key.replace('.init_args.', '.')} ({cls.__name__})"
            if cls.__qualname__ == "Trainer" and (innermost == "lightning" or frame.f_code.co_name == "__init__"):
                return _trainer_option(config.get("trainer") or {}, text)
    return None


def _trainer_option(options: Mapping[str, Any], text: str) -> str:
    """The option that a text speaks of first, or else one whose value it quotes; empty if there is none."""
    named = {match.start(): key for key in options if (match := re.search(rf"\b{key}\b", text))}
    quoted = [key for key, value in options.items() if isinstance(value, str) and repr(value) in text]
    option = named[min(named)] if named else next(iter(quoted), "")
    return f"trainer.{option}" if option else ""


def leaves(node: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested dictionaries and lists by their dotted keys."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from leaves(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from leaves(value, f"{key}[{index}]")
    else:
        yield key, node
