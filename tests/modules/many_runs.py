"""Starts commands of `tabom` at once, kills each at random moments, and starts it again until it ends by itself.

Usage: many_runs.py JOBS, a JSON file [{"words": [[...], ...], "num_kills": 2, "seconds": 1.0, "seed": 0}, ...] with a
command line for each run of a job. Prints the exit codes of the last starts, a list a job. The libraries are imported
once, and the processes are forked before anything has been computed.
"""

import json
import os
import random
import signal
import sys
import time
import warnings
from pathlib import Path

import torch

from tabom.cli import main
from tabom.cli.lightning_cli import run  # noqa: F401, imported once


def forked(words, log):
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        with log.open("a") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        torch.set_num_threads(1)
        warnings.simplefilter("ignore")
        main.main(words)
        code = 0
    except SystemExit as error:
        code = error.code
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        os._exit(code)


def work(job, directory):
    """Exit codes of the runs of a job."""
    chance = random.Random(job["seed"])
    logs = [directory / f"run{number}.log" for number in range(len(job["words"]))]
    kills = [job["num_kills"]] * len(logs)
    children, codes, due = {}, [None] * len(logs), {}

    def start(number):
        child = forked(job["words"][number], logs[number])
        children[child] = number
        if kills[number]:
            due[child] = time.monotonic() + chance.random() * job["seconds"]

    for number in range(len(logs)):
        start(number)
    while children:
        for child in [child for child, moment in due.items() if time.monotonic() > moment]:
            del due[child]
            os.kill(child, signal.SIGKILL)
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            time.sleep(0.005)
            continue
        number, code = children.pop(child), os.waitstatus_to_exitcode(status)
        due.pop(child, None)
        if code == -signal.SIGKILL:
            kills[number] -= 1
            start(number)
        else:
            codes[number] = code
    return codes


if __name__ == "__main__":
    path = Path(sys.argv[1])
    print(json.dumps([work(job, path.parent) for job in json.loads(path.read_text())]))
