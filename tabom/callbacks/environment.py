"""What a run ran in: source, versions and hardware."""

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

_PACKAGES = (
    "tabom", "torch", "lightning", "transformers", "peft", "datasets", "torchmetrics", "jsonargparse", "wandb", "numpy",
)  # fmt: skip


def environment(num_processes: int) -> dict[str, Any]:
    """Commit of the working directory (None outside a repository), versions of the packages that matter, hardware."""
    commit = _git("rev-parse", "HEAD")
    return {
        "git_commit": commit,
        "is_git_dirty": None if commit is None else bool(_git("status", "--porcelain", "--untracked-files=no")),
        "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": _cpu(),
        "num_cpus": os.cpu_count(),
        "num_threads": torch.get_num_threads(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpus": [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())],
        "num_processes": num_processes,
    }


def _git(*words: str) -> str | None:
    try:
        done = subprocess.run(["git", *words], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, or no commit in it
        return None
    return done.stdout.strip()


def _cpu() -> str:
    """The processor's name, which ``platform`` leaves out on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor()
    )
