"""Configurations and sweeps that come with the package; they are found by name from any directory."""

import difflib
from pathlib import Path

from tabom.errors import TabomError

FOLDERS = ("configs", "sweeps")


def root() -> Path:
    """Directory that holds ``configs`` and ``sweeps``: the package in a wheel, the repository in a checkout."""
    package = Path(__file__).parent
    return package if (package / FOLDERS[0]).is_dir() else package.parent


def names(folder: str) -> list[str]:
    """Names of the shipped files of ``configs`` or ``sweeps``, without suffix: ``demo/tabom``."""
    place = root() / folder
    return sorted(path.relative_to(place).with_suffix("").as_posix() for path in place.rglob("*.yaml"))


def find(name: str | Path, folder: str) -> Path:
    """The file that is meant: one at this path, else a shipped one.

    Args:
        name: Path of a file, or name of a shipped one: ``demo/tabom``, also as ``configs/demo/tabom.yaml``.
        folder: ``configs`` or ``sweeps``.

    Raises:
        TabomError: If there is neither; the message names the nearest one.
    """
    path = Path(name)
    if path.is_file():
        return path
    known = names(folder)
    wanted = path.with_suffix("") if path.suffix == ".yaml" else path
    short = wanted.relative_to(folder) if wanted.is_relative_to(folder) else wanted
    if short.as_posix() in known:
        return root() / folder / f"{short.as_posix()}.yaml"
    beside = [str(other) for other in path.parent.glob("*.yaml")]
    close = difflib.get_close_matches(str(path), beside, n=1) or difflib.get_close_matches(short.as_posix(), known, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    raise TabomError(f"{name}: expected a file, or the name of one in {folder} (tabom init DIR copies them){hint}")
