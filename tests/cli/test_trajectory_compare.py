"""`tabom trajectories compare`: figures that are counted by hand."""

import json

import pytest
from helpers import origin_of

from tabom.cli.main import main
from tabom.cli.verbs.trajectory_compare import comparison
from tabom.errors import TabomError
from tabom.trajectories import TrajectoryStore
from tabom.trajectories.timings import add_timing, tokens_per_second
from tabom.types import TrajectoryRow


@pytest.fixture
def make(tmp_path, tokenizer):
    """Rows of four tokens: name, sample, ids, steps, entropies, verdict."""

    def write(name, rows, **origin):
        store = TrajectoryStore(tmp_path / name)
        store.open(origin_of(tokenizer, response_length=4, num_shards=1, **origin))
        content = [
            TrajectoryRow(query, sample, right, [7], ids, steps, entropies, "", "", "")
            for query, sample, ids, steps, entropies, right in rows
        ]
        store.write(0, content, num_queries=len(rows), num_tokens=4 * len(rows), rejected={})
        store.finish()
        return store.directory

    return write


@pytest.fixture
def pair(make):
    nan = float("nan")
    first = make(
        "first",
        [
            ("a", 0, [5, 6, 7, 2], [0, 1, 2, 3], [0.5, 1.0, 1.5, nan], True),
            ("b", 0, [5, 6, 7, 2], [0, 1, 2, 3], [0.5, 1.0, 1.5, 2.0], True),
            ("c", 0, [5, 6, 7, 2], [0, 0, 1, 1], [0.5, 1.0, 1.5, 2.0], False),
            ("d", 0, [5, 6, 7, 2], [0, 1, 2, 3], [0.5, 1.0, 1.5, 2.0], False),
        ],
    )
    second = make(
        "second",
        [
            ("c", 0, [5, 6, 9, 2], [2, 0, 1, 3], [0.0, 0.0, 0.0, 0.0], True),
            ("b", 0, [5, 6, 7, 2], [1, 0, 2, 3], [9.0, 9.0, 9.0, 9.0], False),
            ("a", 0, [5, 6, 7, 2], [0, 1, 2, 3], [0.5, 1.25, 1.5, nan], True),
            ("d", 1, [5, 6, 7, 2], [0, 1, 2, 3], [0.5, 1.0, 1.5, 2.0], False),
        ],
        model_fingerprint="2" * 64,
    )
    return first, second


def test_figures(pair):
    """Pairs in order: 6 of 6 in a, 5 of 6 in b, and in c 3 of the 4 of (0, 1) before (2, 3)."""
    figures = comparison(*pair)
    assert figures["num_common"] == 3
    assert figures["num_rows"] == [4, 4]
    assert figures["identical"] == pytest.approx(1 / 3)
    assert figures["same_response"] == pytest.approx(2 / 3)
    assert figures["token_agreement"] == pytest.approx(11 / 12)
    assert figures["order_agreement"] == pytest.approx(14 / 16)
    assert figures["largest_entropy_difference"] == 0.25
    assert figures["verified"] == {"both": 1, "first alone": 1, "second alone": 1, "neither": 0}
    assert figures["tokens_per_second"] == [None, None]


def test_speed_is_that_of_all_runs(pair):
    add_timing(pair[0], num_tokens=100, seconds=4.0, num_processes=1)
    add_timing(pair[0], num_tokens=0, seconds=9.0, num_processes=1)
    add_timing(pair[0], num_tokens=200, seconds=2.0, num_processes=2)
    add_timing(pair[1], num_tokens=300, seconds=1.0, num_processes=1)
    assert tokens_per_second(pair[0]) == 50
    assert comparison(*pair)["tokens_per_second"] == [50, 300]


def test_output(pair, capsys):
    words = ["trajectories", "compare", *map(str, pair)]
    main([*words, "--json"])
    assert json.loads(capsys.readouterr().out) == comparison(*pair)
    for directory, seconds in zip(pair, (2.0, 1.0), strict=True):
        add_timing(directory, num_tokens=3000, seconds=seconds, num_processes=1)
    main(words)
    printed = capsys.readouterr().out
    for text in ("3 of 4 and 4", "33.33%", "91.67%", "87.50%", "2.50e-01 nats", "3,000.0 against 1,500.0 (2.00 times)"):
        assert text in printed


def test_nothing_in_common(make):
    first = make("first", [("a", 0, [5] * 4, [0, 1, 2, 3], [0.0] * 4, True)])
    second = make("second", [("a", 1, [5] * 4, [0, 1, 2, 3], [0.0] * 4, True)])
    with pytest.raises(TabomError) as error:
        comparison(first, second)
    assert str(error.value) == f"{second}: expected trajectories of the queries in {first}, found none of them"
