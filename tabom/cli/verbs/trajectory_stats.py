"""Count and average what is in a directory of trajectories."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.cli.verbs.trajectory_show import load_matching
from tabom.storage.settings import flat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from torch import Tensor

    from tabom.trajectories import TrajectoryTable

NUM_DECILES = 10
BAR_WIDTH = 30


def statistics(directory: Path, *, tokenizer: str | None = None) -> dict[str, Any]:
    """Figures of a directory, from one pass over its validated shards.

    Args:
        directory: With a manifest.
        tokenizer: Of the token ids. With one, positions after the first end of sequence count nowhere; without, they
            count for everything but the response tokens, of which only the mean is known.

    Returns:
        JSON-able. ``verified_rate``: verified over decoded. ``response_tokens``: up to and with the first end of
        sequence; the mean over all that were decoded, median and largest over the rows. ``steps``: that revealed a
        position, per row. ``left_to_right``: share of the revealed positions with none left masked further left.
        ``entropy_by_decile``: mean recorded entropy in nats of the tenth of each row's positions that was revealed
        first, of the next, and so on. None where there is nothing to average.

    Raises:
        TabomError: If the directory is not as its manifest says, or the tokenizer is another one.
    """
    import numpy as np

    from tabom.trajectories import stream_shards
    from tabom.types import NEVER

    manifest, loaded = load_matching(directory, tokenizer)
    eos = None if loaded is None else int(loaded.eos_token_id)
    steps: list[int] = []
    lengths: list[int] = []
    num_in_order = num_revealed = 0
    entropy, num_entropies = np.zeros(NUM_DECILES), np.zeros(NUM_DECILES)
    for _, table in stream_shards(directory):
        where = _positions(table, eos)
        steps += (np.where(where.numpy(), table.unmask_step, NEVER).max(1) + 1).tolist()
        lengths += where.sum(1).tolist()
        counts = _order_counts(table, where)
        num_in_order, num_revealed = num_in_order + counts[0], num_revealed + counts[1]
        for total, part in zip((entropy, num_entropies), _entropy_by_decile(table, where), strict=True):
            total += part
    return {
        "path": str(directory),
        "origin": vars(manifest.origin),
        "num_shards": len(manifest.shards),
        "num_queries": manifest.num_queries,
        "num_rows": manifest.num_rows,
        "num_verified": manifest.num_verified,
        "verified_rate": _share(manifest.num_verified, manifest.num_queries),
        "rejected": manifest.rejected,
        "response_tokens": {
            "mean": _share(manifest.num_tokens, manifest.num_queries),
            **({} if eos is None else _middle_and_max(lengths)),
        },
        "steps": {"mean": _share(sum(steps), len(steps)), **_middle_and_max(steps)},
        "left_to_right": _share(num_in_order, num_revealed),
        "entropy_by_decile": [_share(*pair) for pair in zip(entropy.tolist(), num_entropies.tolist(), strict=True)],
    }


def print_stats(directory: Path, *, tokenizer: str | None, is_json: bool) -> None:
    """Print :func:`statistics` as JSON or as tables."""
    figures = statistics(directory, tokenizer=tokenizer)
    if is_json:
        print(json.dumps(figures, indent=2))
        return

    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def show(title: str, rows: "Iterator[tuple[str, ...]]") -> None:
        table = Table(title=title, title_justify="left", show_header=False)
        for cells in rows:
            table.add_row(*(Text(cell, overflow="fold") for cell in cells))
        console.print(table)

    console = Console(highlight=False, markup=False)
    show("Origin", ((key, str(value)) for key, value in flat(figures["origin"])))
    show("Trajectories", _count_rows(figures))
    show("Entropy when revealed, by tenth of the decoding, nats", _bars(figures["entropy_by_decile"]))


def _positions(table: "TrajectoryTable", eos: int | None) -> "Tensor":
    import torch

    from tabom.functional.end_of_sequence import until_eos

    response_ids = torch.tensor(table.response_ids)
    return torch.ones_like(response_ids, dtype=torch.bool) if eos is None else until_eos(response_ids, eos)


def _order_counts(table: "TrajectoryTable", where: "Tensor") -> tuple[int, int]:
    """Positions that were revealed from left to right, and all that were revealed."""
    import torch

    from tabom.functional.unmasking import non_left_to_right
    from tabom.types import NEVER

    step = torch.tensor(table.unmask_step)
    is_revealed = where & (step != NEVER)
    num_revealed = int(is_revealed.sum())
    return num_revealed - int(non_left_to_right(step, is_revealed=is_revealed, where=where).sum()), num_revealed


def _entropy_by_decile(
    table: "TrajectoryTable", where: "Tensor"
) -> "tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]":
    """Sum and number of the recorded entropies in each tenth of a row's decoding order."""
    import torch

    from tabom.functional.unmasking import unmasking_order
    from tabom.types import NEVER

    step, entropy = torch.tensor(table.unmask_step), torch.tensor(table.unmask_entropy)
    is_revealed = where & (step != NEVER)
    num_revealed = is_revealed.sum(1, keepdim=True).clamp(min=1)
    decile = unmasking_order(step, entropy, where=is_revealed) * NUM_DECILES // num_revealed
    is_recorded = is_revealed & ~entropy.isnan()
    chosen = decile[is_recorded]
    sums = torch.bincount(chosen, entropy[is_recorded].double(), NUM_DECILES)
    return sums.numpy(), torch.bincount(chosen, minlength=NUM_DECILES).double().numpy()


def _middle_and_max(values: list[int]) -> dict[str, float | int | None]:
    import statistics as stdlib

    return {"median": stdlib.median(values) if values else None, "max": max(values, default=None)}


def _share(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _count_rows(figures: Mapping[str, Any]) -> "Iterator[tuple[str, str]]":
    yield "decoded", f"{figures['num_queries']:,}"
    yield "kept", f"{figures['num_rows']:,}"
    yield "verified", f"{figures['num_verified']:,} ({_number(figures['verified_rate'], '.1%')})"
    for reason, count in figures["rejected"].items():
        yield f"rejected: {reason}", f"{count:,}"
    for key, name in (("response_tokens", "response tokens up to EOS"), ("steps", "steps")):
        yield name, ", ".join(f"{kind} {_number(value, ',.4g')}" for kind, value in figures[key].items())
    yield "decoded left to right", _number(figures["left_to_right"], ".1%")


def _bars(entropies: list[float | None]) -> "Iterator[tuple[str, str, str]]":
    largest = max((entropy or 0.0 for entropy in entropies), default=0.0) or 1.0
    for decile, entropy in enumerate(entropies):
        bar = "█" * round(BAR_WIDTH * (entropy or 0.0) / largest)
        yield f"{decile * 10}-{decile * 10 + 10} %", _number(entropy, ".3f"), bar


def _number(value: float | None, spec: str) -> str:
    return "none" if value is None else format(value, spec)
