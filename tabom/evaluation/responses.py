"""What a model answered, kept as it answers: an evaluation that was killed goes on where it stopped."""

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tabom.errors import require
from tabom.storage.log import append_line, read_lines
from tabom.storage.settings import check_same
from tabom.storage.typed import typed


@dataclass(frozen=True)
class Response:
    """A decoded response.

    Attributes:
        text: Up to the first end-of-sequence token, before anything is cut at a stop string.
        response_ids: All tokens.
        unmask_step: Denoising step that revealed each of them, 0 first.
        num_steps: Network calls that it took.
        num_tokens: Tokens up to and with the first end of sequence.
        step_variance: Variance (nats squared) of the entropies before each step, over the positions that are masked, by
            the values of ``tds_end``; None at steps with fewer than two such positions. None where it was not measured.
    """

    text: str
    response_ids: list[int]
    unmask_step: list[int]
    num_steps: int
    num_tokens: int
    step_variance: dict[str, list[float | None]] | None = None


@dataclass(frozen=True)
class Likelihood:
    """A scored continuation.

    Attributes:
        log_likelihood: Estimate in nats.
        standard_error: Of the estimate, as if its samples were independent of each other; None for a single sample.
        is_greedy: Whether greedy decoding gives the continuation; False where it was not asked for.
    """

    log_likelihood: float
    standard_error: float | None
    is_greedy: bool


_ANSWER = "an answer of this evaluation (remove the line, and it is decoded again)"
_KINDS = {"response": Response, "likelihood": Likelihood}


class ResponseStore:
    """Answers by request, in JSON Lines: ``responses-<rank>.jsonl`` of each process, all of which are read.

    Every answer is on the disk before the next step is taken; a last line that a killed process left unfinished is
    dropped. The first line of a file says what the answers come from; those of another model, sampler or benchmark are
    refused. Until there is an answer there is no file.

    Args:
        directory: Of the run, on a file system that all processes share.
        origin: What decides the answers, as JSON can hold it.
        rank: Of this process.

    Raises:
        TabomError: If there are answers of another origin, or a damaged file.
    """

    def __init__(self, directory: Path, origin: dict[str, Any], rank: int = 0) -> None:
        self._answers: dict[str, Response | Likelihood] = {}
        self._directory = directory
        self._path = directory / f"responses-{rank}.jsonl"
        self._origin = json.loads(json.dumps(origin))
        self._is_begun = False
        self.read_all()

    def read_all(self) -> None:
        """Take note of all answers on the disk."""
        for path in sorted(self._directory.glob("responses-*.jsonl")):
            self._read(path)

    def get(self, key: str) -> Response | Likelihood | None:
        """The answer to a request (:func:`request_key`), or None."""
        return self._answers.get(key)

    def add(self, key: str, answer: Response | Likelihood) -> None:
        """Keep an answer, on the disk first; before the first one, what the answers come from."""
        if not self._is_begun:
            self._directory.mkdir(parents=True, exist_ok=True)
            if not (self._path.is_file() and read_lines(self._path, _ANSWER)):
                append_line(self._path, {"kind": "origin", **self._origin})
            self._is_begun = True
        kind = next(kind for kind, type_ in _KINDS.items() if isinstance(answer, type_))
        append_line(self._path, {"kind": kind, "key": key, **asdict(answer)})
        self._answers[key] = answer

    def _read(self, path: Path) -> None:
        for number, content in enumerate(read_lines(path, _ANSWER), 1):
            kind = content.pop("kind", None)
            if number == 1:
                require(kind == "origin", f"{path}, line 1: expected kind origin, got {kind}")
                advice = "give another run_dir or move them away"
                check_same(path, content, self._origin, what="the answers that are there", advice=advice)
                continue
            where = f"{path}, line {number}: expected {_ANSWER}"
            key = content.pop("key", None)
            require(isinstance(key, str) and kind in list(_KINDS), f"{where}, got kind {kind!r}, key {key!r}")
            self._answers[key] = typed(_KINDS[kind], content, where)


def request_key(*parts: Any) -> str:
    """Name of a request: a hash of all that it says, the same on every machine."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]
