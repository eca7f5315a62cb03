"""Starts and ends W&B runs; a server that is away costs a bounded time, and no data."""

import contextlib
import os
import secrets
import shutil
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning import Trainer
from lightning.pytorch.loggers import Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.rank_zero import rank_zero_only  # pyright: ignore[reportPrivateImportUsage]

LIMITS = {
    "WANDB_INIT_TIMEOUT": "20",
    "WANDB_FINISH_TIMEOUT": "60",
    "WANDB_FINISH_TIMEOUT_RAISES": "true",
    "WANDB_X_TRANSACTION_LOG_FLUSH_INTERVAL": "2",
}
"""What W&B may wait for, in seconds, unless the environment says otherwise.

Its own limits are 90 seconds at the start and none at the end; the disk gets data every 15 seconds. Before the start it
asks who logs in, for 10 seconds more. In between nothing waits: data go to the disk, and from there to the server.
"""
GRACE = 3.0
"""Seconds until W&B's own process is ended, after the limit and after what the disk has to wait for."""


def without_disabled(loggers: Logger | Sequence[Logger]) -> list[Logger]:
    """Loggers, of which a W&B logger whose mode is ``disabled`` is replaced by one that logs nothing."""
    given = [loggers] if isinstance(loggers, Logger) else loggers
    return [DummyLogger() if _is_disabled(logger) else logger for logger in given]


def _is_disabled(logger: Logger) -> bool:
    mode = isinstance(logger, WandbLogger) and (logger._wandb_init.get("mode") or os.environ.get("WANDB_MODE"))
    return mode == "disabled"


def wandb_runs(trainer: Trainer) -> list[Any]:
    """W&B runs of a trainer, on the first process alone."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger.experiment for logger in loggers if isinstance(logger, WandbLogger)]


@rank_zero_only
def start_runs(loggers: Sequence[Logger]) -> None:
    """Start the W&B run, which Lightning would start later and without a way out.

    If the server cannot be reached, does not answer or gets no key that it takes, the same run is kept offline, and a
    line on stderr says how to send it later. Does nothing for a logger that is offline.
    """
    for logger in loggers:
        if isinstance(logger, WandbLogger) and not logger._offline:
            _start(logger)


def _start(logger: WandbLogger) -> None:
    import wandb
    from wandb.errors import CommError, UsageError

    for name, value in LIMITS.items():
        os.environ.setdefault(name, value)
    arguments = logger._wandb_init
    if "WANDB_RUN_ID" not in os.environ:
        arguments["id"] = arguments["id"] or secrets.token_hex(4)  # one id for both attempts
    try:
        _log_in(logger.experiment)
    except (CommError, UsageError) as error:
        wandb.teardown()  # otherwise the id is in use
        logger._experiment = None
        arguments["mode"] = "offline"
        reason = " ".join(str(error).split())
        _say(f"the server started no run ({reason}); it is kept offline, to be sent with", logger.experiment)


def _log_in(run: Any) -> None:
    """Ask the server now what W&B would ask at the first table or artifact, and raise for if the server is away then.

    Once logged in, it would still ask for the type of each artifact, and wait for the answer.
    """
    if not run.offline:
        run._public_api()
        run._assert_can_log_artifact = lambda artifact: None  # noqa: ARG005


def end_runs(exit_code: int) -> None:
    """End the W&B run, if there is one.

    What the server does not take within the limit stays on the disk, and a line on stderr says how to send it. W&B does
    not keep the limit while a table or an artifact is on its way, but asks twenty times, which takes half an hour. So
    its process is ended a little after the limit, when all is on the disk.
    """
    if "wandb" not in sys.modules:
        return  # nobody has started one; the import takes a second
    import wandb
    from wandb.sdk.mailbox import HandleAbandonedError, MailboxClosedError

    run: Any = wandb.run
    if run is None:
        return
    limit, interval = run.settings.finish_timeout, run.settings.x_transaction_log_flush_interval
    is_ended = threading.Event()
    timer = threading.Timer(limit + interval + GRACE, _end_service, [run, is_ended])
    if limit and interval:  # without an interval the disk would get the rest only after the server
        timer.start()
    try:
        wandb.finish(exit_code=exit_code)
    except (TimeoutError, HandleAbandonedError, MailboxClosedError) as error:
        if not (is_ended.is_set() or isinstance(error, TimeoutError)):
            raise
        what = f"the server did not take everything within {limit:g} s; nothing is lost, the rest is to be sent with"
        _say(what, run)
        if is_ended.is_set():
            with contextlib.suppress(ConnectionError):
                wandb.teardown()  # otherwise it is tried when our process ends, and fails
    finally:
        timer.cancel()


def discard_runs(loggers: Sequence[Logger]) -> list[Path]:
    """End the W&B run, if there is one, and remove what the disk has of it, unless a server has it as well.

    Returns:
        Directories that may be empty now.
    """
    runs: list[Any] = [logger._experiment for logger in loggers if isinstance(logger, WandbLogger)]
    end_runs(exit_code=1)
    directories: list[Path] = []
    for run in runs:
        if getattr(run, "offline", False):
            directory = Path(run.dir).parent
            shutil.rmtree(directory, ignore_errors=True)
            for link in directory.parent.iterdir():
                if link.is_symlink() and not link.exists():
                    link.unlink()
            directories.append(directory.parent)
    return directories


def _end_service(run: Any, is_ended: threading.Event) -> None:
    service = run._wl.assert_service()
    if service.owns_service:
        is_ended.set()
        service._proc._process.terminate()


def _say(what: str, run: Any) -> None:
    print(f"tabom: W&B: {what}: wandb sync {Path(run.dir).parent}", file=sys.stderr)
