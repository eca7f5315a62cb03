"""W&B's own programs run our sweep files, against a server that stands in for theirs on the loopback address."""

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import wandb
import yaml
from helpers import SMALL
from wandb.cli.cli import cli
from wandb_server import SweepServer

from tabom.storage.run_record import find_records

ROOT = Path(__file__).parents[1]
SWEEPS = sorted((ROOT / "sweeps").rglob("*.yaml"))
MARGIN = "model.objective.margin"


@pytest.fixture
def server():
    with SweepServer().running() as server:
        yield server


@pytest.fixture
def online(server, monkeypatch):
    """W&B asks the server."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)


@pytest.fixture
def call(online, monkeypatch):
    """Run a program of this environment in the current folder; returns what it wrote."""
    monkeypatch.setenv("WANDB_SILENT", "false")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def call(*words):
        program = Path(sys.executable).with_name(words[0])
        done = subprocess.run([program, *words[1:]], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    return call


def inspect(run_directory):
    words = [Path(sys.executable).with_name("wandb"), "leet", "inspect", "--summary", "--json", run_directory]
    return json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)


@pytest.fixture
def create(online):
    """What the program ``wandb sweep`` calls, in this process; W&B reads the variables once a process."""
    wandb.teardown()
    yield lambda path: cli.main(["sweep", str(path)], standalone_mode=False)
    wandb.teardown()


@pytest.mark.slow
# W&B calls what it has deprecated itself, and leaves the file to the interpreter.
@pytest.mark.filterwarnings("ignore:Read the `app_url` setting:DeprecationWarning", "ignore:unclosed file")
@pytest.mark.parametrize("path", SWEEPS, ids=lambda path: str(path.relative_to(ROOT / "sweeps")))
def test_wandb_takes_the_file_as_it_is(path, server, create):
    create(path)
    written = yaml.safe_load(path.read_text())
    for parameter in server.sweep["parameters"].values():  # what W&B makes of bounds without a distribution
        if parameter.get("distribution") in ("uniform", "int_uniform"):
            del parameter["distribution"]
    assert server.sweep == written
    assert server.project == "tabom"


@pytest.mark.slow
def test_agent_trains_in_a_directory_for_each_run(stage, server, call, monkeypatch, tmp_path):
    del stage  # base and trajectories where the configs look for them
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=os.pathsep)
    sweep = yaml.safe_load((ROOT / "sweeps/margin.yaml").read_text())
    base = sweep["command"].index("configs/demo/tabom.yaml")
    sweep["command"][base : base + 1] = [str(ROOT / "configs/demo/tabom.yaml"), *SMALL]
    (tmp_path / "margin.yaml").write_text(yaml.dump(sweep))
    assert "Run sweep agent with: wandb agent me/tabom/sweep1" in call("wandb", "sweep", "margin.yaml")
    said = call("wandb", "agent", "--count", "2", "me/tabom/sweep1")
    assert server.runs == {f"run{seed}": {MARGIN: 0.0, "seed_everything": seed} for seed in (1, 2)}
    records = {record.run_id: record for record in find_records([tmp_path / "runs"])}
    assert records.keys() == server.runs.keys(), said
    for run_id, record in records.items():
        directory = tmp_path / "runs/demo/tabom/sweep1" / run_id
        assert (record.state, record.directory) == ("finished", directory), said
        assert record.wandb["sweep_id"] == "sweep1"
        assert record.seed == server.runs[run_id]["seed_everything"]
        assert record.config["model"]["init_args"]["objective"]["init_args"]["margin"] == 0.0
        assert len(list((directory / "wandb").glob("offline-run-*"))) == 1
        logged = inspect(record.wandb["directory"])
        assert logged["state"] == "finished"
        assert logged["config"]["cli"]["seed_everything"] == record.seed
        assert logged["config"][MARGIN] == 0.0
        metric = sweep["metric"]["name"]
        assert logged["summary"][metric] == record.last("validate")[metric.removeprefix("validate/")]
    assert not (tmp_path / "runs/demo/tabom/records").exists()


SAYS_ITS_VERSION = """
program: tabom
method: grid
metric: {name: validate/kl, goal: minimize}
parameters:
  seed_everything: {values: [1, 2, 3]}
command: [/bin/sh, -c, tabom --version, "${args}"]
"""


@pytest.mark.slow
def test_one_command_creates_the_sweep_and_runs_it(server, call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "version.yaml").write_text(SAYS_ITS_VERSION)
    said = call("tabom", "sweep", "version.yaml", "--wandb", "--project", "here", "--count", "2")
    assert f"Sweep URL: {server.address}/me/here/sweeps/sweep1" in said
    assert "another agent, here or on another machine: wandb agent here/sweep1" in said
    assert (server.project, server.sweep) == ("here", yaml.safe_load(SAYS_ITS_VERSION))
    assert list(server.runs.values()) == [{"seed_everything": 1}, {"seed_everything": 2}]
    assert said.count(f"tabom {version('tabom')}\n") == 2


@pytest.mark.slow
def test_without_a_server_one_sentence_is_said(call, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "version.yaml").write_text(SAYS_ITS_VERSION)
    monkeypatch.delenv("WANDB_API_KEY")
    words = [Path(sys.executable).with_name("tabom"), "sweep", "version.yaml", "--wandb"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("tabom: error: W&B: expected a sweep on the server, got: ")
