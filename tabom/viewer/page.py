"""Makes the page: trajectories as JSON in a template."""

import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader

from tabom.types import Grid, TrajectoryRow


def viewer_page(
    models: Sequence[str],
    queries: Sequence[Sequence[TrajectoryRow | None]],
    tokenizer: Any | None,
    *,
    title: str,
    note: str,
    drawing: Callable[[str], Grid | None] | None = None,
) -> str:
    """One HTML page with everything in it.

    Args:
        models: Names of one or more models, shown beside each other.
        queries: What each model decoded for a query; None where it has no trajectory.
        tokenizer: Turns token ids into text; without one the ids are shown.
        title: Of the page.
        note: Which trajectories these are.
        drawing: How an answer to a prompt is drawn beside its tokens, as :meth:`Task.drawing` says.

    Returns:
        The page. Token ids, steps and entropies (nats, to four decimals) are embedded as JSON.
    """
    rows = [row for query in queries for row in query if row is not None]
    ids = sorted(set(itertools.chain.from_iterable(row.response_ids for row in rows)))
    numbers = {token: number for number, token in enumerate(ids)}
    data: dict[str, Any] = {
        "models": list(models),
        "texts": [str(token) if tokenizer is None else tokenizer.decode([token]) for token in ids],
        "queries": [_query(query, numbers, getattr(tokenizer, "eos_token_id", None)) for query in queries],
    }
    if tokenizer is not None:  # ids have nothing in common with a reference
        for query, decoded in zip(data["queries"], queries, strict=True):
            grid = drawing(query["prompt"]) if drawing is not None else None
            query["grid"] = grid and dataclasses.asdict(grid)
            for decoding, row in zip(query["decodings"], decoded, strict=True):
                if row is not None:
                    texts = [data["texts"][token] for token in decoding["tokens"][: decoding["numCounted"]]]
                    decoding["differing"] = [] if row.is_verified else _differing(texts, row.reference)
    environment = Environment(loader=PackageLoader("tabom.viewer"), autoescape=True)
    environment.policies["json.dumps_kwargs"] = {"separators": (",", ":"), "allow_nan": False}
    return environment.get_template("viewer.html").render(title=title, note=note, models=models, data=data)


def _query(decoded: Sequence[TrajectoryRow | None], numbers: dict[int, int], eos: int | None) -> dict[str, Any]:
    first = next(row for row in decoded if row is not None)
    return {
        "id": first.query_id if first.sample == 0 else f"{first.query_id}, sample {first.sample}",
        "task": first.query_id.rpartition("/")[0] or "unnamed",
        "prompt": first.prompt,
        "reference": first.reference,
        "decodings": [row and _decoding(row, numbers, eos) for row in decoded],
        "grid": None,
    }


def _decoding(row: TrajectoryRow, numbers: dict[int, int], eos: int | None) -> dict[str, Any]:
    is_end = [token == eos for token in row.response_ids]
    end = is_end.index(True) if True in is_end else len(is_end)
    return {
        "isCorrect": row.is_verified,
        "response": row.response,
        "tokens": [numbers[token] for token in row.response_ids],
        "steps": row.unmask_step,
        "entropies": [None if math.isnan(value) else round(value, 4) for value in row.unmask_entropy],
        "numCounted": end,
        "numTokens": min(end + 1, len(is_end)),
        "differing": [],
    }


def _differing(texts: Sequence[str], reference: str) -> list[int]:
    """Tokens that differ from the reference, character by character without blanks; none where the lengths differ."""
    characters = [(character, number) for number, text in enumerate(texts) for character in "".join(text.split())]
    expected = "".join(reference.split())
    if len(characters) != len(expected):
        return []
    return sorted(
        {number for (character, number), right in zip(characters, expected, strict=True) if character != right}
    )
