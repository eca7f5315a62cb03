"""Reads W&B sweep files."""

import functools
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from tabom.errors import TabomError, require
from tabom.storage.yaml_files import as_word, read_yaml

SEED = "seed_everything"
Method = Literal["grid", "random", "bayes"]
Goal = Literal["maximize", "minimize"]
_REQUIRED = {"method", "metric", "parameters", "command"}
_METRIC_KEYS = {"name", "goal"}
_KINDS = {
    "parameters": dict, "command": list, "metric": dict, "early_terminate": dict, "name": str, "description": str,
    "project": str, "entity": str, "then": list,
}  # fmt: skip
_MACROS = ("${env}", "${interpreter}", "${program}", "${args}")
_THEN_MACROS = ("${run_dir}", "${setting}")
_LARGEST_SEED = 2**32 - 1
_KEYS = _REQUIRED | {"name", "description", "project", "entity", "program", "early_terminate", "run_cap", "then"}
_DISTRIBUTIONS = {
    "constant": {"value"},
    "categorical": {"values"},
    "uniform": {"min", "max"},
    "int_uniform": {"min", "max"},
    "q_uniform": {"min", "max", "q"},
    "log_uniform_values": {"min", "max"},
}


@dataclass(frozen=True)
class Sweep:
    """A sweep as it is run.

    Attributes:
        path: Of the file.
        content: Of the file, with what the command line changed.
        fixed: Options that all runs share.
        axes: What is searched, by option, without the seed.
        seeds: Every setting is run with each; empty leaves the seed to the configuration.
    """

    path: Path
    content: dict[str, Any]
    fixed: dict[str, Any]
    axes: dict[str, BaseDistribution]
    seeds: tuple[int, ...]

    @property
    def name(self) -> str:
        """Group of the runs in W&B."""
        return self.content.get("name", self.path.stem)

    @property
    def method(self) -> Method:
        """Of the search."""
        return self.content["method"]

    @property
    def metric(self) -> str:
        """Stage and name of what is optimised."""
        return self.content["metric"]["name"]

    @property
    def goal(self) -> Goal:
        """What is to be done with it."""
        return self.content["metric"].get("goal", "minimize")

    @property
    def early_terminate(self) -> dict[str, int]:
        """Of hyperband; empty without."""
        return self.content.get("early_terminate", {})

    def grid(self) -> list[dict[str, Any]]:
        """All combinations, the first parameter slowest, without the seed."""
        choices = [axis.choices for axis in self.axes.values() if isinstance(axis, CategoricalDistribution)]
        return [dict(zip(self.axes, values, strict=True)) for values in itertools.product(*choices)]

    def words(self, values: Mapping[str, Any], seed: int | None) -> list[str]:
        """The command of one run after its program, with the options of a setting in the place of ``${args}``."""
        options = {**self.fixed, **values, **({} if seed is None else {SEED: seed})}
        arguments = [f"--{name}={as_word(value)}" for name, value in options.items()]
        macros = {macro: arguments if macro == "${args}" else [] for macro in _MACROS}
        return [word for part in self.content["command"] for word in macros.get(part, [str(part)])]

    def then(self, directory: Path, setting: str) -> list[list[str]]:
        """The commands of one run that follow, likewise.

        Args:
            directory: Of the run, for ``${run_dir}``.
            setting: Its name, for ``${setting}``.
        """
        texts = dict(zip(_THEN_MACROS, (str(directory), setting), strict=True))
        return [
            [functools.reduce(lambda text, macro: text.replace(*macro), texts.items(), str(word)) for word in command]
            for command in self.content.get("then", [])
        ]


def read_sweep(
    path: Path,
    *,
    config: str | None = None,
    seeds: Sequence[int] = (),
    run_cap: int | None = None,
    further: Sequence[str] = (),
) -> Sweep:
    """Read a file and change it as the command line says.

    Args:
        path: YAML, as ``wandb sweep`` takes it.
        config: Takes the place of the first ``--config`` in the command.
        seeds: Take the place of the file's.
        run_cap: Takes the place of the file's.
        further: Words added to the command.

    Raises:
        TabomError: Naming file and key, if something is not as it should be or not understood.
    """
    content = _load(path)
    command = [*map(str, content["command"]), *further]
    if config is not None:
        require("--config" in command, f"{path}: command: expected --config to be replaced by --config, found none")
        command[command.index("--config") + 1] = config
    parameters = dict(content["parameters"])
    if seeds:
        parameters[SEED] = {"values": list(seeds)}
    content |= {"command": command, "parameters": parameters}
    if run_cap is not None:
        content["run_cap"] = run_cap
    drawn = {name: _axis(f"{path}: parameters.{name}", parameter) for name, parameter in parameters.items()}
    fixed = {name: parameters[name]["value"] for name, axis in drawn.items() if axis is None}
    axes = {name: axis for name, axis in drawn.items() if axis is not None}
    seed_axis = axes.pop(SEED, CategoricalDistribution([None]))
    if not isinstance(seed_axis, CategoricalDistribution):
        raise TabomError(f"{path}: parameters.{SEED}: expected values")
    given = [seed for seed in seed_axis.choices if seed is not None]
    seeds_read = tuple(seed for seed in given if isinstance(seed, int) and 0 <= seed <= _LARGEST_SEED)
    expected = f"expected whole numbers from 0 to {_LARGEST_SEED}"
    require(len(seeds_read) == len(given), f"{path}: parameters.{SEED}: {expected}, got {given}")
    sweep = Sweep(path, content, fixed, axes, seeds_read)
    _check_search(sweep)
    return sweep


def _load(path: Path) -> dict[str, Any]:
    require(path.is_file(), f"{path}: expected a sweep file, found none")
    content = read_yaml(path)
    for key in content:
        require(key in _KEYS, f"{path}: {key}: expected one of {', '.join(sorted(_KEYS))}")
    for key in sorted(_REQUIRED):
        require(key in content, f"{path}: expected the key {key}, found none")
    for key, kind in _KINDS.items():
        value = content.get(key, kind())
        require(isinstance(value, kind), f"{path}: {key}: expected a {kind.__name__}, got {value!r}")
    for key in content["metric"]:
        require(key in _METRIC_KEYS, f"{path}: metric.{key}: expected one of {', '.join(sorted(_METRIC_KEYS))}")
    for part in content["command"]:
        is_known = not str(part).startswith("${") or part in _MACROS
        require(is_known, f"{path}: command: expected no other macros than {', '.join(_MACROS)}, got {part}")
    require("${args}" in content["command"], f"{path}: command: expected ${{args}} in it, found none")
    for number, words in enumerate(content.get("then", [])):
        is_command = isinstance(words, list) and len(words) > 0
        require(is_command, f"{path}: then[{number}]: expected a list of words, got {words!r}")
        found = {macro for word in words for macro in re.findall(r"\$\{[^}]*\}", str(word))}
        unknown = sorted(found - {*_THEN_MACROS})
        expected = f"expected no other macros than {', '.join(_THEN_MACROS)}"
        require(not unknown, f"{path}: then[{number}]: {expected}, got {', '.join(unknown)}")
    _check_choice(path, "program", content.get("program", "tabom"), ("tabom",))
    _check_choice(path, "method", content["method"], get_args(Method))
    _check_choice(path, "metric.goal", content["metric"].get("goal", "minimize"), get_args(Goal))
    name = content["metric"].get("name")
    is_name = isinstance(name, str) and "/" in name
    require(is_name, f"{path}: metric.name: expected STAGE/NAME, such as validate/kl, got {name}")
    return content


def _check_choice(path: Path, key: str, value: object, choices: Sequence[str]) -> None:
    require(value in choices, f"{path}: {key}: expected {' or '.join(choices)}, got {value}")


def _axis(where: str, given: Any) -> BaseDistribution | None:
    """What a parameter is drawn from; None for a single value."""
    require(isinstance(given, dict), f"{where}: expected value, values, or min and max, got {given}")
    default = "constant" if "value" in given else "categorical" if "values" in given else "uniform"
    if default == "uniform" and all(isinstance(given.get(key), int) for key in ("min", "max")):
        default = "int_uniform"
    name = str(given.get("distribution", default))
    require(name in _DISTRIBUTIONS, f"{where}: distribution: expected one of {', '.join(_DISTRIBUTIONS)}, got {name}")
    expected, got = (", ".join(sorted(keys)) for keys in (_DISTRIBUTIONS[name], given.keys() - {"distribution"}))
    require(got == expected, f"{where}: expected {expected} with distribution {name}, got {got}")
    if name == "constant":
        return None
    if name == "categorical":
        values = given["values"]
        is_plain = isinstance(values, list) and all(isinstance(v, str | int | float | None) for v in values)
        require(is_plain and len(values) > 0, f"{where}: values: expected a list of plain values, got {values}")
        require(len(set(values)) == len(values), f"{where}: values: expected each of them once, got {values}")
        return CategoricalDistribution(values)
    low, high = given["min"], given["max"]
    is_range = all(isinstance(bound, int | float) for bound in (low, high)) and low < high
    require(is_range, f"{where}: expected numbers, min below max, got {low} and {high}")
    if name == "int_uniform":
        require(
            isinstance(low, int) and isinstance(high, int), f"{where}: expected whole numbers, got {low} and {high}"
        )
        return IntDistribution(low, high)
    is_log = name == "log_uniform_values"
    require(not is_log or low > 0, f"{where}: min: expected a number above 0 for a logarithmic range, got {low}")
    step = given.get("q")
    is_step = step is None or (isinstance(step, int | float) and step > 0)
    require(is_step, f"{where}: q: expected a number above 0, got {step}")
    return FloatDistribution(low, high, log=is_log, step=step)


def _check_search(sweep: Sweep) -> None:
    path = sweep.path
    cap = sweep.content.get("run_cap")
    is_cap = (cap is None and sweep.method == "grid") or (isinstance(cap, int) and cap > 0)
    what = f"a number of runs, or --num_runs, for method {sweep.method}"
    require(is_cap, f"{path}: run_cap: expected {what}, got {cap}")
    if sweep.method == "grid":
        ranges = [name for name, axis in sweep.axes.items() if not isinstance(axis, CategoricalDistribution)]
        require(not ranges, f"{path}: parameters.{next(iter(ranges), '')}: expected values, since the method is grid")
    if sweep.early_terminate:
        require("then" not in sweep.content, f"{path}: early_terminate: expected none beside then, got one")
        hyperband = dict(sweep.early_terminate)
        kind = hyperband.pop("type", None)
        require(kind == "hyperband", f"{path}: early_terminate.type: expected hyperband, got {kind}")
        keys = set(hyperband) - {"eta"}
        require(
            keys in ({"min_iter"}, {"max_iter", "s"}),
            f"{path}: early_terminate: expected min_iter, or max_iter and s, got {', '.join(sorted(keys)) or 'none'}",
        )
        for key, value in hyperband.items():
            least = 2 if key == "eta" else 1
            is_number = isinstance(value, int) and value >= least
            require(is_number, f"{path}: early_terminate.{key}: expected a whole number from {least} on, got {value}")


def identity(sweep: Sweep) -> dict[str, Any]:
    """What must be the same when a sweep is gone on with; the number of runs may grow."""
    content = {key: value for key, value in sweep.content.items() if key not in ("description", "run_cap")}
    return {**content, "seeds": list(sweep.seeds)}
