"""How long decoding took, beside the shards and apart from the manifest, which is the same whoever decoded and when."""

import json
from pathlib import Path

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
        with (directory / TIMINGS_NAME).open("a") as file:
            file.write(json.dumps(timing) + "\n")


def tokens_per_second(directory: Path) -> float | None:
    """Of all runs that ended; None if none is on record."""
    path = directory / TIMINGS_NAME
    if not path.is_file():
        return None
    timings = [json.loads(line) for line in path.read_text().splitlines()]
    return sum(timing["num_tokens"] for timing in timings) / sum(timing["seconds"] for timing in timings)
