"""Run a W&B sweep file: on this machine without a server, or with one.

The same command goes on with a sweep that was stopped or killed. Words after -- are added to every run's command.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tabom.errors import TabomError, require
from tabom.shipped import find
from tabom.storage.claims import alone


def parser() -> argparse.ArgumentParser:
    """Options of ``tabom sweep``."""
    options = argparse.ArgumentParser("tabom sweep", description=__doc__)
    options.add_argument("verb", help=argparse.SUPPRESS)
    options.add_argument(
        "file", type=Path, metavar="FILE", help="sweep file, as wandb sweep takes it, or its shipped name"
    )
    options.add_argument("--config", metavar="FILE", help="takes the place of the --config in the file's command")
    options.add_argument("--seeds", type=int, nargs="+", default=[], help="every setting is run with each of them")
    options.add_argument("--num_runs", type=int, help="at most (the file's run_cap)")
    options.add_argument("--jobs", type=int, help="runs at once (1)")
    options.add_argument("--output_dir", type=Path, help="where the runs are kept (runs/sweeps/NAME_OF_THE_FILE)")
    server = options.add_argument_group("with a W&B server")
    server.add_argument("--wandb", action="store_true", dest="is_on_server", help="create the sweep, start an agent")
    server.add_argument("--entity", help="user or team (your default one)")
    server.add_argument("--project", help="on the server (the file's, or tabom)")
    server.add_argument("--count", type=int, help="runs that this agent makes at most")
    return options


def run(words: Sequence[str]) -> None:
    """``tabom sweep``.

    Raises:
        TabomError: If the file is not as it should be, an option has no use, or runs failed.
    """
    own, further = list(words), []
    if "--" in own:
        index = own.index("--")
        own, further = own[:index], own[index + 1 :]
    arguments = parser().parse_args(own)
    try:
        from tabom.sweeping.file import read_sweep
        from tabom.sweeping.runner import Runner
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise TabomError("tabom sweep: expected the package optuna, found none; pip install 'tabom[sweep]'") from error
    changes = {"config": arguments.config, "seeds": arguments.seeds, "run_cap": arguments.num_runs, "further": further}
    sweep = read_sweep(find(arguments.file, "sweeps"), **changes)
    for name in ("jobs", "count"):
        number = getattr(arguments, name)
        require(number is None or number >= 1, f"{name}: expected at least 1, got {number}")
    for name in ("jobs", "output_dir") if arguments.is_on_server else ("entity", "project", "count"):
        kind = "no --wandb" if arguments.is_on_server else "--wandb"
        require(getattr(arguments, name) is None, f"{name}: expected {kind} beside it")
    if arguments.is_on_server:
        file = arguments.file
        require("then" not in sweep.content, f"{file}: then: expected none with --wandb, whose agents run one command")
        _run_on_server(sweep.content, arguments)
        return
    output_dir = arguments.output_dir or Path("runs/sweeps") / arguments.file.stem
    with alone(output_dir, "sweep"):
        Runner(sweep, output_dir, 1 if arguments.jobs is None else arguments.jobs).run()


def _run_on_server(sweep: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Create the sweep and run its trials here; the first signal to stop goes on to the run, and its end is awaited."""
    import wandb
    from wandb.errors import Error

    entity, project = arguments.entity or sweep.get("entity"), arguments.project or sweep.get("project", "tabom")
    here = str(Path(sys.executable).parent)  # so that the agent finds the program without an active environment
    os.environ["PATH"] = os.pathsep.join([here, os.environ["PATH"]])
    try:
        sweep_id = wandb.sweep(sweep, entity=entity, project=project)
        name = "/".join([*filter(None, [entity]), project, sweep_id])
        print(f"another agent, here or on another machine: wandb agent {name}", flush=True)
        wandb.agent(sweep_id, entity=entity, project=project, count=arguments.count, forward_signals=True)
    except Error as error:
        raise TabomError(f"W&B: expected a sweep on the server, got: {error}") from error
