"""One edit of a shard, with its checksums redone, is refused or changes that row alone."""

import dataclasses
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_shards import change_shard, failure, read, rewrite_shard, with_value

from tabom.errors import TabomError
from tabom.storage.files import file_sha256
from tabom.trajectories import read_row, read_rows, row_names, stream_shards

COLUMNS = ("query_id", "sample", "is_verified", "prompt_ids", "response_ids", "unmask_step", "unmask_entropy")
TEXTS = ("prompt", "response", "reference")
LISTS = COLUMNS[3:]


@pytest.fixture(scope="module")
def whole(tmp_path_factory, tokenizer):
    from helpers import write_trajectories

    return write_trajectories(tmp_path_factory.mktemp("whole") / "shards", tokenizer)


def rows_of(path):
    """All that can be read of each row, by its number."""
    for _ in stream_shards(path, with_texts=True):
        pass
    names = list(row_names(path))
    rows = read_rows(path, range(24))
    return [(names[row], repr(dataclasses.astuple(rows[row]))) for row in range(24)]


INTEGERS = st.one_of(st.integers(-3, 20), st.sampled_from([-(2**31), 2**31 - 1, 2**15 - 1, -(2**15)]))
FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)
VALUES = {
    "query_id": st.text(max_size=3),
    "sample": st.integers(-3, 3),
    "is_verified": st.booleans(),
    "prompt_ids": st.lists(st.none() | INTEGERS, max_size=4),
    "response_ids": st.lists(st.none() | INTEGERS, min_size=17, max_size=20),
    "unmask_step": st.permutations(range(19)) | st.lists(st.none() | st.integers(-2, 19), min_size=19, max_size=19),
    "unmask_entropy": st.lists(st.none() | FLOATS, min_size=18, max_size=19),
    **dict.fromkeys(TEXTS, st.text(max_size=3)),
}


def edited(table, column, row, value):
    """The column gets another type where the value does not fit the old one."""
    values = table[column].to_pylist()
    values[row] = value
    try:
        array = pa.array(values, table[column].type)
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        array = pa.array([None if one is None else ascii(one) for one in values])
    return table.set_column(table.schema.get_field_index(column), column, array)


@given(data=st.data(), column=st.sampled_from(sorted(VALUES)), row=st.integers(0, 9))
def test_any_single_edit(whole, tmp_path_factory, data, column, row):
    value = data.draw(st.none() | VALUES[column], "value")
    path = tmp_path_factory.mktemp("edited") / "shards"
    shutil.copytree(whole, path)
    rewrite_shard(path, lambda table: edited(table, column, row, value))
    before = after = rows_of(whole)
    message = ""
    try:
        after = rows_of(path)
    except TabomError as error:
        message = str(error)
    differing = [number for number in range(24) if before[number] != after[number]]
    assert message.startswith(f"{path}/shard-00001.parquet: ") or (not message and differing in ([], [10 + row]))
    shutil.rmtree(path.parent)


def list_of(table, column, row, position):
    values = list(table[column][row].as_py())
    values[position] = None
    return values


@pytest.mark.parametrize("column", [*COLUMNS, *TEXTS])
def test_a_value_that_is_missing(make_trajectories, column):
    path = make_trajectories()
    rewrite_shard(path, lambda table: with_value(table, column, 3, None))
    message = f"{path}/shard-00001.parquet: row 3: column {column}: expected a value, got none"
    for reading in (lambda: list(stream_shards(path, with_texts=True)), lambda: read_rows(path, [15])):
        with pytest.raises(TabomError) as error:
            reading()
        assert str(error.value) == message
    with pytest.raises(TabomError, match=f"column {column}: expected a value, got none"):
        read_row(path, 13)
    assert read_row(path, 2)[1].sample == 0


@pytest.mark.parametrize("column", LISTS)
def test_a_gap_in_a_list(make_trajectories, tokenizer, column):
    path = make_trajectories()
    rewrite_shard(path, lambda table: with_value(table, column, 3, list_of(table, column, 3, 2)))
    assert failure(path, tokenizer) == (
        f"{path}/shard-00001.parquet: row 3: column {column}: expected no gap in a list"
    )


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("sample", -1, "expected no number below 0"),
        ("prompt_ids", [4, -7], "expected no number below 0"),
        ("unmask_entropy", [0.5, -0.5, *[0.5] * 17], "expected no number below 0"),
        ("unmask_entropy", [0.5, math.inf, *[0.5] * 17], "expected finite nats, or NaN"),
    ],
)
def test_a_value_that_cannot_be(make_trajectories, tokenizer, column, value, message):
    path = make_trajectories()
    rewrite_shard(path, lambda table: with_value(table, column, 3, value))
    assert failure(path, tokenizer) == f"{path}/shard-00001.parquet: row 3: column {column}: {message}"


def test_a_column_that_is_there_twice(make_trajectories, tokenizer):
    path = make_trajectories()
    rewrite_shard(path, lambda table: table.append_column("sample", table["sample"]))
    assert failure(path, tokenizer) == (f"{path}/shard-00001.parquet: column sample: expected int16, got 2 such column")


def test_a_column_more_changes_nothing(make_trajectories, tokenizer):
    path = make_trajectories()
    rows = rows_of(path)
    rewrite_shard(path, lambda table: table.append_column("more", pa.array(range(10))))
    assert rows_of(path) == rows


def test_text_that_is_no_text(make_trajectories, tokenizer):
    path = make_trajectories()
    shard = path / "shard-00001.parquet"
    data = shard.read_bytes()
    table = pq.read_table(shard)
    buffers = [b"\xff\xfe" if i == 3 else b"ab" for i in range(10)]
    bad = pa.array(buffers, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("response"), "response", bad), shard)
    change_shard(path, 1, sha256=file_sha256(shard))
    assert data != shard.read_bytes()
    with pytest.raises(TabomError, match=r"shard-00001\.parquet: expected a Parquet file \(.*UTF"):
        read_rows(path, range(24))


@pytest.mark.parametrize(
    "name", ["../x.parquet", "/tmp/x.parquet", "sub/x.parquet", "shard-00002.parquet", "x.parquet"]
)
def test_a_manifest_that_names_another_file(make_trajectories, tokenizer, tmp_path, name):
    """What lies there is neither read nor removed."""
    path = make_trajectories()
    (tmp_path / "x.json").write_text("mine")
    change_shard(path, 1, file=name)
    assert failure(path, tokenizer).startswith(f"{path}/manifest.json: shards[1].file: expected ")
    assert (tmp_path / "x.json").read_text() == "mine"


@pytest.mark.parametrize(
    ("change", "key"),
    [
        (lambda content: content["origin"].update(response_length=0), "origin: response_length"),
        (lambda content: content["origin"].update(response_length=2**40), "origin: response_length"),
        (lambda content: content["origin"].update(settings=[]), "origin.settings"),
        (lambda content: content["origin"].pop("num_shards"), "expected the fields of"),
        (lambda content: content["shards"][0].update(num_rows="10"), "shards[0].num_rows"),
        (lambda content: content["shards"][0].update(rejected={"x": -1}), "shards[0].rejected.x"),
        (lambda content: content["shards"].append(content["shards"][0]), "shards: expected 3 at most"),
        (lambda content: content.update(shards={}), "shards"),
    ],
)
def test_a_manifest_that_says_what_cannot_be(make_trajectories, tokenizer, change, key):
    from test_shards import change_manifest

    path = make_trajectories()
    change_manifest(path, change)
    message = failure(path, tokenizer)
    assert message.startswith(f"{path}/manifest.json: ")
    assert key in message


def test_the_rows_of_a_shard_are_read_at_once(make_trajectories, tokenizer):
    """No list of Python numbers is made of what belongs in a matrix."""
    table = read(make_trajectories(), tokenizer)
    assert isinstance(table.response_ids, np.ndarray)
