import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tabom.data.tokenizer import tokenizer_fingerprint
from tabom.errors import TabomError
from tabom.trajectories import Manifest, check_output_dir, read_trajectories
from tabom.trajectories.manifest import file_sha256


def read(path, tokenizer, response_length=19):
    return read_trajectories(
        path, tokenizer_fingerprint=tokenizer_fingerprint(tokenizer), response_length=response_length
    )


def failure(path, tokenizer, **changes):
    with pytest.raises(TabomError) as error:
        read(path, tokenizer, **changes)
    return str(error.value)


def change_manifest(path, **changes):
    content = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps({**content, **changes}))


def rewrite_shard(path, change, name="shard-10.parquet"):
    """Change a shard's table and make the manifest agree with the new file."""
    pq.write_table(change(pq.read_table(path / name)), path / name)
    content = json.loads((path / "manifest.json").read_text())
    for shard in content["shards"]:
        if shard["file"] == name:
            shard["sha256"] = file_sha256(path / name)
    (path / "manifest.json").write_text(json.dumps(content))


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
    assert [shard.num_rows for shard in table.manifest.shards] == [10, 10, 4]


def test_nothing_temporary_is_left(make_trajectories):
    names = sorted(path.name for path in make_trajectories().iterdir())
    assert names == ["manifest.json", "shard-0.parquet", "shard-10.parquet", "shard-20.parquet"]


def test_no_manifest(tmp_path, tokenizer):
    assert failure(tmp_path, tokenizer) == (
        f"{tmp_path}/manifest.json: expected the manifest of a finished distillation, found no such file"
    )


@pytest.mark.parametrize("content", ["{", "{}", '{"shards": [{"file": "a"}]}', '{"shards": [], "surprise": 1}'])
def test_a_manifest_that_is_none(tmp_path, tokenizer, content):
    (tmp_path / "manifest.json").write_text(content)
    expected = f"{tmp_path}/manifest.json: expected a manifest as `tabom predict` writes it ("
    assert failure(tmp_path, tokenizer).startswith(expected)


def test_another_version(make_trajectories, tokenizer):
    path = make_trajectories()
    change_manifest(path, schema_version=99)
    assert failure(path, tokenizer) == f"{path}/manifest.json: expected schema_version 1, got 99"


def test_missing_shard(make_trajectories, tokenizer):
    path = make_trajectories()
    (path / "shard-10.parquet").unlink()
    assert failure(path, tokenizer) == (
        f"{path}/shard-10.parquet: expected a shard of 10 trajectories, found no such file"
    )


def test_truncated_shard(make_trajectories, tokenizer):
    path = make_trajectories()
    shard = path / "shard-10.parquet"
    shard.write_bytes(shard.read_bytes()[:-20])
    assert failure(path, tokenizer) == (
        f"{shard}: expected the checksum in the manifest; the shard is truncated or was altered"
    )


def test_a_shard_that_is_no_parquet_file(make_trajectories, tokenizer):
    path = make_trajectories()
    (path / "shard-10.parquet").write_bytes(b"nothing")
    change = json.loads((path / "manifest.json").read_text())["shards"]
    change[1]["sha256"] = file_sha256(path / "shard-10.parquet")
    change_manifest(path, shards=change)
    assert failure(path, tokenizer).startswith(f"{path}/shard-10.parquet: expected a Parquet file (")


def test_shards_of_another_tokenizer(make_trajectories, tokenizer):
    path = make_trajectories()
    change_manifest(path, tokenizer_fingerprint="f" * 64)
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
        f"{path}/shard-10.parquet: column unmask_entropy: expected fixed_size_list<item: float>[19], got no such column"
    )
    path = make_trajectories("other")
    rewrite_shard(path, lambda table: table.set_column(0, "query_id", pa.array(range(10))))
    assert failure(path, tokenizer) == (f"{path}/shard-10.parquet: column query_id: expected string, got int64")


def test_row_count(make_trajectories, tokenizer):
    path = make_trajectories()
    rewrite_shard(path, lambda table: table.slice(0, 7))
    assert failure(path, tokenizer) == f"{path}/shard-10.parquet: expected 10 rows, as the manifest says, got 7"


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
        f"{path}/shard-10.parquet: row 3: column unmask_step: "
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
    Manifest(19, 1, tokenizer_fingerprint(tokenizer), "", {}, {}, ()).save(tmp_path)
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
