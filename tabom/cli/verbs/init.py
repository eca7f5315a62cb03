"""``tabom init DIR``: copy the shipped configurations and sweeps, to change them."""

import argparse
import shutil
from collections.abc import Sequence
from pathlib import Path

from tabom.errors import require
from tabom.shipped import FOLDERS, root


def run(words: Sequence[str]) -> None:
    """Copy ``configs`` and ``sweeps`` into a directory, which is made if it is missing.

    Raises:
        TabomError: If one of them is there already; nothing is copied then.
    """
    parser = argparse.ArgumentParser("tabom init", description=__doc__)
    parser.add_argument("verb", help=argparse.SUPPRESS)
    parser.add_argument("directory", type=Path, metavar="DIR", help="gets the folders configs and sweeps")
    directory: Path = parser.parse_args(words).directory
    for folder in FOLDERS:
        require(not (directory / folder).exists(), f"{directory / folder}: expected none yet, found one")
    for folder in FOLDERS:
        shutil.copytree(root() / folder, directory / folder)
    print(f"{directory}: configs/ and sweeps/; begin with: tabom fit --config configs/demo/tabom.yaml --print_config")
