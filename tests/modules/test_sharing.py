"""Runs that share a directory: each shard is decoded once, whoever dies, and other settings are refused."""

import dataclasses
import json
import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from helpers import origin_of, write_chunk

from tabom.cli.lightning_cli import run
from tabom.errors import TabomError
from tabom.storage.claims import alone
from tabom.trajectories import Manifest, TrajectoryStore, read_row, store

NO_PROCESS = 2**22 + 1
"""Number that no process has: Linux goes up to 2**22."""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(store, "_POLL_SECONDS", 0.01)


@pytest.fixture
def origin(tokenizer):
    return origin_of(tokenizer)


@pytest.fixture
def opened(tmp_path, origin):
    """A run that has opened the directory."""

    def make(**changes):
        made = TrajectoryStore(tmp_path / "run")
        made.open(dataclasses.replace(origin, **changes))
        return made

    return make


@pytest.fixture
def write(make_trajectories, tokenizer):
    """Write the shard that a run has claimed."""
    source = make_trajectories("source")

    def call(run_, index):
        rows = [read_row(source, row)[1] for row in range(10 * index, min(24, 10 * index + 10))]
        return write_chunk(run_, index, rows, tokenizer)

    return call


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.name != "timings.jsonl"}


def kill(run_):
    """Leave a run's claims as a SIGKILL does."""
    for path in run_.claims._held.values():
        path.write_text(json.dumps(json.loads(path.read_text()) | {"pid": NO_PROCESS}))
    run_.claims._held.clear()
    run_.claims._is_closed.set()


def test_two_runs_share_the_shards(opened, write, make_trajectories):
    one, two = opened(), opened()
    assert [one.claim(), two.claim(), one.claim()] == [0, 1, 2]
    said = []
    waiting = threading.Thread(target=lambda: said.append(two.claim(said.append)))
    for run_, index in ((one, 0), (two, 1)):
        write(run_, index)
    waiting.start()
    while not said:
        pass
    write(one, 2)
    waiting.join()
    process = f"process {os.getpid()} on "
    assert re.fullmatch(
        rf".*/run: waiting for 1 shards that other runs decode, such as shard-00002\.parquet \({process}.*\)", said[0]
    )
    assert (said[1], one.claim()) == (None, None)
    assert one.finish() == two.finish() == Manifest.load(one.directory)
    assert files(one.directory) == files(make_trajectories("again"))


def test_a_killed_runs_shard_is_taken_over(opened, write, make_trajectories):
    one = opened()
    assert one.claim() == 0
    kill(one)
    two, said = opened(), []
    assert two.claim(said.append) == 0
    (sentence,) = said
    assert re.search(
        rf"shard-00000\.parquet is taken over; process {NO_PROCESS} on .*, which had it, has ended$", sentence
    )
    write(two, 0)
    for index in (1, 2):
        assert two.claim() == index
        write(two, index)
    two.finish()
    assert files(two.directory) == files(make_trajectories("again"))


def test_no_claim_of_a_killed_run_is_left(opened, write, tmp_path):
    """Killed after its shard was written, after the manifest was, or while it did anything else."""
    one, two = opened(), opened()
    for index in range(3):
        assert one.claim() == index
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(one.claims, "release", lambda name: None)
            write(one, index)
    kill(one)
    two.claims.take("opening")
    kill(two)
    three = opened()
    assert three.claim() is None
    three.finish()
    kill(opened())
    opened().finish()
    assert [path.name for path in (tmp_path / "run").iterdir() if path.is_dir()] == []


def test_what_was_lost_while_a_run_stood_still_is_not_written(opened, write, make_trajectories):
    one = opened()
    assert one.claim() == 0
    kill(one)
    two = opened()
    assert two.claim() == 0
    assert write(one, 0) is None
    assert two.finished() == frozenset()
    write(two, 0)
    assert two.finished() == {0}
    one.claims._held.clear()
    two.close()


def test_what_another_run_is_writing_is_left_alone(opened, tmp_path):
    one = opened()
    one.claim()
    ours = tmp_path / "run" / f"shard-00000.parquet.{one.claims.token}.partial"
    dead = [f"shard-00001.parquet.{'ab' * 8}.partial", f"shard-00002.json.{'cd' * 8}.partial", "run.json.partial"]
    for path in (ours, *(tmp_path / "run" / name for name in dead)):
        path.write_bytes(b"half")
    opened().close()
    assert [path for path in (tmp_path / "run").iterdir() if path.suffix == ".partial"] == [ours]
    one.close()


@pytest.mark.parametrize("moment", ["before a shard", "with a shard", "finished"])
@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"model_fingerprint": "2" * 64}, "model_fingerprint 000000000000"),
        ({"num_shards": 4}, "num_shards 3"),
        ({"settings": {"batch_size": 8, "keep": "verified"}}, 'settings.keep "all"'),
    ],
    ids=["model", "shards", "settings"],
)
def test_other_settings_are_refused_at_any_moment(opened, write, tmp_path, moment, changes, key):
    one = opened()
    for index in range({"before a shard": 0, "with a shard": 1, "finished": 3}[moment]):
        assert one.claim() == index
        write(one, index)
    if moment == "finished":
        one.finish()
    before = files_below(tmp_path / "run")
    there = "the trajectories that are there" if moment == "finished" else "the run that is going on there (process"
    with pytest.raises(TabomError, match=re.escape(f"run: expected {key}, of {there}")):
        opened(**changes)
    assert files_below(tmp_path / "run") == before
    one.close()


def files_below(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_a_run_that_wrote_nothing_leaves_nothing_behind(opened, tmp_path):
    one = opened()
    one.claim()
    one.close()
    assert [path.name for path in tmp_path.iterdir()] == []
    kill(opened())
    opened(num_shards=5).close()  # nobody is there any more
    (tmp_path / "run").mkdir(exist_ok=True)
    assert list((tmp_path / "run").iterdir()) == []


def test_the_last_to_leave_removes_what_was_begun(opened, tmp_path):
    one, two = opened(), opened()
    one.close()
    assert (tmp_path / "run/run.json").is_file()
    two.close()
    assert not (tmp_path / "run").exists() or list((tmp_path / "run").iterdir()) == []


@pytest.fixture
def predict(stage, tmp_path):
    def call(*options):
        return stage("predict", "distill", "--writer.output_dir=new", "--data.num_queries=20", *options)

    return call


def test_a_command_with_other_settings_is_refused_while_one_runs(predict, monkeypatch):
    sizes = "--data.queries_per_shard=8"
    said = []

    def refused_meanwhile(self, *arguments, **options):
        if not said:
            with pytest.raises(TabomError) as error:
                predict(sizes, "--model.batch_size=5")
            said.append(str(error.value))
        return write_shard(self, *arguments, **options)

    write_shard = TrajectoryStore.write
    monkeypatch.setattr(TrajectoryStore, "write", refused_meanwhile)
    predict(sizes)
    assert re.fullmatch(
        r"new: expected settings\.batch_size 128, of the run that is going on there \(process \d+ on .*\), got 5; "
        "give another output_dir, or wait for its end",
        said[0],
    )
    assert Manifest.load(Path("new")).origin.settings["batch_size"] == 128


@pytest.mark.parametrize(
    ("verb", "config"), [("fit", "tabom"), ("evaluate", "evaluate")], ids=["trainings", "evaluations"]
)
def test_two_in_one_directory_are_refused(repository, monkeypatch, tmp_path, checkpoint, verb, config):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tabom.cli.trainer.TabomTrainer.check_inputs", staticmethod(lambda verb, config: None))
    words = [verb, "--config", str(repository / f"configs/demo/{config}.yaml"), "--trainer.logger=false"]
    words += ["--run_dir=out", f"--model.backbone.path={checkpoint}"]
    with alone(Path("out"), verb), pytest.raises(TabomError, match=rf"out: expected no other tabom {verb} here, but"):
        run(words)
    assert not Path("out").exists()


OPTIONS = ("--data.num_queries=40", "--data.queries_per_shard=4", "--model.batch_size=3", "--progress.interval=99")


@pytest.mark.slow
def test_five_runs_that_are_killed_at_random_moments(repository, stage, tmp_path):
    """Ten times: the bytes of one undisturbed run, all end with 0, and no claim is left."""
    del stage  # base where the config looks for it
    config = repository / "configs/demo/distill.yaml"

    def words(directory):
        return [
            "predict",
            "--config",
            str(config),
            f"--run_dir={directory}",
            f"--writer.output_dir={directory}/trajectories",
            *OPTIONS,
        ]

    jobs = [{"words": [words("whole")], "num_kills": 0, "seconds": 0, "seed": 0}]
    jobs += [
        {"words": [words(f"shared{seed}")] * 5, "num_kills": 1 + (seed == 9), "seconds": 1.5, "seed": seed}
        for seed in range(10)
    ]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("many_runs.py")
    done = subprocess.run([sys.executable, script, "jobs.json"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[0]] + [[0] * 5] * 10, (tmp_path / "run0.log").read_text()[-3000:]
    whole = files(tmp_path / "whole/trajectories")
    assert len(whole) == 11
    for seed in range(10):
        assert files(tmp_path / f"shared{seed}/trajectories") == whole


def test_ranks_of_a_run_are_no_other_runs(opened, tmp_path):
    """The second process of a run waits for the first one without a word."""
    one = opened()
    two = TrajectoryStore(tmp_path / "run")
    two.join(one.claims.token)
    assert [one.claim(), two.claim(), two.claim()] == [0, 1, 2]
    said = []
    waiting = threading.Thread(target=lambda: one.claim(said.append))
    waiting.start()
    waiting.join(0.1)
    assert (waiting.is_alive(), said) == (True, [])
    two.close()
    waiting.join()
    one.close()
