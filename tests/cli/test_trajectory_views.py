"""`tabom trajectories check, stats, show`: what they print, and what they refuse."""

import io
import json

import pytest
import rich.console
from helpers import a2d_tokenizer_files, origin_of, write_trajectories

from tabom.cli.main import main
from tabom.cli.verbs.trajectory_stats import statistics
from tabom.data import PromptDataModule
from tabom.data.tokenizer import load_tokenizer
from tabom.tasks import Sudoku4x4
from tabom.trajectories import Manifest, TrajectoryStore
from tabom.types import TrajectoryRow

EOS = 2
NAN = float("nan")


@pytest.fixture
def directory(tmp_path, tokenizer):
    """Three kept rows of five decoded ones, in two shards."""

    def row(query_id, sample, text, steps, entropies, *, is_verified=True):
        ids = tokenizer(text)["input_ids"]
        ids += [EOS] * (4 - len(ids))
        return TrajectoryRow(query_id, sample, is_verified, [7, 8], ids, steps, entropies, f"{query_id}?", text, "ref")

    store = TrajectoryStore(tmp_path / "run")
    store.open(origin_of(tokenizer, response_length=4, num_shards=2))
    first = [
        row("a", 0, "12", [0, 1, 2, 3], [0.5, 0.25, NAN, 1.0]),
        row("a", 1, "3\n4", [2, 1, 0, 0], [2.0, 1.0, 0.5, 4.0], is_verified=False),
    ]
    store.write(0, first, num_queries=3, num_tokens=9, rejected={"no [answer]": 1, "wrong": 1})
    store.write(
        1, [row("b", 0, "", [1, 0, -1, -1], [0.5, 0.5, NAN, NAN])], num_queries=2, num_tokens=3, rejected={"wrong": 1}
    )
    store.finish()
    return store.directory


def failure(capsys, *words):
    with pytest.raises(SystemExit) as error:
        main(["trajectories", *map(str, words)])
    assert error.value.code == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    return captured.err.removeprefix("tabom: error: ").removesuffix("\n")


def output(capsys, *words):
    main(["trajectories", *map(str, words)])
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out


def test_check(directory, capsys, make_trajectories):
    assert output(capsys, "check", directory) == (
        f"{directory}: 3 trajectories in 2 shards, all as the manifest says\n"
    )
    one = make_trajectories(num_rows=3)
    assert output(capsys, "check", one) == f"{one}: 3 trajectories in 1 shard, all as the manifest says\n"


def test_check_names_the_first_bad_file(directory, capsys):
    for shard in directory.glob("*.parquet"):
        shard.write_bytes(b"")
    assert failure(capsys, "check", directory) == (
        f"{directory}/shard-00000.parquet: expected the checksum in the manifest; the shard is truncated or was altered"
    )


def test_figures(directory):
    figures = statistics(directory)
    assert figures.pop("origin") == vars(Manifest.load(directory).origin)
    assert figures.pop("entropy_by_decile") == [
        pytest.approx(value) if value else None
        for value in [(0.5 + 0.5 + 0.5) / 3, None, (0.25 + 4.0) / 2, None, None, 0.75, None, 1.5, None, None]
    ]
    assert figures == {
        "path": str(directory),
        "num_shards": 2,
        "num_queries": 5,
        "num_rows": 3,
        "num_verified": 2,
        "verified_rate": 0.4,
        "rejected": {"wrong": 2, "no [answer]": 1},
        "response_tokens": {"mean": 2.4},
        "steps": {"mean": pytest.approx(3.0), "median": 3, "max": 4},
        "left_to_right": 0.6,
    }


def test_figures_with_the_tokenizer(directory):
    figures = statistics(directory, tokenizer="characters")
    assert figures["response_tokens"] == {"mean": 2.4, "median": 3, "max": 4}
    assert figures["steps"] == {"mean": pytest.approx(8 / 3), "median": 3, "max": 3}
    assert figures["left_to_right"] == pytest.approx(5 / 8)


def test_figures_of_a_row_without_a_revealed_token(tmp_path, tokenizer):
    store = TrajectoryStore(tmp_path / "run")
    store.open(origin_of(tokenizer, response_length=4, num_shards=1))
    row = TrajectoryRow("a", 0, False, [7], [EOS] * 4, [-1, 0, 1, 2], [NAN] + [0.5] * 3, "a?", "", "ref")
    store.write(0, [row], num_queries=1, num_tokens=1, rejected={"wrong": 1})
    store.finish()
    figures = statistics(store.directory, tokenizer="characters")
    assert (figures["response_tokens"]["max"], figures["left_to_right"]) == (1, None)
    assert figures["entropy_by_decile"] == [None] * 10


def test_figures_of_nothing(tmp_path, tokenizer, capsys):
    store = TrajectoryStore(tmp_path / "run")
    store.open(origin_of(tokenizer, num_shards=1))
    store.write(0, [], num_queries=0, num_tokens=0, rejected={})
    store.finish()
    figures = statistics(store.directory, tokenizer="characters")
    assert figures["response_tokens"] == {"mean": None, "median": None, "max": None}
    assert (figures["verified_rate"], figures["left_to_right"]) == (None, None)
    assert figures["entropy_by_decile"] == [None] * 10
    assert cells(output(capsys, "stats", store.directory))["verified"] == "0 (none)"


def cells(text):
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    return {row[0]: " ".join(row[1:]).strip() for row in rows if row[0]}


def test_stats(directory, capsys):
    found = cells(output(capsys, "stats", directory, "--tokenizer=characters"))
    assert found["settings.sampler.score"] == "entropy"
    assert found["decoded"] == "5"
    assert found["kept"] == "3"
    assert found["verified"] == "2 (40.0%)"
    assert list(found).index("rejected: wrong") < list(found).index("rejected: no [answer]")
    assert found["response tokens up to EOS"] == "mean 2.4, median 3, max 4"
    assert found["steps"] == "mean 2.667, median 3, max 3"
    assert found["decoded left to right"] == "62.5%"
    assert found["90-100 %"] == "none"
    assert {len(bar.split()[-1]) for name, bar in found.items() if "█" in bar} >= {30}


def test_stats_as_json(directory, capsys):
    assert json.loads(output(capsys, "stats", directory, "--json")) == statistics(directory)


def test_show(directory, capsys):
    assert output(capsys, "show", directory).splitlines() == [
        "a, sample 0: verified (row 0, in shard-00000.parquet)",
        "",
        "Prompt",
        "a?",
        "",
        "Reference",
        "ref",
        "",
        "Response",
        "12",
        "",
        "Tokens by step, 1 to 4",
        "21@1 22@2 2@3 2@4",
    ]


@pytest.mark.parametrize("which", [["--query", "a", "--sample", "1"], ["--row", "1"]])
def test_show_with_the_tokenizer(directory, capsys, which):
    lines = output(capsys, "show", directory, *which, "--tokenizer=characters").splitlines()
    assert lines[0] == "a, sample 1: not verified (row 1, in shard-00000.parquet)"
    assert lines[-2:] == ["Tokens by step, 1 to 3", r"'3'@3 '\n'@2 '4'@1 '<eos>'@1"]


def test_show_a_row_of_another_shard(directory, capsys):
    lines = output(capsys, "show", directory, "--query=b").splitlines()
    assert lines[0] == "b, sample 0: verified (row 2, in shard-00001.parquet)"
    assert lines[-1] == "2@2 2@1 2@- 2@-"


@pytest.mark.parametrize(("options", "shown"), [([], "21 22 2 2 "), (["--tokenizer=characters"], "12<eos><eos>")])
def test_colours_on_a_terminal(directory, monkeypatch, options, shown):
    file = io.StringIO()
    terminal = rich.console.Console

    def console(**settings):
        return terminal(file=file, force_terminal=True, color_system="truecolor", **settings)

    monkeypatch.setattr(rich.console, "Console", console)
    main(["trajectories", "show", str(directory), *options])
    last = file.getvalue().splitlines()[-1]
    first, step, end = "\x1b[38;2;70;110;255m", "\x1b[38;2;132;130;183m", "\x1b[38;2;255;170;40m"
    assert last.startswith(f"{first}{shown[:1]}")
    assert step in last
    assert end in last
    plain = last
    for code in (first, step, end, "\x1b[38;2;193;150;112m", "\x1b[0m"):
        plain = plain.replace(code, "")
    assert plain == shown


def test_what_cannot_be_shown(directory, capsys):
    assert failure(capsys, "show", directory, "--row=3") == f"{directory}: expected a row from 0 to 2, got 3"
    assert failure(capsys, "show", directory, "--query=b", "--sample=1") == (
        f"{directory}: expected a trajectory of the query b, sample 1, found none"
    )
    assert failure(capsys, "show", directory, "--sample=1") == (
        "--sample: expected a --query beside it, got 1 without one"
    )


@pytest.mark.parametrize("action", ["show", "stats"])
def test_another_tokenizer(directory, capsys, tmp_path, action):
    other = load_tokenizer("characters")
    other.add_tokens(["new"])
    other.save_pretrained(tmp_path / "other")
    message = failure(capsys, action, directory, f"--tokenizer={tmp_path / 'other'}")
    expected = Manifest.load(directory).origin.tokenizer_fingerprint[:12]
    assert message.startswith(f"{directory}: expected the tokenizer {expected}, got {tmp_path / 'other'}, which is ")


@pytest.mark.parametrize("action", ["check", "show", "stats"])
def test_no_directory(tmp_path, capsys, action):
    path = tmp_path / "none"
    assert failure(capsys, action, path) == (
        f"{path}/manifest.json: expected the manifest of a finished distillation, found no such file"
    )


@pytest.mark.parametrize(("action", "shown"), [("stats", "decoded"), ("show", "Tokens by step, 1 to 19")])
def test_a_mask_token_of_the_configuration_alone_is_known(tmp_path, capsys, action, shown):
    """The tokenizer's files name none; the manifest says what the configuration named."""
    path = str(tmp_path / "model")
    a2d_tokenizer_files(tmp_path / "model")
    data = PromptDataModule(Sudoku4x4(), 19, num_queries=3, tokenizer=path, mask_token="<|mask|>")
    write_trajectories(tmp_path / "run", data.tokenizer, settings=data.query_settings())
    main(["trajectories", action, str(tmp_path / "run"), "--tokenizer", path])
    assert shown in capsys.readouterr().out
