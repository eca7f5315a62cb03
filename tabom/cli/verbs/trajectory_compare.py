"""Compare trajectories of the same queries, such as those with and without a cache, or of two batch sizes."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.table import Table

    from tabom.trajectories import TrajectoryTable


def comparison(first: Path, second: Path) -> dict[str, Any]:
    """How far the trajectories of ``second`` depart from those of ``first``, over the rows that are in both.

    Args:
        first: Directory with a manifest.
        second: Likewise, of the same tokenizer and response length.

    Returns:
        JSON-able. ``num_common``: rows of the same query and sample. ``identical``: share of them with the same tokens
        and steps. ``same_response``: share with the same tokens. ``token_agreement``: share of equal tokens.
        ``order_agreement``: share of the pairs of positions that ``first`` revealed in different steps, and ``second``
        in the same order. ``largest_entropy_difference``: in nats, over identical rows. ``verified``: rows by where
        their answers are right. ``tokens_per_second``: of each directory's finished runs, None where it is unknown.

    Raises:
        TabomError: If a directory is not as its manifest says, or the two have nothing in common.
    """
    import numpy as np
    import torch

    from tabom.errors import require
    from tabom.functional.agreement import order_agreement_counts
    from tabom.trajectories import Manifest, read_trajectories
    from tabom.trajectories.timings import tokens_per_second

    origin = Manifest.load(first).origin
    tables = [
        read_trajectories(
            directory,
            tokenizer_fingerprint=origin.tokenizer_fingerprint,
            response_length=origin.response_length,
        )
        for directory in (first, second)
    ]
    rows_of = [_rows(table) for table in tables]
    names = [name for name in rows_of[0] if name in rows_of[1]]
    require(bool(names), f"{second}: expected trajectories of the queries in {first}, found none of them")
    (ids, other_ids), (steps, other_steps), (entropies, other_entropies), (right, other_right) = (
        [getattr(table, column)[[rows[name] for name in names]] for table, rows in zip(tables, rows_of, strict=True)]
        for column in ("response_ids", "unmask_step", "unmask_entropy", "is_verified")
    )
    is_same_response = (ids == other_ids).all(1)
    is_identical = is_same_response & (steps == other_steps).all(1)
    num_agreeing = num_pairs = 0
    for mine, theirs in zip(torch.tensor(steps)[:, None], torch.tensor(other_steps).double()[:, None], strict=True):
        counts = order_agreement_counts(theirs, mine[:, :, None] < mine[:, None, :])
        num_agreeing, num_pairs = num_agreeing + int(counts[0]), num_pairs + int(counts[1])
    differences = np.abs(entropies - other_entropies)[is_identical]
    return {
        "first": str(first),
        "second": str(second),
        "num_common": len(names),
        "num_rows": [len(rows) for rows in rows_of],
        "identical": float(is_identical.mean()),
        "same_response": float(is_same_response.mean()),
        "token_agreement": float((ids == other_ids).mean()),
        "order_agreement": num_agreeing / num_pairs if num_pairs else None,
        "largest_entropy_difference": float(np.nanmax(differences)) if np.isfinite(differences).any() else None,
        "verified": {
            "both": int((right & other_right).sum()),
            "first alone": int((right & ~other_right).sum()),
            "second alone": int((~right & other_right).sum()),
            "neither": int((~right & ~other_right).sum()),
        },
        "tokens_per_second": [tokens_per_second(directory) for directory in (first, second)],
    }


def print_comparison(first: Path, second: Path, *, is_json: bool) -> None:
    """Print :func:`comparison` as JSON or as a table."""
    figures = comparison(first, second)
    if is_json:
        print(json.dumps(figures, indent=2))
        return

    from rich.console import Console

    Console(highlight=False, markup=False).print(_table(figures))


def _rows(table: "TrajectoryTable") -> dict[tuple[str, int], int]:
    names = zip(table.query_ids, table.samples.tolist(), strict=True)
    return {name: row for row, name in enumerate(names)}


def _table(figures: dict[str, Any]) -> "Table":
    from rich.table import Table

    table = Table(title=f"{figures['second']} against {figures['first']}", title_justify="left", show_header=False)
    table.add_row("trajectories in both", f"{figures['num_common']:,} of {' and '.join(map(str, figures['num_rows']))}")
    for key in ("identical", "same_response", "token_agreement", "order_agreement"):
        value = figures[key]
        table.add_row(key.replace("_", " "), "none" if value is None else f"{value:.2%}")
    difference = figures["largest_entropy_difference"]
    text = "none" if difference is None else f"{difference:.2e} nats"
    table.add_row("largest entropy difference in identical ones", text)
    for where, number in figures["verified"].items():
        table.add_row(f"verified: {where}", f"{number:,}")
    speeds = figures["tokens_per_second"]
    if None not in speeds:
        table.add_row(
            "tokens per second", f"{speeds[1]:,.1f} against {speeds[0]:,.1f} ({speeds[1] / speeds[0]:.2f} times)"
        )
    return table
