"""What is wrong with a configuration, in one sentence that names the key and the nearest valid one."""

import dataclasses
import difflib
import importlib
import inspect
import itertools
import re
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any

_STRUCTURE = re.compile(
    r"""\s*(-\s)*(Problem\ with\ given\ class_path | Parser\ key\ "[^"]*":?$ | Does\ not\ validate | Subtypes:
        | Errors:$ | Expected\ a\ <class\ 'NoneType'> | Expected\ a\ path\ but | Given\ value | Subclass\ types\ expect
        | a\ class\ path\ \(str\) | a\ dict\ with)""",
    re.VERBOSE,
)
_CALLABLE = re.compile(r"Type typing\.Callable.* expects a function or a callable class: ")
_CALLED = re.compile(r"\. Got value: Namespace\(class_path='([\w.]+)'.*")
_TYPES = {"int": "a whole number", "float": "a number", "bool": "true or false", "str": "text"}
_NO_OPTIONS = re.compile(r"Unable to load config|object has no attribute|argument of type '.*' is not iterable")


def explain(message: str, options: Iterable[str], classes: Iterable[str]) -> str:
    """Shorten what jsonargparse says of a faulty configuration.

    Args:
        message: Its report, one level of indentation per level of the configuration.
        options: Keys the parser knows, searched for the nearest one.
        classes: Class names a config may give, likewise.

    Returns:
        ``key: what was expected``, on one line.
    """
    given = re.search(r"Given value: (.*)", message)
    owners = re.findall(r"Problem with given class_path '([\w.]+)'", message) + _CALLED.findall(message)
    lines = [_CALLED.sub("", _CALLABLE.sub("", line)) for line in message.splitlines()]
    keys = re.findall(r'Parser key "([^"]+)"', "\n".join(lines))
    key = ".".join(key for key, _ in itertools.groupby(keys))
    texts = [re.sub(r'Parser key "[^"]*":', "", line).strip(" -") for line in lines if not _STRUCTURE.match(line)]
    texts = list(dict.fromkeys(filter(None, texts)))
    got = next((match[1] for text in texts if (match := re.search(r"\. Got value: (.*)", text))), None)
    got = got if got is not None or given is None else _CALLED.sub("", given[1])
    texts = [re.sub(r"\. Got value: .*", "", text) for text in texts]
    kinds = list(dict.fromkeys(name for text in texts if (name := _type_in(text))))
    reasons = [text for text in texts if not _type_in(text) and not _class_in(text)]

    unknown = re.fullmatch(r"Option '([\w.]+)' is not accepted", reasons[0]) if len(reasons) == 1 else None
    if unknown and owners:
        owner = owners[-1].rpartition(".")[2]
        prefix = f"{key}." if key else ""
        hint = _did_you_mean(unknown[1], inspect.signature(_class_of(owners[-1])).parameters)
        return f"{prefix}{unknown[1].replace('.init_args.', '.')}: {owner} has no such option{hint}"
    reason = "; ".join(reasons)
    if any(map(_NO_OPTIONS.search, reasons)):
        reason = "expected options by name"
    elif reasons:
        if match := re.search(r"(?:option '|arguments: --)([\w.]+)", reason):
            reason += _did_you_mean(match[1], options)
    elif kinds:
        reason = f"expected {' or '.join(kinds)}, got {'null' if got == 'None' else got}"
    else:
        name = next((name for text in texts if (name := _class_in(text))), "nothing")
        reason = f"expected the name of a class, got {name}{_did_you_mean(name, classes)}"
    return f"{key}: {reason}" if key else reason


def _type_in(text: str) -> str | None:
    """What a sentence expects, if that is plain: a number, or one of a few words."""
    if match := re.fullmatch(r"Expected a <class '([\w.]+)'>", text):
        name = match[1].rpartition(".")[2]
        return _TYPES.get(name, name)
    if match := re.fullmatch(r"Expected a typing\.Literal\[(.*)\]", text):
        return match[1].replace("'", "").replace(", ", " or ")
    return None


def _class_in(text: str) -> str | None:
    """What was given in the place of a class's name."""
    match = re.search(r"(?:Expected a dot import path string|Unexpected import path format): (.*)$", text)
    match = match or re.match(r"Not a valid subclass of (.*)", text)
    return match[1] if match else None


def misplaced_values(config: dict[str, Any], trainer_class: type) -> Iterator[str]:
    """Say where the configuration holds null although the parameter neither admits it nor has it as default.

    jsonargparse lets a YAML null through for any type, and any value where a dataclass belongs.
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
            try:
                owner = _class_of(value["class_path"])
            except (AttributeError, ImportError, ValueError):
                yield f"{key}: expected the name of a class, got {value['class_path']}"
                return
            value = value.get("init_args") or {}
            yield from _nulls_in(owner, value, key)
        for name, item in value.items():
            yield from _walk(item, f"{key}.{name}")


def _nulls_in(owner: Any, arguments: dict[str, Any], key: str) -> Iterator[str]:
    hints = typing.get_type_hints(owner.__init__)
    parameters = inspect.signature(owner).parameters
    for name, value in arguments.items():
        if dataclasses.is_dataclass(hints.get(name)) and value is not None:
            if isinstance(value, dict):
                yield from _nulls_in(hints[name], value, f"{key}.{name}")
            else:
                yield f"{key}.{name}: expected options by name, got {value}"
        if value is not None or name not in hints or parameters[name].default is None:
            continue
        if type(None) not in typing.get_args(hints[name]):
            yield f"{key}.{name}: expected {_describe(hints[name])}, got null"


def _describe(hint: Any) -> str:
    kinds = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else [hint]
    names = [getattr(kind, "__name__", str(kind)) for kind in kinds]
    return " or ".join(_TYPES.get(name, name) for name in names)


def _did_you_mean(name: str, candidates: Iterable[str]) -> str:
    candidates = list(candidates)
    same = [candidate for candidate in candidates if candidate.endswith(f".{name}")]
    close = sorted(same, key=len)[:1] or difflib.get_close_matches(name, candidates, n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _class_of(class_path: str) -> Any:
    """What a resolved ``class_path`` stands for."""
    module, _, name = class_path.rpartition(".")
    return getattr(importlib.import_module(module), name)
