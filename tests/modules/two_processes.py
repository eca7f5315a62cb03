"""Runs command lines of `tabom` in two processes that work together, one line after the other.

Usage: two_processes.py JOBS, a JSON file {name: [words]}. Writes NAME.pt beside it: metrics, steps and weights.
The libraries are imported once, and the processes are forked before anything has been computed.
"""

import json
import os
import socket
import sys
import warnings
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.tensor import DTensor

from tabom.cli.lightning_cli import run


def main(path):
    jobs = json.loads(path.read_text())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            try:
                work(rank, port, jobs, path.parent)
            except BaseException:
                sys.excepthook(*sys.exc_info())
                os._exit(1)
            os._exit(0)
        children.append(child)
    failures = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    sys.exit(any(failures))


def work(rank, port, jobs, directory):
    os.environ |= {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "GROUP_RANK": "0"},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "TORCHELASTIC_RUN_ID": "two"},
    }
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for name, words in jobs.items():
        cli = run(words)
        result = {
            "metrics": {key: value.item() for key, value in cli.trainer.callback_metrics.items()},
            "num_steps": cli.trainer.global_step,
            "weights": {key: whole(value) for key, value in cli.model.backbone.state_dict().items()},
            "num_numbers": sum(local(value).numel() for value in cli.model.backbone.parameters()),
        }
        if rank == 0:
            torch.save(result, directory / f"{name}.pt")
    distributed.destroy_process_group()


def whole(tensor):
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local(tensor):
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


if __name__ == "__main__":
    main(Path(sys.argv[1]))
