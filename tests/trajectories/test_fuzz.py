"""Files that lie: whatever is altered in shards, manifests and records is refused by name, or harmless."""

import copy
import json
import random
import shutil
import traceback

import pyarrow.parquet as pq
import pytest
from records import benchmark_line, check, curves, write_record
from test_edits import edited
from test_shards import change_manifest

from tabom.cli.verbs import trajectories, trajectory_compare, trajectory_show, trajectory_stats
from tabom.cli.verbs.report import run as report
from tabom.cli.verbs.view import run as view
from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.evaluation.responses import Response, ResponseStore
from tabom.storage.files import file_sha256
from tabom.storage.log import append_line
from tabom.storage.sealed import write_sealed
from tabom.trajectories import Manifest, TrajectoryStore, read_trajectories
from tabom.trajectories.timings import TIMINGS_NAME, tokens_per_second

VALUES = (None, -1, 0, 1, 3, 10**12, 2**70, 1.5, float("nan"), 1e400, "", "x", "../x", "\ud800", [], {}, [[]], True)


def places(content):
    """Every container and key in it."""
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield content, key
        yield from places(value)


def mutated(content, chance):
    """A copy in which one value is another, is missing, or is there twice."""
    content = copy.deepcopy(content)
    container, key = chance.choice(list(places(content)))
    kind = chance.randrange(4)
    if kind == 0:
        del container[key]
    elif kind == 1 and isinstance(container, list):
        container.append(copy.deepcopy(container[key]))
    elif kind == 1:
        container[f"{key}x"] = container[key]
    else:
        container[key] = chance.choice(VALUES)
    return content


def damaged(data, chance):
    """Bytes of which one is another, or that end early."""
    if chance.random() < 0.3 or not data:
        return data[: chance.randrange(len(data) or 1)]
    where = chance.randrange(len(data))
    return data[:where] + bytes([data[where] ^ (1 << chance.randrange(8))]) + data[where + 1 :]


def column_edit(shard, chance):
    """One value of a shard is another one; its type follows."""
    table = pq.read_table(shard)
    column, row = chance.choice(table.column_names), chance.randrange(table.num_rows)
    old = table[column][row].as_py()
    new = chance.choice(VALUES)
    if isinstance(old, list) and chance.random() < 0.7:
        old[chance.randrange(len(old))] = new
        new = old
    pq.write_table(edited(table, column, row, new), shard)


def alter_directory(path, chance, number):
    """Change a finished directory; returns whether its seals were not redone."""
    shard = path / f"shard-0000{chance.randrange(3)}.parquet"
    manifest = path / "manifest.json"
    kind = number % 5
    if kind == 0:
        manifest.write_bytes(damaged(manifest.read_bytes(), chance))
    elif kind == 1:
        content = json.loads(manifest.read_text())
        del content["checksum"]
        write_sealed(manifest, mutated(content, chance))
    elif kind == 2:
        shard.write_bytes(damaged(shard.read_bytes(), chance))
    else:
        if kind == 3:
            shard.write_bytes(damaged(shard.read_bytes(), chance))
        else:
            column_edit(shard, chance)
        index = int(shard.stem[-5:])
        change_manifest(path, lambda content: content["shards"][index].update(sha256=file_sha256(shard)))
    return kind in (0, 2)


def refused(path, call):
    """The sentence of a refusal, which names the file; None if nothing was refused. Anything else is a defect."""
    message = None
    try:
        call()
    except TabomError as error:
        message = str(error)
    except Exception:
        pytest.fail(f"{path.name}: {traceback.format_exc()}")
    assert message is None or (str(path) in message and "\n" not in message), message
    return message


def uses_of(path, whole, tokenizer):
    """Whatever is done with a directory."""
    fingerprint = tokenizer_fingerprint(tokenizer)
    yield lambda: trajectories.check(path)
    yield lambda: read_trajectories(path, tokenizer_fingerprint=fingerprint, response_length=19)
    yield lambda: trajectory_stats.print_stats(path, tokenizer=None, is_json=False)
    yield lambda: trajectory_show.print_row(path, row=11, tokenizer=None)
    yield lambda: trajectory_compare.comparison(whole, path)
    yield lambda: view(["view", str(path), "-o", f"{path}/page.html", "--tokenizer", "characters"])
    yield lambda: TrajectoryStore(path).open(Manifest.load(whole).origin)


def fuzz_directories(whole, tmp_path, tokenizer, count):
    chance, refusals = random.Random(0), 0
    mine = tmp_path / "x.json"
    for number in range(count):
        path = tmp_path / f"altered{number}"
        shutil.copytree(whole, path)
        mine.write_text("mine")
        is_broken = alter_directory(path, chance, number)
        sentences = [refused(path, use) for use in uses_of(path, whole, tokenizer)]
        refusals += sentences[0] is not None
        assert sentences[0] is not None or not is_broken
        assert mine.read_text() == "mine"
        shutil.rmtree(path)
    return refusals


def fuzz_unfinished(whole, tmp_path, tokenizer, count):
    """Records of shards, and of the run, while a directory is being filled."""
    chance = random.Random(1)
    manifest = Manifest.load(whole)
    for number in range(count):
        path = tmp_path / f"unfinished{number}"
        shutil.copytree(whole, path)
        run = TrajectoryStore(path)
        (path / "shard-00002.parquet").unlink()
        run.open(manifest.origin)
        run.close()
        file = path / chance.choice(["run.json", "shard-00000.json", "shard-00001.json"])
        if number % 2:
            file.write_bytes(damaged(file.read_bytes(), chance))
        else:
            content = json.loads(file.read_text())
            del content["checksum"]
            write_sealed(file, mutated(content, chance))
        refused(path, lambda path=path: again(TrajectoryStore(path), manifest.origin))
        shutil.rmtree(path)


def again(run, origin):
    """What a run does with what it finds."""
    run.open(origin)
    try:
        run.finished()
        run.claim(str)
    finally:
        run.close()


def fuzz_records(tmp_path, count):
    """Records of runs, answers and timings, of which no file has a seal."""
    chance = random.Random(2)
    measured = [check("validate", accuracy_1_per_step=0.5, kl=0.1), check("test", accuracy_1_per_step=0.4, kl=0.2)]
    measured.append(curves(ce_verified=[0.5, 0.6]))
    for number in range(count):
        directory = tmp_path / f"run{number}"
        write_record(directory / "a", "test", "a", lines=measured, seed=1)
        write_record(directory / "b", "evaluate", "b", lines=[benchmark_line("TABOM", trained_on="maths")])
        path = write_record(directory / "c", *chance.choice([("test", "c", ("x.yaml",)), ("evaluate", "c")]), seed=2)
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        lines[1:1] = [benchmark_line()] if path.name.startswith("evaluate") else measured
        changed = mutated(lines, chance) if number % 3 else lines
        data = "".join(json.dumps(line) + "\n" for line in changed).encode()
        path.write_bytes(data if number % 3 else damaged(data, chance))
        words = ["report", str(directory), "-o", f"{directory}/p.html", "--figures", f"{directory}/figures"]
        refused(path, lambda words=words: report(words))
        shutil.rmtree(directory)


def fuzz_answers(tmp_path, count):
    chance = random.Random(3)
    origin = {"model_fingerprint": "0", "settings": {"limit": 3}}
    for number in range(count):
        directory = tmp_path / f"answers{number}"
        store = ResponseStore(directory, origin)
        store.add("a", Response("x", [1, 2], [0, 1], 2, 2))
        store.add("b", Response("y", [1, 2], [0, 1], 2, 2))
        append_line(directory / TIMINGS_NAME, {"num_tokens": 3, "seconds": 1.5, "num_processes": 1})
        for name in ("responses-0.jsonl", TIMINGS_NAME):
            file = directory / name
            lines = [json.loads(line) for line in file.read_text().splitlines()]
            data = "".join(json.dumps(line) + "\n" for line in mutated(lines, chance)).encode()
            file.write_bytes(data if number % 2 else damaged(data, chance))
        refused(directory, lambda directory=directory: ResponseStore(directory, origin))
        refused(directory, lambda directory=directory: tokens_per_second(directory))
        shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def _quiet(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")


def test_a_few_alterations(make_trajectories, tmp_path, tokenizer):
    fuzz_directories(make_trajectories("whole"), tmp_path, tokenizer, 10)
    fuzz_unfinished(tmp_path / "whole", tmp_path, tokenizer, 6)
    fuzz_answers(tmp_path, 10)


@pytest.mark.slow
def test_many_alterations(make_trajectories, tmp_path, tokenizer):
    """500 of them; a third of what is altered in a directory, and all of it without new seals, is refused."""
    whole = make_trajectories("whole")
    assert fuzz_directories(whole, tmp_path, tokenizer, 200) > 100
    fuzz_unfinished(whole, tmp_path, tokenizer, 100)
    fuzz_records(tmp_path, 100)
    fuzz_answers(tmp_path, 100)
