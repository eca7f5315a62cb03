"""A sweep on a W&B server: created, and its first agent started at once."""

import os
import sys
from pathlib import Path
from typing import Any

from tabom.errors import TabomError


def create_and_run(sweep: dict[str, Any], *, entity: str | None, project: str, count: int | None) -> None:
    """Create a sweep on the server and run its trials here, as ``wandb sweep`` and ``wandb agent`` do.

    The first signal to stop goes on to the run, whose end is waited for.

    Args:
        sweep: As in the file.
        entity: User or team; if None the file's, or the default one of the user.
        project: On the server.
        count: Runs that this agent makes at most; None for all.

    Raises:
        TabomError: If there is no login, or the server does not answer or refuses.
    """
    import wandb
    from wandb.errors import Error

    entity = entity or sweep.get("entity")
    here = str(Path(sys.executable).parent)  # so that the agent finds the program without an active environment
    os.environ["PATH"] = os.pathsep.join([here, os.environ["PATH"]])
    try:
        sweep_id = wandb.sweep(sweep, entity=entity, project=project)
        name = "/".join([*filter(None, [entity]), project, sweep_id])
        print(f"another agent, here or on another machine: wandb agent {name}", flush=True)
        wandb.agent(sweep_id, entity=entity, project=project, count=count, forward_signals=True)
    except Error as error:
        raise TabomError(f"W&B: expected a sweep on the server, got: {error}") from error
