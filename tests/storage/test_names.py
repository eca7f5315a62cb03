"""What a file says is a name is a name."""

import json

import pytest
from records import benchmark_line, curves

from tabom.errors import TabomError
from tabom.storage.names import plain_name
from tabom.storage.run_record import read_record

PATHS = ["../x", "a/b", "/etc/passwd", "..", ".", "", ".hidden", "a\\b", "a\0b", "a\nb", "x" * 300]


@pytest.mark.parametrize("name", [*PATHS, None, 3, ["a"]])
def test_no_path_is_a_name(name):
    with pytest.raises(TabomError, match=r"^file\.json: key: expected a plain name and no path, got "):
        plain_name(name, "file.json: key")


@pytest.mark.parametrize("name", ["shard-00001.parquet", "model-00001-of-2.safetensors", "a b", "größe", "mbpp"])
def test_names(name):
    assert plain_name(name, "file.json: key") == name


@pytest.mark.parametrize(
    ("line", "key"),
    [
        (curves(**{"../../x": [0.1, 0.2]}), "curves"),
        (curves(stage="../test"), "curves"),
        (benchmark_line(benchmark="../../evil"), "benchmark"),
    ],
    ids=["curve", "stage", "benchmark"],
)
def test_records_hold_names(tmp_path, write_record, line, key):
    path = write_record(line)
    with pytest.raises(TabomError, match=rf"{key}: expected a plain name and no path, got '\.\."):
        read_record(path)


def test_the_id_of_a_run_is_a_name(write_record):
    with pytest.raises(TabomError, match=r"line 1: run_id: expected a plain name and no path, got '\.\./a'"):
        read_record(write_record(run_id="../a"))


@pytest.fixture
def write_record(tmp_path):
    """A record of a run with one more line, or with other values in its first."""

    def write(*lines, **changes):
        start = {"kind": "start", "verb": "fit", "run_id": "a", "time": "t", "command": [], "config_files": []}
        start |= {"config": {}, "environment": {}, "seed": 1, "inputs": {}, "wandb": None, **changes}
        path = tmp_path / "fit.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in (start, *lines)))
        return path

    return write
