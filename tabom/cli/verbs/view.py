"""Write a page that plays trajectories step by step, of one model or of two beside each other."""

import argparse
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from tabom.errors import TabomError, require

if TYPE_CHECKING:
    from tabom.types import Grid


class _Key(NamedTuple):
    """What rows of two directories are paired by; ``copy`` tells apart those of one that are otherwise alike."""

    prompt: str
    sample: int
    copy: int


def write_page(
    directories: Sequence[Path],
    output: Path,
    *,
    tokenizer: str | None = None,
    names: Sequence[str] = (),
    num_trajectories: int = 200,
    query_ids: Sequence[str] = (),
    task: str | None = None,
) -> str:
    """Write the page.

    Trajectories of two models belong together where prompt and sample are the same. Those that both models decoded come
    first, then those of one alone.

    Args:
        directories: One or two, each with a manifest.
        output: File that is written, or written anew.
        tokenizer: Of the token ids; without one the ids are shown.
        names: Of the models; without any, the directories'.
        num_trajectories: Shown at most of each model, spread evenly over its directory.
        query_ids: Show these queries alone, and all their trajectories.
        task: Class that draws the answers; None is the one of :mod:`tabom.tasks` that the first manifest names, if any.

    Returns:
        Which are shown.

    Raises:
        TabomError: If a value is out of range; if a directory is not as its manifest says or holds nothing; if two have
            no query in common; if a query is in none; or if the tokenizer is another one.
    """
    from tabom.cli.verbs.trajectory_show import load_matching
    from tabom.storage.files import whole_file
    from tabom.trajectories import read_rows
    from tabom.viewer import viewer_page

    _check(directories, output, names, num_trajectories)
    loaded, drawing = None, _drawing(directories[0], task)
    for directory in directories:
        manifest, loaded = load_matching(directory, tokenizer)
        require(manifest.num_rows > 0, f"{directory}: expected at least one trajectory, the manifest counts none")
    id_of: dict[_Key, str] = {}
    rows_of = [_row_of_key(directory, id_of) for directory in directories]
    common = [key for key in id_of if all(key in rows for rows in rows_of)]
    alone = [key for key in id_of if key not in set(common)]
    require(bool(common), f"{directories[-1]}: expected trajectories of the queries in {directories[0]}, found none")
    if query_ids:
        for query_id in query_ids:
            require(
                query_id in id_of.values(),
                f"--query_ids: expected queries in {' or '.join(map(str, directories))}, got {query_id}",
            )
        chosen = [key for key in (*common, *alone) if id_of[key] in query_ids]
    else:
        chosen = _spread(common, num_trajectories)
        chosen += _spread(alone, num_trajectories - len(chosen))
    decoded = []
    for directory, rows in zip(directories, rows_of, strict=True):
        content = read_rows(directory, [rows[key] for key in chosen if key in rows])
        decoded.append([content[rows[key]] if key in rows else None for key in chosen])
    models = names or [str(directory) for directory in directories]
    note = _note(len(chosen), len(id_of), is_choice=bool(query_ids))
    queries = list(zip(*decoded, strict=True))
    page = viewer_page(models, queries, loaded, title=" and ".join(models), note=note, drawing=drawing)
    output.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(output) as file:
        file.write(page.encode())
    return note


def parser() -> argparse.ArgumentParser:
    """Options of ``tabom view``."""
    options = argparse.ArgumentParser("tabom view", description=__doc__)
    options.add_argument("verb", help=argparse.SUPPRESS)
    options.add_argument(
        "shards", type=Path, nargs="+", metavar="SHARDS", help="directory with a manifest.json; a second, beside it"
    )
    options.add_argument("-o", "--output", type=Path, default=Path("viewer.html"), help="the page (viewer.html)")
    options.add_argument("--tokenizer", help="directory or hub id of the tokenizer that made the token ids")
    options.add_argument("--names", nargs="+", default=(), help="of the models, as the page has them")
    options.add_argument(
        "--task", metavar="CLASS", help="that draws the answers, as MODULE.CLASS (a task of tabom draws its own itself)"
    )
    which = options.add_mutually_exclusive_group()
    which.add_argument("--num_trajectories", type=int, default=200, help="shown at most, spread evenly (200)")
    which.add_argument("--query_ids", nargs="+", default=(), metavar="ID", help="show these queries alone")
    return options


def run(words: Sequence[str]) -> None:
    """``tabom view``."""
    arguments = parser().parse_args(words)
    note = write_page(
        arguments.shards,
        arguments.output,
        tokenizer=arguments.tokenizer,
        names=arguments.names,
        num_trajectories=arguments.num_trajectories,
        query_ids=arguments.query_ids,
        task=arguments.task,
    )
    print(f"{arguments.output}: {note}")


def _check(directories: Sequence[Path], output: Path, names: Sequence[str], num_trajectories: int) -> None:
    require(len(directories) <= 2, f"SHARDS: expected one directory or two, got {len(directories)}")
    require(
        output.suffix == ".html" and not output.is_dir(), f"--output: expected a file that ends in .html, got {output}"
    )
    require(
        len(names) in (0, len(directories)),
        f"--names: expected as many as directories ({len(directories)}), got {len(names)}",
    )
    require(num_trajectories >= 1, f"--num_trajectories: expected at least 1, got {num_trajectories}")


def _drawing(directory: Path, task: str | None) -> "Callable[[str], Grid | None] | None":
    """How a task draws; a manifest names classes, and of these only our own are imported."""
    import pkgutil

    from tabom import tasks
    from tabom.trajectories import Manifest

    if task is None:
        name = str(Manifest.load(directory).origin.settings.get("task"))
        own = getattr(tasks, name.rpartition(".")[2], None)
        return own.drawing if own is not None and f"{own.__module__}.{own.__qualname__}" == name else None
    try:
        kind = pkgutil.resolve_name(task)
    except (ImportError, AttributeError, ValueError) as error:
        raise TabomError(f"--task: expected a class as MODULE.CLASS, got {task} ({error})") from error
    require(hasattr(kind, "drawing"), f"--task: expected a task with the method drawing, got {task}")
    return kind.drawing


def _row_of_key(directory: Path, id_of: dict[_Key, str]) -> dict[_Key, int]:
    """Number of each row; query ids of new keys are added to ``id_of``."""
    from tabom.trajectories import row_names

    rows: dict[_Key, int] = {}
    num_copies: Counter[tuple[str, int]] = Counter()
    for row, (query_id, sample, prompt) in enumerate(row_names(directory)):
        key = _Key(prompt, sample, num_copies[prompt, sample])
        num_copies[prompt, sample] += 1
        rows[key] = row
        id_of.setdefault(key, query_id)
    return rows


def _spread(keys: Sequence[_Key], num: int) -> list[_Key]:
    num = min(num, len(keys))
    return [keys[i * len(keys) // num] for i in range(num)]


def _note(num_shown: int, num_total: int, *, is_choice: bool) -> str:
    if num_shown == num_total:
        return f"all {num_total:,} trajectories"
    return f"{num_shown:,} of {num_total:,} trajectories, {'chosen by query' if is_choice else 'spread evenly'}"
