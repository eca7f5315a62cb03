"""How long decoding took, beside the shards and apart from the manifest, which is the same whoever decoded and when."""

from dataclasses import dataclass
from pathlib import Path

from tabom.storage.log import append_line, read_lines
from tabom.storage.typed import typed

TIMINGS_NAME = "timings.jsonl"


def add_timing(directory: Path, *, num_tokens: int, seconds: float, num_processes: int) -> None:
    """Append what one run did, if it decoded anything.

    Args:
        directory: With shards.
        num_tokens: Response tokens up to and with the first end of sequence, of all processes together.
        seconds: From the first step to the last.
        num_processes: That decoded side by side.
    """
    if num_tokens:
        timing = {"num_tokens": num_tokens, "seconds": round(seconds, 3), "num_processes": num_processes}
        append_line(directory / TIMINGS_NAME, timing)


def tokens_per_second(directory: Path) -> float | None:
    """Of all runs that ended; None if none is on record."""
    path = directory / TIMINGS_NAME
    if not path.is_file():
        return None
    lines = enumerate(read_lines(path, "what a run decoded"), 1)
    timings = [typed(_Timing, line, f"{path}, line {number}") for number, line in lines]
    seconds = sum(timing.seconds for timing in timings)
    return sum(timing.num_tokens for timing in timings) / seconds if seconds > 0 else None


@dataclass(frozen=True)
class _Timing:
    num_tokens: int
    seconds: float
    num_processes: int
