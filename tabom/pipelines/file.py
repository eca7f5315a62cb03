"""Reads pipeline files: loops become steps, and references to other steps become needs."""

import difflib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from tabom.errors import TabomError, require
from tabom.shipped import find
from tabom.storage.names import plain_name
from tabom.storage.yaml_files import as_word, read_yaml

BEST = "best_checkpoint"
LAST = "checkpoint"
_INNERMOST = re.compile(r"\$\{([^${}]+)\}")
_KEYS = {"output_dir": str, "show": list, "parameters": dict, "steps": list}
_STEP_KEYS = {
    "name": str,
    "verb": str,
    "config": str | list,
    "options": dict | list,
    "words": list,
    "needs": str | list,
}
_LOOP_KEYS = {"for": dict | list, "steps": list, "while_rises": dict}
_RULE_KEYS = {"metric": str, "steps": str, "from": str}


@dataclass(frozen=True)
class Rule:
    """When a round is worth running: the metric of the round before is above that of all earlier ones.

    Attributes:
        metric: Stage and name, such as ``validate/accuracy_1_per_step``.
        steps: That were measured, in order, up to the round before.
    """

    metric: str
    steps: tuple[str, ...]


@dataclass
class Step:
    """One command of a pipeline.

    Attributes:
        name: Unique; the log and the note of its state are called after it.
        verb: Of the command line.
        configs: Files of ``--config``.
        options: By name; like the words they may refer to other steps.
        words: Further words.
        needs: Steps that must have finished before.
        may_lack: Those of them that may have been left out by a rule: they were named by a pattern.
        rules: All of them must let it run.
    """

    name: str
    verb: str
    configs: list[str]
    options: dict[str, Any]
    words: list[str]
    needs: list[str]
    rules: tuple[Rule, ...]
    may_lack: set[str] = field(default_factory=set)

    @property
    def slug(self) -> str:
        """Name of its files."""
        return self.name.replace(" ", "-")

    def settings(self) -> dict[str, Any]:
        """Options by name, those of the configuration files as well; a name leaves out ``init_args``."""
        found: dict[str, Any] = {}
        for path in self.configs:
            found |= dict(_flat(read_yaml(Path(path))))
        return found | self.options

    def setting(self, key: str) -> Any:
        """An option by its name, or by the end of its name where that is unique; None without one."""
        settings = self.settings()
        ending = [value for name, value in settings.items() if name.endswith(f".{key}")]
        return settings.get(key, ending[0] if len(ending) == 1 else None)


@dataclass(frozen=True)
class Pipeline:
    """A pipeline as it is run.

    Attributes:
        path: Of the file.
        output_dir: Gets a directory ``steps`` with logs and states.
        show: Names of metrics that are shown when a step has finished.
        steps: By name, in an order in which they could run.
    """

    path: Path
    output_dir: Path
    show: list[str]
    steps: dict[str, Step]

    def command(self, step: Step, without: Sequence[str] = (), best: Callable[[Step], str] | None = None) -> list[str]:
        """Words after ``tabom``.

        Args:
            step: Whose command it is.
            without: Steps that were left out; words that are references to them are left out as well.
            best: Finds the best checkpoint of a training; None leaves a reference to it as it is.

        Raises:
            TabomError: If a step that is referred to has no such option.
        """
        absent = tuple(f"${{{name}." for name in without)
        words = [self._filled(step, word, best) for word in step.words if not word.startswith(absent)]
        configs = [word for path in step.configs for word in ("--config", path)]
        options = [f"--{key}={self._filled(step, as_word(value), best)}" for key, value in step.options.items()]
        return [step.verb, *words, *configs, *options]

    def fill_in_options(self, step: Step) -> None:
        """Put what earlier steps have in the places of references, but for best checkpoints.

        Raises:
            TabomError: If a step that is referred to has no such option.
        """
        step.options = {
            key: self._filled(step, value, None) if isinstance(value, str) else value
            for key, value in step.options.items()
        }

    def _filled(self, step: Step, word: str, best: Callable[[Step], str] | None) -> str:
        return _INNERMOST.sub(lambda match: self._output(step, match[1], best), word)

    def _output(self, step: Step, text: str, best: Callable[[Step], str] | None) -> str:
        """What a step refers to."""
        name, key = _parted(f"{self.path}: {step.name}", text, self.steps)
        where, other = f"{self.path}: {step.name}: ${{{text}}}", self.steps.get(name)
        if other is None:
            raise TabomError(f"{where}: expected a pattern of names in words alone, as a whole word")
        if key in (BEST, LAST):
            run_dir = other.setting("run_dir")
            is_training = other.verb == "fit" and run_dir is not None
            require(is_training, f"{where}: expected a step of the verb fit with a run_dir")
            if key == BEST:
                return f"${{{text}}}" if best is None else best(other)
            return f"{run_dir}/checkpoints/last.ckpt"
        value, names = other.setting(key), [f"{name}.{known}" for known in other.settings()]
        require(value is not None, f"{where}: expected {LAST}, {BEST} or an option of the step{_hint(text, names)}")
        return as_word(value)


def read_pipeline(path: Path, parameters: Mapping[str, Any], verbs: Sequence[str]) -> Pipeline:
    """Read a file.

    Args:
        path: YAML.
        parameters: Take the place of the file's.
        verbs: That a step may have.

    Raises:
        TabomError: Naming file, step and key, if something is not as it should be.
    """
    content = read_yaml(path)
    _check_keys(str(path), content, _KEYS, needed=("steps",))
    own = content.get("parameters", {})
    for name in parameters:
        require(name in own, f"{path}: parameters.{name}: expected one of {', '.join(own) or 'none'}{_hint(name, own)}")
    steps: dict[str, Step] = {}
    for step in _Reader(path, verbs).steps(content["steps"], "", own | dict(parameters), ()):
        same = [other.name for other in steps.values() if other.slug == step.slug]
        require(not same, f"{path}: {step.name}: expected different names of steps, got two with this one")
        steps[step.name] = step
    for step in steps.values():
        _connect(path, step, steps)
    try:
        order = list(TopologicalSorter({name: step.needs for name, step in steps.items()}).static_order())
    except CycleError as error:
        circle = " <- ".join(error.args[1])
        raise TabomError(f"{path}: expected steps that need earlier ones, got a circle: {circle}") from error
    pipeline = Pipeline(path, Path(content.get("output_dir", f"runs/{path.stem}")), content.get("show", []), steps)
    for name in order:
        pipeline.fill_in_options(steps[name])
        pipeline.command(steps[name])
    return pipeline


@dataclass(frozen=True)
class _Reader:
    """Makes steps of what a file says.

    Attributes:
        path: Of the file.
        verbs: That a step may have.
    """

    path: Path
    verbs: Sequence[str]

    def steps(
        self, entries: Sequence[Any], where: str, scope: Mapping[str, Any], rules: tuple[Rule, ...]
    ) -> Iterator[Step]:
        """Steps of a list, those of its loops at their places.

        Args:
            entries: The list.
            where: Its place in the file, for messages.
            scope: Values by name.
            rules: Of the loops around it.
        """
        for number, entry in enumerate(entries):
            place = f"{self.path}: {where}steps[{number}]"
            require(isinstance(entry, dict), f"{place}: expected a step or a loop, got {entry!r:.60}")
            if "steps" not in entry:
                yield self._step(place, entry, scope, rules)
                continue
            entry = {**entry, "for": _filled(entry.get("for"), scope)}
            _check_keys(place, entry, _LOOP_KEYS, needed=())
            measured: list[str] = []
            rule = entry.get("while_rises")  # its steps are named by the values of the loop
            if rule is not None:
                _check_keys(f"{place}: while_rises", rule, _RULE_KEYS, needed=("metric", "steps"))
                measured += [str(_filled(rule["from"], scope))] if "from" in rule else []
            for settings in _settings(f"{place}: for", entry["for"]):
                inner = {**scope, **settings}
                own = () if rule is None or len(measured) < 2 else (Rule(rule["metric"], tuple(measured)),)
                yield from self.steps(entry["steps"], f"{where}steps[{number}].", inner, (*rules, *own))
                measured += [] if rule is None else [str(_filled(rule["steps"], inner))]

    def _step(self, place: str, entry: Any, scope: Mapping[str, Any], rules: tuple[Rule, ...]) -> Step:
        filled = _filled(entry, scope)
        _check_keys(place, filled, _STEP_KEYS, needed=("name", "verb"))
        require("${" not in filled["name"], f"{place}.name: expected known parameters alone, got {filled['name']}")
        name, verb = plain_name(filled["name"], f"{place}.name"), filled["verb"]
        place = f"{self.path}: {name}"
        known = ", ".join(self.verbs)
        require(verb in self.verbs, f"{place}: verb: expected one of {known}, got {verb}{_hint(verb, self.verbs)}")
        configs, needs = (_listed(filled.get(key, [])) for key in ("config", "needs"))
        try:
            configs = [str(find(config, "configs")) for config in configs]
        except TabomError as error:
            raise TabomError(f"{place}: config: {error}") from error
        options, given = _merged(f"{place}: options", filled.get("options", {})), filled.get("words", [])
        words = [as_word(word) for word in _flat_list(given)]
        require("config" not in options, f"{place}: options.config: expected the key config of the step, got an option")
        return Step(name, verb, configs, options, words, needs, rules)


def _settings(where: str, given: Any) -> Iterator[dict[str, Any]]:
    """What a loop goes over: all combinations of named lists, the first slowest, or a list of named values."""
    if isinstance(given, list):
        for one in given:
            require(isinstance(one, dict), f"{where}: expected values by name, got {one!r:.60}")
            yield one
        return
    for name, values in given.items():
        require(isinstance(values, list), f"{where}.{name}: expected a list, got {values!r:.60}")
    yield from (dict(zip(given, values, strict=True)) for values in itertools.product(*given.values()))


def _filled(value: Any, scope: Mapping[str, Any]) -> Any:
    """A value of the file with the values of its loops; what is no name of theirs stays as it is."""
    if isinstance(value, dict):
        return {_filled(key, scope): _filled(item, scope) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, scope) for item in value]
    if not isinstance(value, str):
        return value
    whole = _INNERMOST.fullmatch(value)
    if whole and whole[1] in scope:
        others = {name: other for name, other in scope.items() if name != whole[1]}
        return _filled(scope[whole[1]], others)
    filled = _INNERMOST.sub(lambda match: as_word(scope[match[1]]) if match[1] in scope else match[0], value)
    return value if filled == value else _filled(filled, scope)


def _connect(path: Path, step: Step, steps: Mapping[str, Step]) -> None:
    """Put the names of steps in the places of patterns, and add to the needs what is referred to."""
    where = f"{path}: {step.name}"
    named = {*step.needs, *(name for rule in step.rules for name in rule.steps)}
    needs = [name for pattern in sorted(named) for name in _matching(f"{where}: needs", pattern, step, steps)]
    words: list[str] = []
    for word in step.words:
        match = _INNERMOST.fullmatch(word)
        pattern, key = _parted(where, match[1], steps) if match else ("", "")
        is_pattern = match is not None and pattern not in steps
        found = _matching(f"{where}: {word}", pattern, step, steps) if is_pattern else []
        words += [f"${{{name}.{key}}}" for name in found] if is_pattern else [word]
        needs += found
    referred = [
        text for value in (*step.words, *map(as_word, step.options.values())) for text in _INNERMOST.findall(value)
    ]
    exact = {name for name, _ in (_parted(where, text, steps) for text in referred) if name in steps}
    step.words, step.needs = words, [name for name in steps if name in {*needs, *exact}]
    step.may_lack = set(step.needs) - named - exact


def _matching(where: str, pattern: str, step: Step, steps: Mapping[str, Step]) -> list[str]:
    if pattern in steps:
        return [pattern]
    found = [name for name in steps if fnmatchcase(name, pattern) and name != step.name]
    require(len(found) > 0, f"{where}: expected the name of a step, got {pattern}{_hint(pattern, steps)}")
    return found


def _parted(where: str, text: str, steps: Mapping[str, Step]) -> tuple[str, str]:
    """Name of a step, or a pattern of names, and the name of an option; both may have dots."""
    for index in [match.start() for match in re.finditer(r"\.", text)][::-1]:
        name, key = text[:index], text[index + 1 :]
        if name in steps or any(fnmatchcase(other, name) for other in steps):
            return name, key
    known = [f"{name}.{key}" for name in steps for key in (LAST, BEST)]
    raise TabomError(f"{where}: ${{{text}}}: expected a parameter, or STEP.OPTION{_hint(text, known)}")


def _flat(content: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of a configuration by the names of its options."""
    if isinstance(content, dict):
        for key, value in content.items():
            own = prefix if key in ("class_path", "init_args") else f"{prefix}.{key}" if prefix else str(key)
            yield from _flat(value, own)
    elif isinstance(content, list):
        for item in content:
            yield from _flat(item, prefix)
    else:
        yield prefix, content


def _merged(where: str, given: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """Options of a step; of a list of them the later ones win."""
    merged: dict[str, Any] = {}
    for part in given if isinstance(given, list) else [given]:
        require(isinstance(part, dict), f"{where}: expected options by name, got {part!r:.60}")
        merged |= part
    return merged


def _listed(value: Any) -> list[str]:
    """One or several; a list within the list counts as several."""
    return [str(item) for item in _flat_list(value if isinstance(value, list) else [value])]


def _flat_list(items: Sequence[Any]) -> list[Any]:
    return [one for item in items for one in (item if isinstance(item, list) else [item])]


def _check_keys(where: str, content: Mapping[str, Any], known: Mapping[str, Any], needed: Sequence[str]) -> None:
    for key, value in content.items():
        require(key in known, f"{where}: {key}: expected one of {', '.join(known)}{_hint(str(key), known)}")
        kind = getattr(known[key], "__name__", str(known[key]).replace(" | ", " or "))
        require(isinstance(value, known[key]), f"{where}: {key}: expected a {kind}, got {value!r:.60}")
    for key in needed:
        require(key in content, f"{where}: expected the key {key}, found none")


def _hint(name: str, known: Mapping[str, Any] | Sequence[str]) -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {close[0]}?" if close else ""
