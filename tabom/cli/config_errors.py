"""What is wrong with a configuration, in one sentence that names the key and the nearest valid one."""

import dataclasses
import difflib
import importlib
import inspect
import re
import typing
from collections.abc import Iterable, Iterator
from typing import Any

_STRUCTURE = re.compile(
    r"""\s*(-\s)?(Problem\ with\ given\ class_path | Parser\ key\ "[^"]*":$ | Does\ not\ validate | Subtypes: | Errors:$
        | Expected\ a\ <class\ 'NoneType'> | Expected\ a\ path\ but )""",
    re.VERBOSE,
)
_CALLABLE = re.compile(r"Type .* expects a function or a callable class: (.*)\. Got value: .*class_path='([\w.]+)'.*")


def explain(message: str, options: Iterable[str], classes: Iterable[str]) -> str:
    """Shorten what jsonargparse says of a faulty configuration.

    Args:
        message: Its report, one level of indentation per level of the configuration.
        options: Keys the parser knows, searched for the nearest one.
        classes: Class names a config may give, likewise.

    Returns:
        ``key: what was expected``, on one line.
    """
    lines = [line for line in message.splitlines() if not line.strip().startswith("Given value")]
    text = "\n".join(lines)
    owners = re.findall(r"Problem with given class_path '([\w.]+)'", text)
    callables = _CALLABLE.search(text)
    if callables:
        owners.append(callables[2])
        lines = [_CALLABLE.sub(r"\1", line) for line in lines]
    keys = re.findall(r'Parser key "([^"]+)"', text)
    reasons = [re.sub(r'Parser key "[^"]*":', "", line).strip(" -") for line in lines if not _STRUCTURE.match(line)]
    reason = "; ".join(dict.fromkeys(filter(None, reasons)))
    key = ".".join(keys)

    unknown = re.fullmatch(r"Option '([\w.]+)' is not accepted", reason)
    if unknown and owners:
        owner = owners[-1].rpartition(".")[2]
        prefix = f"{key}." if key else ""
        hint = _did_you_mean(unknown[1], inspect.signature(_class_of(owners[-1])).parameters)
        return f"{prefix}{unknown[1].replace('.init_args.', '.')}: {owner} has no such option{hint}"
    if match := re.search(r"Expected a dot import path string: (\S+)$", reason):
        reason = f"expected the name of a class, got {match[1]}{_did_you_mean(match[1], classes)}"
    elif match := re.search(r"(?:option '|arguments: --)([\w.]+)", reason):
        reason += _did_you_mean(match[1], options)
    return f"{key}: {reason}" if key else reason


def misplaced_nulls(config: dict[str, Any], trainer_class: type) -> Iterator[str]:
    """Say where the configuration holds null although the parameter neither admits it nor has it as default.

    jsonargparse lets a YAML null through for any type.
    """
    yield from _nulls_in(trainer_class, config.get("trainer", {}), "trainer")
    for key in ("model", "data", "trainer"):
        yield from _walk(config.get(key), key)


def _walk(value: Any, key: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _walk(item, f"{key}[{index}]")
    elif isinstance(value, dict):
        if "class_path" in value:
            owner = _class_of(value["class_path"])
            value = value.get("init_args") or {}
            yield from _nulls_in(owner, value, key)
        for name, item in value.items():
            yield from _walk(item, f"{key}.{name}")


def _nulls_in(owner: Any, arguments: dict[str, Any], key: str) -> Iterator[str]:
    hints = typing.get_type_hints(owner.__init__)
    parameters = inspect.signature(owner).parameters
    for name, value in arguments.items():
        if dataclasses.is_dataclass(hints.get(name)) and isinstance(value, dict):
            yield from _nulls_in(hints[name], value, f"{key}.{name}")
        if value is not None or name not in hints or parameters[name].default is None:
            continue
        if type(None) not in typing.get_args(hints[name]):
            yield f"{key}.{name}: expected {_describe(hints[name])}, got null"


def _describe(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")


def _did_you_mean(name: str, candidates: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _class_of(class_path: str) -> Any:
    """What a resolved ``class_path`` stands for."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)
