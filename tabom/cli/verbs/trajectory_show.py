"""Print one trajectory: prompt, response, verdict, and the step that revealed each token."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tabom.errors import require

if TYPE_CHECKING:
    from rich.text import Text

    from tabom.trajectories import Manifest
    from tabom.types import TrajectoryRow

FIRST_COLOUR, LAST_COLOUR = (70, 110, 255), (255, 170, 40)
"""Red, green and blue of the first and of the last step."""


def print_row(
    directory: Path, *, row: int = 0, query_id: str | None = None, sample: int = 0, tokenizer: str | None = None
) -> None:
    """Print one row.

    Tokens are coloured by step on a terminal; elsewhere each is followed by ``@`` and its step, counted from 1, ``-``
    for none.

    Args:
        directory: With a manifest.
        row: Number of the row in the whole directory, unless ``query_id`` is given.
        query_id: Of the row.
        sample: Which decoding of the query.
        tokenizer: Of the token ids; without one the ids are printed.

    Raises:
        TabomError: If there is no such row, or the tokenizer is another one.
    """
    from rich.console import Console

    from tabom.trajectories import find_row, read_row

    require(query_id is not None or sample == 0, f"--sample: expected a --query beside it, got {sample} without one")
    _, loaded = load_matching(directory, tokenizer)
    if query_id is not None:
        row = find_row(directory, query_id, sample)
    info, content = read_row(directory, row)
    console = Console(highlight=False, markup=False, soft_wrap=True)
    verdict = "verified" if content.is_verified else "not verified"
    console.print(f"{content.query_id}, sample {content.sample}: {verdict} (row {row}, in {info.file})")
    for title, text in (
        ("Prompt", content.prompt),
        ("Reference", content.reference),
        ("Response", content.response),
    ):
        console.print(f"\n{title}", style="bold")
        console.print(text)
    console.print(f"\nTokens by step, 1 to {max(content.unmask_step) + 1}", style="bold")
    console.print(_tokens(content, loaded, is_coloured=console.is_terminal))


def load_matching(directory: Path, tokenizer: str | None, mask_token: str | None = None) -> "tuple[Manifest, Any]":
    """The manifest and the tokenizer, None without a name; with the mask token given here, or that in the manifest.

    Raises:
        TabomError: If the trajectories were not made with this tokenizer.
    """
    from tabom.trajectories import Manifest

    manifest = Manifest.load(directory)
    if tokenizer is None:
        return manifest, None

    from tabom.data.tokenizer import load_tokenizer, tokenizer_fingerprint

    recorded = manifest.origin.settings.get("mask_token")
    loaded = load_tokenizer(tokenizer, mask_token or (recorded if isinstance(recorded, str) else None))
    expected, got = manifest.origin.tokenizer_fingerprint, tokenizer_fingerprint(loaded)
    require(
        got == expected, f"{directory}: expected the tokenizer {expected[:12]}, got {tokenizer}, which is {got[:12]}"
    )
    return manifest, loaded


def _tokens(row: "TrajectoryRow", tokenizer: Any, *, is_coloured: bool) -> "Text":
    from rich.text import Text

    from tabom.types import NEVER

    last = max(row.unmask_step)
    pieces = [str(token) if tokenizer is None else repr(tokenizer.decode([token])) for token in row.response_ids]
    if not is_coloured:
        steps = ["-" if step == NEVER else str(step + 1) for step in row.unmask_step]
        return Text(" ".join(f"{piece}@{step}" for piece, step in zip(pieces, steps, strict=True)))
    text = Text()
    for piece, step in zip(pieces, row.unmask_step, strict=True):
        style = "dim" if step == NEVER else colour(step / max(last, 1))
        text.append(piece if tokenizer is None else piece[1:-1], style).append(" " if tokenizer is None else "")
    return text


def colour(share: float) -> str:
    """Rich's name of the colour of a step, which lies a share of the way from the first to the last."""
    channels = (round(a + share * (b - a)) for a, b in zip(FIRST_COLOUR, LAST_COLOUR, strict=True))
    return f"rgb({','.join(map(str, channels))})"
