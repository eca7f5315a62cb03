"""A sweep file runs real trainings on this machine, is killed, and goes on."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from helpers import SMALL
from journal import made_runs
from wandb_records import inspect

from tabom.storage.run_record import find_records

ROOT = Path(__file__).parents[2]
WEIGHT, MARGIN = (f"model.objective.{name}" for name in ("rank_weight", "margin"))
COMMAND = [
    *(sys.executable, "-m", "tabom", "sweep", "margin_x_weight.yaml"),
    *("--jobs=2", f"--config={ROOT / 'configs/demo/tabom.yaml'}", "--", *SMALL),
]
OUT = Path("runs/sweeps/margin_x_weight")
METRIC = "validate/accuracy_1_per_step"


@pytest.mark.slow
def test_killed_in_the_middle_and_gone_on_with(stage, monkeypatch):
    del stage  # base and trajectories where the config looks for them
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sweep = yaml.safe_load((ROOT / "sweeps/margin_x_weight.yaml").read_text())
    sweep["parameters"][MARGIN]["values"] = [0.1, 0.3]
    Path("margin_x_weight.yaml").write_text(yaml.safe_dump(sweep))
    first = subprocess.Popen(COMMAND, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    stop = time.monotonic() + 300
    while sum(run.state == "finished" for run in made_runs(OUT, METRIC)) < 3:
        assert first.poll() is None, first.stderr.read()
        assert time.monotonic() < stop
        time.sleep(0.2)
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    done = subprocess.run(COMMAND, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

    runs = made_runs(OUT, METRIC)
    assert {run.state for run in runs} == {"finished"}
    tried = sorted((run.values[WEIGHT], run.values[MARGIN], run.seed) for run in runs)
    assert tried == list(itertools.product((1.0, 2.0), (0.1, 0.3), (1, 2)))
    assert [(OUT / f"sensitivity.{ending}").is_file() for ending in ("png", "svg")] == [True, True]
    assert "8 of 8 runs" in done.stdout

    records = {record.run_id: record for record in find_records([OUT]) if record.state == "finished"}
    assert len(records) == 8
    for run in runs:
        (run_file,) = (OUT / run.name).glob(f"wandb/offline-run-*-{run.records[-1].run_id}/run-*.wandb")
        summary = json.loads(inspect(run_file, "--summary"))
        assert summary["state"] == "finished"
        assert summary["config"]["cli"]["seed_everything"] == run.seed == records[run.records[-1].run_id].seed
        objective = summary["config"]["cli"]["model"]["objective"]
        assert (objective["rank_weight"], objective["margin"]) == (run.values[WEIGHT], run.values[MARGIN])
        assert records[run.records[-1].run_id].wandb["group"] == "margin_x_weight"
        assert summary["summary"][METRIC] == run.metric


@pytest.mark.slow
def test_a_training_is_evaluated_after_a_kill_without_training_again(stage, monkeypatch):
    """The demo's margins, each scored on its puzzles, killed while the first evaluation runs."""
    del stage
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    sweep = yaml.safe_load((ROOT / "sweeps/margin.yaml").read_text())
    sweep["metric"]["name"] = "benchmark/sudoku/score"
    sweep["parameters"] = {MARGIN: {"values": [0.0, 0.3]}, "seed_everything": {"values": [1]}}
    sweep["command"][3] = str(ROOT / "configs/demo/tabom.yaml")
    evaluation = ["evaluate", "--config", str(ROOT / "configs/demo/evaluate.yaml"), "--model.name=${setting}"]
    evaluation += ["--ckpt_path=${run_dir}/checkpoints/last.ckpt", "--data.benchmark.num_examples=40"]
    sweep["then"] = [[*evaluation, "--model.batch_size=1"]]
    Path("then.yaml").write_text(yaml.safe_dump(sweep))
    words = [sys.executable, "-m", "tabom", "sweep", "then.yaml", "--", *SMALL]
    out = Path("runs/sweeps/then")
    first = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    stop = time.monotonic() + 300
    while not list(out.glob("margin=0-seed=1/then-1/responses-0.jsonl")):
        assert first.poll() is None, first.stderr.read()
        assert time.monotonic() < stop
        time.sleep(0.05)
    (evaluating,) = out.glob("margin=0-seed=1/lock")
    os.kill(first.pid, signal.SIGKILL)
    first.communicate()
    os.killpg(int(evaluating.read_text()), signal.SIGKILL)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for name, margin in (("margin=0-seed=1", "0"), ("margin=0.3-seed=1", "0.3")):
        trained = find_records((out / name / "records").glob("*.jsonl"))
        evaluated = find_records([out / name / "then-1"])
        assert [record.state for record in trained] == ["finished"]
        assert evaluated[-1].parent == trained[0].run_id
        assert (evaluated[-1].benchmarks[0].model, len(evaluated[-1].benchmarks[0].scores)) == (f"margin={margin}", 40)
        states = [record.state for record in evaluated]
        assert states == (["running", "finished"] if name == "margin=0-seed=1" else ["finished"])
    assert evaluated[0].benchmarks[0].cost["num_decoded"] == 40
    assert "2 of 2 runs" in done.stdout
