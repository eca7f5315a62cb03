"""A directory that is filled shard by shard: what is there when, and what a second run makes of it."""

import dataclasses
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from helpers import origin_of, write_chunk

from tabom.errors import TabomError
from tabom.storage.claims import CLAIMS
from tabom.storage.files import file_sha256
from tabom.trajectories import Manifest, ShardInfo, TrajectoryStore, read_row, stream_shards


@pytest.fixture
def chunks(make_trajectories):
    """The rows of three shards."""
    path = make_trajectories("source")
    rows = [read_row(path, row)[1] for row in range(24)]
    return [rows[:10], rows[10:20], rows[20:]]


@pytest.fixture
def origin(tokenizer):
    return origin_of(tokenizer)


@pytest.fixture
def store(tmp_path):
    return TrajectoryStore(tmp_path / "run")


@pytest.fixture
def fill(store, origin, chunks, tokenizer):
    """Do what a run does, from the start or from where the last one stopped."""

    def run(indices=(0, 1, 2)):
        store.open(origin)
        for index in indices:
            if index not in store.finished():
                write_chunk(store, index, chunks[index], tokenizer)

    return run


def content(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != CLAIMS}


def failure(call, *arguments):
    with pytest.raises(TabomError) as error:
        call(*arguments)
    return str(error.value)


def test_what_is_there_when(store, fill, origin):
    assert store.finished() == frozenset()
    fill(())
    assert sorted(content(store.directory)) == ["run.json"]
    assert store.finished() == frozenset()
    fill([2, 0])
    assert store.finished() == {0, 2}
    assert not store.is_complete
    fill()
    assert store.finished() == {0, 1, 2}
    manifest = store.finish()
    assert store.is_complete
    assert store.finished() == {0, 1, 2}
    names = ["manifest.json", "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"]
    assert sorted(content(store.directory)) == names
    assert manifest == Manifest.load(store.directory) == store.finish()
    assert manifest.origin == origin


def test_what_a_shard_says(store, fill, chunks, tokenizer):
    fill(())
    info = store.write(1, chunks[1], num_queries=12, num_tokens=170, rejected={"wrong answer": 3, "no answer": 2})
    path = store.directory / "shard-00001.parquet"
    rejected = {"wrong answer": 3, "no answer": 2}
    assert info == ShardInfo("shard-00001.parquet", 12, 10, 7, 170, rejected, file_sha256(path))
    fill([0, 2])
    assert store.finish().shards[1] == info


def test_the_order_of_writing_changes_nothing(store, fill, make_trajectories, origin, chunks, tokenizer):
    fill([1])
    fill([2])
    other = TrajectoryStore(store.directory)
    write_chunk(other, 0, chunks[0], tokenizer)
    store.finish()
    assert content(store.directory) == content(make_trajectories("again"))


def test_a_shard_of_nothing(store, fill):
    fill([0, 2])
    store.write(1, [], num_queries=10, num_tokens=170, rejected={"wrong answer": 10})
    manifest = store.finish()
    assert (manifest.num_queries, manifest.num_rows) == (24, 14)
    assert [len(table.query_ids) for _, table in stream_shards(store.directory)] == [10, 0, 4]
    assert read_row(store.directory, 10)[0].file == "shard-00002.parquet"


class KilledError(Exception):
    """In place of a signal, at an exact moment."""


@pytest.mark.parametrize("moment", range(24))
def test_a_kill_at_any_moment(store, fill, make_trajectories, monkeypatch, moment):
    """Files are renamed 8 times and removed 4 times; even moments are just before one of these, odd ones just after."""
    calls = 0

    def everything():
        fill()
        store.finish()

    def counted(change):
        def run(self, *arguments, **options):
            nonlocal calls
            calls += 1
            if calls == moment // 2 + 1 and moment % 2 == 0:
                raise KilledError
            result = change(self, *arguments, **options)
            if calls == moment // 2 + 1:
                raise KilledError
            return result

        return run

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted(Path.replace))
        patch.setattr(Path, "unlink", counted(Path.unlink))
        with pytest.raises(KilledError):
            everything()
    for path in store.directory.glob("*.parquet"):
        pq.read_table(path)
    everything()
    assert content(store.directory) == content(make_trajectories("again"))


def test_a_kill_while_the_records_are_removed(store, fill, make_trajectories):
    fill()
    records = {name: data for name, data in content(store.directory).items() if name.endswith(".json")}
    store.finish()
    finished = content(store.directory)
    for name, data in records.items():
        (store.directory / name).write_bytes(data)
    assert sum(len(table.query_ids) for _, table in stream_shards(store.directory)) == 24
    fill()
    assert content(store.directory) == finished


def test_partial_files_are_removed_if_they_are_ours(store, fill):
    fill([0])
    ours = ["shard-00001.parquet.partial", "shard-00000.json.partial", "manifest.json.partial", "run.json.partial"]
    for name in [*ours, "notes.partial"]:
        (store.directory / name).write_bytes(b"half")
    fill(())
    assert sorted(content(store.directory)) == ["notes.partial", "run.json", "shard-00000.json", "shard-00000.parquet"]


@pytest.mark.parametrize("is_finished", [False, True])
@pytest.mark.parametrize(
    ("changes", "text"),
    [
        (
            {"model_fingerprint": "ab" * 32},
            "expected model_fingerprint 000000000000, of the trajectories that are there, got abababababab",
        ),
        ({"num_shards": 4}, "expected num_shards 3, of the trajectories that are there, got 4"),
        (
            {"settings": {"sampler": {"score": "margin", "temperature": 0.0}, "batch_size": 8, "keep": "all"}},
            'expected settings.sampler.score "entropy", of the trajectories that are there, got "margin"',
        ),
        (
            {"settings": {"sampler": {"score": "entropy", "temperature": 0.0}, "batch_size": 8}},
            'expected settings.keep "all", of the trajectories that are there, got nothing',
        ),
        (
            {"query_fingerprint": "", "settings": {"seed": 1}},
            f'expected query_fingerprint {"1" * 12}, of the trajectories that are there, got "" (5 more differ)',
        ),
    ],
    ids=["model", "shards", "setting", "a setting less", "several"],
)
def test_another_origin(store, fill, origin, changes, text, is_finished):
    fill()
    if is_finished:
        store.finish()
    before = content(store.directory)
    (store.directory / "shard-00000.parquet.partial").write_bytes(b"half")
    message = failure(store.open, dataclasses.replace(origin, **changes))
    assert message == f"{store.directory}: {text}; give another output_dir or move them away"
    (store.directory / "shard-00000.parquet.partial").unlink()
    assert content(store.directory) == before


def test_another_origin_where_nothing_was_written_yet(store, fill, origin, chunks, tokenizer):
    """Somebody stopped a run before its first shard, to change a setting."""
    fill(())
    (store.directory / "shard-00000.parquet.partial").write_bytes(b"half")
    changed = dataclasses.replace(origin, model_fingerprint="2" * 64)
    store.open(changed)
    assert sorted(content(store.directory)) == ["run.json"]
    for index, chunk in enumerate(chunks):
        write_chunk(store, index, chunk, tokenizer)
    assert store.finish().origin == changed


def test_the_same_origin_in_other_types(store, fill, origin):
    settings = {"lengths": (1, 2), "keep": "all"}
    first = dataclasses.replace(origin, settings=settings)
    store.open(first)
    before = content(store.directory)
    (store.directory / "run.json").unlink()
    again = dataclasses.replace(origin, settings={"keep": "all", "lengths": [1, 2]})
    store.open(again)
    store.open(first)
    assert content(store.directory) == before


def test_foreign_files(store, fill, origin):
    fill([0])
    (store.directory / "shard-00003.parquet").write_bytes(b"other")
    assert failure(store.open, origin) == (
        f"{store.directory}/shard-00003.parquet: expected only shard-00000.parquet to shard-00002.parquet of this run"
    )
    (store.directory / "run.json").unlink()
    assert failure(store.open, origin) == (
        f"{store.directory}: expected no trajectories yet, found 2 files such as shard-00000.parquet; "
        "give another output_dir or move them away"
    )


@pytest.mark.parametrize("is_finished", [False, True])
def test_a_damaged_shard_is_decoded_again_when_it_is_removed(store, fill, origin, make_trajectories, is_finished):
    fill()
    if is_finished:
        store.finish()
    path = store.directory / "shard-00001.parquet"
    data = path.read_bytes()
    path.write_bytes(data[:100] + b"?" + data[101:])
    assert failure(store.open, origin) == (
        f"{path}: expected the checksum that was recorded for it; the shard is truncated or was altered, "
        "and is decoded again when it is removed"
    )
    path.unlink()
    store.open(origin)
    assert store.finished() == {0, 2}
    assert not store.is_complete
    fill()
    store.finish()
    assert content(store.directory) == content(make_trajectories("again"))


def test_a_damaged_record(store, fill, origin):
    fill()
    path = store.directory / "shard-00001.json"
    good = path.read_text()
    what = "expected the record of shard-00001.parquet (remove it, and the shard is decoded again)"
    path.write_text(good.replace('"num_rows": 10', '"num_rows": 11'))
    assert failure(store.open, origin) == f"{path}: {what}; the file is truncated or was altered"
    path.write_bytes((store.directory / "shard-00000.json").read_bytes())
    assert failure(store.finish) == f"{path}: {what}, got that of shard-00000.parquet"
    path.unlink()
    store.open(origin)
    assert store.finished() == {0, 2}
    fill()
    assert path.read_text() == good


def test_a_damaged_run(store, fill, origin):
    fill([0])
    path = store.directory / "run.json"
    path.write_text(path.read_text().replace("000", "001", 1))
    assert failure(store.open, origin) == (
        f"{path}: expected the origin of a run; the file is truncated or was altered"
    )


def test_missing_shards(store, fill, origin, tmp_path):
    fill([1])
    assert failure(store.finish) == (
        f"{store.directory}: expected 3 shards, 2 are missing: shard-00000.parquet, shard-00002.parquet"
    )
    many = TrajectoryStore(tmp_path / "many")
    many.open(dataclasses.replace(origin, num_shards=7))
    names = ", ".join(f"shard-0000{index}.parquet" for index in range(5))
    assert failure(many.finish) == f"{many.directory}: expected 7 shards, 7 are missing: {names} ..."


def test_writing_what_is_no_shard(store, fill, chunks, tokenizer):
    assert failure(write_chunk, store, 0, chunks[0], tokenizer) == (
        f"{store.directory}/run.json: expected the origin of a run that was opened, found no such file"
    )
    fill(())
    for index in (-1, 3):
        assert failure(write_chunk, store, index, chunks[0], tokenizer) == (
            f"index: expected a shard from 0 to 2, got {index}"
        )
    assert sorted(content(store.directory)) == ["run.json"]


def test_an_unfinished_directory_is_not_read(store, fill):
    fill([0])
    assert failure(Manifest.load, store.directory) == (
        f"{store.directory}: expected finished trajectories, found a run that has not ended; "
        "start the same `tabom predict` (or `tabom trajectories annotate`) again: it goes on where it stopped"
    )


def test_json_is_for_people(store, fill):
    fill()
    store.finish()
    text = (store.directory / "manifest.json").read_text()
    assert json.loads(text)["origin"]["settings"]["sampler"] == {"score": "entropy", "temperature": 0.0}
    assert text.count("\n") > 40
