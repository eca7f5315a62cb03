import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from helpers import origin_of

from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.storage.files import file_sha256
from tabom.storage.sealed import write_sealed
from tabom.trajectories import (
    Manifest,
    check_output_dir,
    find_row,
    read_row,
    read_trajectories,
    stream_shards,
)
from tabom.types import TrajectoryRow


def read(path, tokenizer, response_length=19):
    return read_trajectories(
        path, tokenizer_fingerprint=tokenizer_fingerprint(tokenizer), response_length=response_length
    )


def failure(path, tokenizer, **changes):
    with pytest.raises(TabomError) as error:
        read(path, tokenizer, **changes)
    return str(error.value)


def change_manifest(path, change):
    """Change the content and seal it again."""
    content = json.loads((path / "manifest.json").read_text())
    del content["checksum"]
    change(content)
    write_sealed(path / "manifest.json", content)


def change_shard(path, number=1, **values):
    change_manifest(path, lambda content: content["shards"][number].update(values))


def rewrite_shard(path, change, number=1):
    """Change a shard's table and make the manifest agree with the new file."""
    shard = path / f"shard-{number:05d}.parquet"
    pq.write_table(change(pq.read_table(shard)), shard)
    change_shard(path, number, sha256=file_sha256(shard))


def with_value(table, column, row, value):
    values = table[column].to_pylist()
    values[row] = value
    return table.set_column(table.schema.get_field_index(column), column, pa.array(values, table[column].type))


def test_what_is_written_is_read(make_trajectories, tokenizer):
    path = make_trajectories()
    table = read(path, tokenizer)
    assert table.manifest.num_rows == len(table.query_ids) == 24
    assert table.manifest.num_verified == table.is_verified.sum() == 16
    assert table.response_ids.dtype == np.int32
    assert table.unmask_step.dtype == np.int16
    assert table.unmask_entropy.dtype == np.float32
    for prompt, response, reference in zip(table.prompt_ids, table.response_ids, table.references, strict=True):
        assert tokenizer.decode(prompt).startswith("sudoku ")
        assert tokenizer.decode(response.tolist()) == reference.replace(" ", "") + "<eos>" * 3
    assert table.samples.tolist() == [0] * 24
    assert table.samples.dtype == np.int16
    assert [shard.num_rows for shard in table.manifest.shards] == [10, 10, 4]
    assert len(pa.array(table.query_ids).unique()) == 24


def test_entropies_are_rounded_to_less_than_a_millionth_nat(make_trajectories, tokenizer):
    table = read(make_trajectories(), tokenizer)
    generator = torch.Generator().manual_seed(0)
    for entropies in table.unmask_entropy:
        torch.randperm(19, generator=generator)
        expected = torch.rand(19, generator=generator).numpy()
        assert 0 < np.abs(entropies - expected).max() <= 2**-21
        assert (entropies * 2**20 == np.round(entropies * 2**20)).all()


def test_nothing_temporary_is_left(make_trajectories):
    names = sorted(path.name for path in make_trajectories().iterdir())
    assert names == ["manifest.json", "shard-00000.parquet", "shard-00001.parquet", "shard-00002.parquet"]


def test_no_manifest(tmp_path, tokenizer):
    assert failure(tmp_path, tokenizer) == (
        f"{tmp_path}/manifest.json: expected the manifest of a finished distillation, found no such file"
    )


@pytest.mark.parametrize("content", ["{", "", "\xff", "[]"])
def test_a_manifest_that_is_none(tmp_path, tokenizer, content):
    (tmp_path / "manifest.json").write_text(content, encoding="latin-1")
    expected = f"{tmp_path}/manifest.json: expected a manifest as `tabom predict` writes it"
    assert failure(tmp_path, tokenizer).startswith(expected)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "{}",
        lambda text: text.replace('"num_rows": 10', '"num_rows": 11', 1),
        lambda text: text.replace('"checksum": "', '"checksum": "0', 1),
        lambda text: text.replace("  ", " ", 1),
        lambda text: text + "\n",
    ],
    ids=["nothing", "a number", "the checksum", "a space", "an empty line"],
)
def test_an_altered_manifest(make_trajectories, tokenizer, change):
    path = make_trajectories() / "manifest.json"
    path.write_text(change(path.read_text()))
    assert failure(path.parent, tokenizer) == (
        f"{path}: expected a manifest as `tabom predict` writes it; the file is truncated or was altered"
    )


@pytest.mark.parametrize("version", [1, 99])
def test_another_version(make_trajectories, tokenizer, version):
    path = make_trajectories()
    change_manifest(path, lambda content: content.update(schema_version=version))
    assert failure(path, tokenizer) == f"{path}/manifest.json: expected schema_version 2, got {version}"


def test_a_manifest_of_before_december_2026_is_read(make_trajectories, tokenizer):
    """It named the type of each column as well, under its seal."""
    path = make_trajectories()
    manifest = Manifest.load(path)
    columns = {"query_id": "string", "sample": "int16", "unmask_step": "list<element: int16>[19]"}
    change_manifest(path, lambda content: content.update(schema=columns))
    assert '"schema": {' in (path / "manifest.json").read_text()
    assert read(path, tokenizer).manifest == manifest
    text = (path / "manifest.json").read_text()
    (path / "manifest.json").write_text(text.replace('"int16"', '"int32"'))
    assert failure(path, tokenizer).endswith("the file is truncated or was altered")


@pytest.mark.parametrize(
    ("settings", "block_length"),
    [
        ({"sampler": {"block_length": 8}}, 8),
        ({"sampler": {"block_length": None}}, 19),
        ({"sampler": {}}, None),
        ({"sampler": {"block_length": None}, "block_size": 4}, 4),
        ({"imported_from": "x"}, None),
        ({"imported_from": "x", "block_length": 4}, 4),
    ],
)
def test_the_manifest_says_in_which_blocks_was_decoded(make_trajectories, settings, block_length):
    assert Manifest.load(make_trajectories(settings=settings)).origin.block_length == block_length


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("8", "whole number or null, got '8'"),
        (True, "whole number or null, got True"),
        (0, "number from 1 to 2147483647, got 0"),
    ],
)
def test_blocks_that_cannot_be(make_trajectories, tokenizer, value, expected):
    path = make_trajectories()
    change_manifest(path, lambda content: content["origin"]["settings"].update(sampler={"block_length": value}))
    assert failure(path, tokenizer) == f"{path}/manifest.json: origin: settings: block_length: expected a {expected}"
    change_manifest(path, lambda content: content["origin"]["settings"].update(block_size=value))
    assert failure(path, tokenizer) == f"{path}/manifest.json: origin: settings: block_size: expected a {expected}"


def test_the_manifest_sums_up(make_trajectories):
    path = make_trajectories()
    change_shard(path, 0, rejected={"wrong answer": 3, "no answer": 4})
    change_shard(path, 2, num_queries=9, rejected={"timeout": 1, "no answer": 4})
    manifest = Manifest.load(path)
    assert (manifest.num_queries, manifest.num_rows, manifest.num_verified) == (29, 24, 16)
    assert manifest.num_tokens == 24 * 17
    assert list(manifest.rejected.items()) == [("no answer", 8), ("wrong answer", 6), ("timeout", 1)]


def test_missing_shard(make_trajectories, tokenizer):
    path = make_trajectories()
    (path / "shard-00001.parquet").unlink()
    assert failure(path, tokenizer) == (
        f"{path}/shard-00001.parquet: expected a shard of 10 trajectories, found no such file"
    )


def test_truncated_shard(make_trajectories, tokenizer):
    path = make_trajectories()
    shard = path / "shard-00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert failure(path, tokenizer) == (
        f"{shard}: expected the checksum in the manifest; the shard is truncated or was altered"
    )


def test_a_shard_that_is_no_parquet_file(make_trajectories, tokenizer):
    path = make_trajectories()
    (path / "shard-00001.parquet").write_bytes(b"nothing")
    change_shard(path, sha256=file_sha256(path / "shard-00001.parquet"))
    assert failure(path, tokenizer).startswith(f"{path}/shard-00001.parquet: expected a Parquet file (")


def test_shards_of_another_tokenizer(make_trajectories, tokenizer):
    path = make_trajectories()
    change_manifest(path, lambda content: content["origin"].update(tokenizer_fingerprint="f" * 64))
    assert failure(path, tokenizer) == (
        f"{path}: expected trajectories of the tokenizer {tokenizer_fingerprint(tokenizer)[:12]}, "
        "got those of ffffffffffff"
    )


def test_shards_of_another_response_length(make_trajectories, tokenizer):
    path = make_trajectories()
    assert failure(path, tokenizer, response_length=16) == (
        f"{path}: expected trajectories of response_length 16, got 19"
    )


def test_column_of_another_type(make_trajectories, tokenizer):
    path = make_trajectories()
    rewrite_shard(path, lambda table: table.drop_columns("unmask_entropy"))
    assert failure(path, tokenizer) == (
        f"{path}/shard-00001.parquet: column unmask_entropy: "
        "expected fixed_size_list<item: float>[19], got no such column"
    )
    path = make_trajectories("other")
    rewrite_shard(path, lambda table: table.set_column(0, "query_id", pa.array(range(10))))
    assert failure(path, tokenizer) == (f"{path}/shard-00001.parquet: column query_id: expected string, got int64")


def test_row_count(make_trajectories, tokenizer):
    path = make_trajectories()
    rewrite_shard(path, lambda table: table.slice(0, 7))
    assert failure(path, tokenizer) == f"{path}/shard-00001.parquet: expected 10 rows, as the manifest says, got 7"


def test_verified_count(make_trajectories, tokenizer):
    path = make_trajectories()
    rewrite_shard(path, lambda table: with_value(table, "is_verified", 1, True))
    assert failure(path, tokenizer) == (
        f"{path}/shard-00001.parquet: expected 7 verified rows, as the manifest says, got 8"
    )


@pytest.mark.parametrize("wrong", [-1, 1], ids=["negative", "mask"])
def test_ids_that_are_no_text(make_trajectories, tokenizer, wrong):
    path = make_trajectories()
    rewrite_shard(path, lambda table: with_value(table, "response_ids", 4, [5] * 7 + [wrong] * 12))
    assert failure(path, tokenizer) == (
        f"{path}/shard-00001.parquet: row 4: column response_ids: "
        f"expected ids from 0 other than the mask token 1, got {wrong} at position 7"
    )


def test_a_query_that_is_there_twice(make_trajectories, tokenizer):
    path = make_trajectories()
    query_id = read(path, tokenizer).query_ids[3]
    rewrite_shard(path, lambda table: with_value(table, "query_id", 6, query_id))
    assert failure(path, tokenizer) == (
        f"{path}/shard-00001.parquet: row 6: expected every query's sample once, got {query_id}, 0 again"
    )
    rewrite_shard(path, lambda table: with_value(table, "sample", 6, 1))
    assert read(path, tokenizer).samples.tolist() == [0] * 16 + [1] + [0] * 7


def test_a_shard_that_is_not_named(make_trajectories, tokenizer):
    path = make_trajectories()
    (path / "shard-00003.parquet").write_bytes((path / "shard-00002.parquet").read_bytes())
    assert failure(path, tokenizer) == (
        f"{path}/shard-00003.parquet: expected only the shards that the manifest names, found this file too"
    )


def test_shards_one_by_one(make_trajectories, tokenizer):
    path = make_trajectories()
    (path / "shard-00002.parquet").unlink()
    shards = stream_shards(path)
    for start in (0, 10):
        info, table = next(shards)
        assert info.file == f"shard-{start // 10:05d}.parquet"
        assert table.response_ids.shape == (10, 19)
    with pytest.raises(TabomError, match=r"shard-00002.parquet: expected a shard of 4 trajectories, found no such"):
        next(shards)


def test_one_row(make_trajectories, tokenizer, monkeypatch):
    monkeypatch.setattr("tabom.trajectories.writer.ROWS_PER_GROUP", 4)
    path = make_trajectories()
    table = read(path, tokenizer)
    for row in (0, 9, 10, 13, 14, 19, 23):
        info, found = read_row(path, row)
        assert info.file == f"shard-{row // 10:05d}.parquet"
        assert found == TrajectoryRow(
            query_id=table.query_ids[row],
            sample=0,
            is_verified=bool(table.is_verified[row]),
            prompt_ids=table.prompt_ids[row],
            response_ids=table.response_ids[row].tolist(),
            unmask_step=table.unmask_step[row].tolist(),
            unmask_entropy=table.unmask_entropy[row].tolist(),
            prompt=tokenizer.decode(table.prompt_ids[row]),
            response=table.references[row].replace(" ", ""),
            reference=table.references[row],
        )
        assert find_row(path, found.query_id, 0) == row
    assert pq.read_metadata(path / "shard-00000.parquet").num_row_groups == 3


def test_no_such_row(make_trajectories):
    path = make_trajectories()
    for row in (-1, 24):
        with pytest.raises(TabomError) as error:
            read_row(path, row)
        assert str(error.value) == f"{path}: expected a row from 0 to 23, got {row}"
    with pytest.raises(TabomError) as error:
        find_row(path, read_row(path, 3)[1].query_id, 1)
    query_id = read_row(path, 3)[1].query_id
    assert str(error.value) == f"{path}: expected a trajectory of the query {query_id}, sample 1, found none"


@pytest.mark.parametrize(
    "steps",
    [[-1] * 19, [1, *range(1, 19)], [-1, *range(1, 19)], [*range(18), 19], [5] * 19, [-2, *range(18)]],
    ids=["nothing", "no first step", "no first step and a hole", "a gap", "one late step", "no step"],
)
def test_steps_that_are_no_order(make_trajectories, tokenizer, steps):
    order = [list(range(19))] * 24
    order[13] = steps
    path = make_trajectories(unmask_step=order)
    assert failure(path, tokenizer) == (
        f"{path}/shard-00001.parquet: row 3: column unmask_step: "
        f"expected every step from 0 to the last to reveal a position, and -1 where none did, got {steps}"
    )


@pytest.mark.parametrize("steps", [[-1, *range(18)], [-1] * 18 + [0], [0, 0, *[-1] * 17]], ids=str)
def test_positions_that_were_never_revealed(make_trajectories, tokenizer, steps):
    path = make_trajectories(unmask_step=[steps] * 24)
    assert read(path, tokenizer).unmask_step.tolist() == [steps] * 24


def test_several_positions_a_step_are_an_order(make_trajectories, tokenizer):
    path = make_trajectories(unmask_step=[[i // 2 for i in range(19)]] * 24)
    assert read(path, tokenizer).unmask_step.max() == 9


def test_empty(tmp_path, tokenizer):
    Manifest(origin_of(tokenizer), ()).save(tmp_path)
    assert failure(tmp_path, tokenizer) == f"{tmp_path}: expected at least one trajectory, the manifest counts none"


def test_nothing_is_written_over(make_trajectories, tmp_path):
    path = make_trajectories()
    with pytest.raises(TabomError) as error:
        check_output_dir(path)
    assert str(error.value) == (
        f"{path}: expected no trajectories yet, found 4 files such as manifest.json; "
        "give another output_dir or move them away"
    )
    check_output_dir(tmp_path / "none yet")
