"""Turns the parser's nested reports into one sentence that names the key and the nearest valid one."""

import difflib
import importlib
import inspect
import re
from collections.abc import Iterable

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
    lines: list[str] = []
    for line in message.splitlines():
        if line.strip().startswith("Given value"):
            continue
        lines.append(line)
    text = "\n".join(lines)
    owners = re.findall(r"Problem with given class_path '([\w.]+)'", text)
    callables = _CALLABLE.search(text)
    if callables:
        owners.append(callables[2])
        lines = [_CALLABLE.sub(r"\1", line) for line in lines]
    keys = re.findall(r'Parser key "([^"]+)"', text)
    reasons = [re.sub(r'Parser key "[^"]*":', "", line).strip(" -") for line in lines if not _STRUCTURE.match(line)]
    reason = "; ".join(dict.fromkeys(filter(None, reasons)))
    key = ".init_args.".join(keys)

    unknown = re.fullmatch(r"Option '([\w.]+)' is not accepted", reason)
    if unknown and owners:
        owner = owners[-1].rpartition(".")[2]
        prefix = f"{key}.init_args." if key else ""
        return f"{prefix}{unknown[1]}: {owner} has no such option{_did_you_mean(unknown[1], _parameters(owners[-1]))}"
    if match := re.search(r"Expected a dot import path string: (\S+)$", reason):
        reason = f"expected the name of a class, got {match[1]}{_did_you_mean(match[1], classes)}"
    elif match := re.search(r"(?:option '|arguments: --)([\w.]+)", reason):
        reason += _did_you_mean(match[1], options)
    return f"{key}: {reason}" if key else reason


def _did_you_mean(name: str, candidates: Iterable[str]) -> str:
    close = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.5)
    return f" (did you mean {close[0]}?)" if close else ""


def _parameters(class_path: str) -> list[str]:
    module, _, name = class_path.rpartition(".")
    return list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
