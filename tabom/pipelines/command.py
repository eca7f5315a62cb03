"""Run a pipeline file: its steps in order, side by side where they do not need each other.

The same command goes on with a pipeline that was stopped or killed; a step that has finished is not run again.
"""

import argparse
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from tabom.errors import TabomError, require
from tabom.shipped import find
from tabom.storage.claims import alone

DEMO, DEMO_FULL = "pipelines/demo", "pipelines/demo_full"
"""Names of shipped files."""


def parser() -> argparse.ArgumentParser:
    """Options of ``tabom pipeline``."""
    options = argparse.ArgumentParser("tabom pipeline", description=__doc__)
    options.add_argument("verb", help=argparse.SUPPRESS)
    options.add_argument("file", type=Path, metavar="FILE", help="pipeline file, or its shipped name: pipelines/demo")
    options.add_argument("--jobs", type=int, default=1, help="steps at once, with one thread each (1)")
    options.add_argument(
        "--set", action="append", default=[], dest="parameters", metavar="NAME=VALUE",
        help="a value, as YAML, in the place of the file's under parameters; may be given several times",
    )  # fmt: skip
    options.add_argument(
        "--rerun_changed", action="store_true", help="run steps anew that have changed since they finished"
    )
    return options


def demo_parser() -> argparse.ArgumentParser:
    """Options of ``tabom demo``."""
    text = f"Run {DEMO}: a tiny base, its trajectories, trainings, tests, and a page of tables and figures."
    options = argparse.ArgumentParser("tabom demo", description=text)
    options.add_argument("verb", help=argparse.SUPPRESS)
    options.add_argument("--seeds", type=int, nargs="+", help="of the post-trainings (1)")
    options.add_argument("--public_test", type=Path, help="CSV of public 4x4 Sudoku puzzles to be tested on as well")
    options.add_argument("--full", action="store_true", help=f"all methods, at equal forgetting: {DEMO_FULL}")
    options.add_argument("--jobs", type=int, default=_num_cores(), help="steps at once, with one thread each (cores)")
    options.add_argument("--rerun_changed", action="store_true", help="run steps anew that have changed")
    return options


def run(words: Sequence[str]) -> None:
    """``tabom pipeline`` and ``tabom demo``.

    Raises:
        TabomError: If the file or an option is not as it should be, or steps failed.
    """
    if words[0] == "pipeline":
        arguments = parser().parse_args(words)
        run_file(arguments.file, dict(map(_parameter, arguments.parameters)), arguments.jobs, arguments.rerun_changed)
        return
    arguments = demo_parser().parse_args(words)
    public_test = arguments.public_test and [str(arguments.public_test.resolve())]
    given = {"seeds": arguments.seeds, "public_tests": public_test}
    parameters = {name: value for name, value in given.items() if value is not None}
    run_file(DEMO_FULL if arguments.full else DEMO, parameters, arguments.jobs, arguments.rerun_changed)


def run_file(path: Path | str, parameters: dict[str, Any], num_jobs: int, reruns_changed: bool) -> None:
    """Run a pipeline file.

    Args:
        path: Of the file, or its shipped name.
        parameters: Take the place of the file's.
        num_jobs: Steps at once.
        reruns_changed: Run steps anew that have changed, which are refused otherwise.

    Raises:
        TabomError: As :func:`run`.
    """
    from tabom.cli.main import VERBS
    from tabom.pipelines.file import read_pipeline
    from tabom.pipelines.runner import Runner, devices

    require(num_jobs >= 1, f"jobs: expected at least 1, got {num_jobs}")
    pipeline = read_pipeline(
        find(path, "configs"), parameters, [verb for verb in VERBS if verb not in ("pipeline", "demo")]
    )
    width = shutil.get_terminal_size((120, 24)).columns
    with alone(pipeline.output_dir, "pipeline"):
        Runner(pipeline, num_jobs, reruns_changed=reruns_changed, devices=devices(), num_columns=width).run()


def _parameter(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    require(equals == "=", f"--set: expected NAME=VALUE, got {text}")
    try:
        return name, yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise TabomError(f"--set {name}: expected YAML, got {value}") from error


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
