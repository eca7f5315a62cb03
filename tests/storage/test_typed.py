"""What a file holds is what the fields of a data class say."""

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from tabom.errors import TabomError
from tabom.storage.typed import parse_json, typed


@dataclass(frozen=True)
class Inner:
    size: int


@dataclass(frozen=True)
class Outer:
    name: str
    rate: float
    kind: Literal["a", "b"]
    parts: tuple[Inner, ...]
    counts: dict[str, int]
    parent: str | None
    free: dict[str, Any]
    points: list[float | None]
    is_on: bool = False


GOOD = {
    "name": "x",
    "rate": 1,
    "kind": "a",
    "parts": [{"size": 1}],
    "counts": {"n": 2},
    "parent": None,
    "free": {"a": [1, {"b": None}]},
    "points": [1.5, None],
}


def test_what_is_taken():
    assert typed(Outer, GOOD, "f") == Outer(**{**GOOD, "parts": (Inner(1),)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": 3}, "name: expected str, got 3"),
        ({"name": "\ud800"}, 'name: expected str, got "\\ud800"'),
        ({"rate": "1"}, 'rate: expected float, got "1"'),
        ({"kind": "c"}, "kind: expected Literal['a', 'b'], got \"c\""),
        ({"kind": []}, "kind: expected Literal['a', 'b'], got []"),
        ({"parts": [{"size": True}]}, "parts[0].size: expected int, got true"),
        ({"parts": [{"size": 10**30}]}, f"parts[0].size: expected int, got {10**30}"),
        ({"parts": {}}, "parts: expected tuple["),
        ({"counts": {"n": None}}, "counts.n: expected int, got null"),
        ({"counts": []}, "counts: expected dict[str, int], got []"),
        ({"parent": 1}, "parent: expected str | None, got 1"),
        ({"points": [{}]}, "points[0]: expected float | None, got {}"),
        ({"is_on": 1}, "is_on: expected bool, got 1"),
        ({"parts": [3]}, "expected the fields of Inner, got int under parts[0]"),
        ({"parts": [{}]}, "expected the fields of Inner, got no key parts[0].size"),
        ({"more": 3}, "expected the fields of Outer, got unknown key more"),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(TabomError) as error:
        typed(Outer, GOOD | change, "f, line 2")
    assert str(error.value).startswith(f"f, line 2: {message}")


@pytest.mark.parametrize("data", [b"{", b"\xff", b"[" * 100_000, b"", b'{"a": }'], ids=str)
def test_what_is_no_json(data):
    with pytest.raises(TabomError, match=r"^f: expected a thing \("):
        parse_json(data, "f: expected a thing")
