"""Reads what W&B wrote to the disk, with W&B's own reader."""

import json
import subprocess
import sys
from pathlib import Path


def inspect(run_file, *options):
    """What ``wandb leet inspect --json`` prints."""
    command = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--json", *options, run_file]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def records(run_file, kind):
    """All records of a kind, in order."""
    return [record for record in map(json.loads, inspect(run_file).splitlines()) if record["type"] == kind]


def history(run_file):
    """What was logged, a dictionary for each step of W&B."""
    return [record["history"]["item"] for record in records(run_file, "history")]
