"""A W&B server that is away: the training ends as it would, and all of it is on the disk."""

import json
import os
import re
import socket
from pathlib import Path

import pytest
import wandb
from run_server import KEY, RunServer
from wandb_records import history, inspect

from tabom.callbacks import tracking
from tabom.modules import TrainingModule

STEPS = [1, 2, 3, 4]


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Let W&B ask a server; it reads the variables once a process, so it starts afresh."""
    wandb.teardown()
    monkeypatch.delenv("WANDB_MODE")
    variables = {
        "WANDB_API_KEY": KEY,
        "WANDB_ERROR_REPORTING": "false",
        "NETRC": str(tmp_path / "netrc"),
        "WANDB_HTTP_TIMEOUT": "1",
        "WANDB_INIT_TIMEOUT": "1",
        "WANDB_FINISH_TIMEOUT": "1",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    yield lambda address: monkeypatch.setenv("WANDB_BASE_URL", address)
    wandb.teardown()


@pytest.fixture
def fit(online, stage, tmp_path, capsys):
    """Train four steps with the server at an address; returns the run's directory and what we say on stderr."""

    def call(address):
        online(address)
        cli = stage(
            "fit",
            "tabom",
            "--trainer.logger=lightning.pytorch.loggers.WandbLogger",
            f"--trainer.logger.save_dir={tmp_path}",
            '--trainer.callbacks=[{"class_path": "ValidationMedia"}]',
            "--trainer.log_every_n_steps=1",
            "--trainer.max_steps=4",
            "--trainer.val_check_interval=2",
        )
        assert cli.trainer.global_step == 4
        settings = cli.trainer.logger.experiment.settings  # without them W&B waits for longer, and at the end for ever
        limits = (1.0, float(os.environ["WANDB_FINISH_TIMEOUT"]), True)
        assert (settings.init_timeout, settings.finish_timeout, settings.finish_timeout_raises) == limits
        said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("tabom: ")]
        return Path(cli.trainer.logger.experiment.dir).parent, said

    return call


def is_complete(directory):
    (run_file,) = directory.glob("run-*.wandb")
    lines = history(run_file)
    assert [line["trainer/global_step"] + 1 for line in lines if "train/loss" in line] == STEPS
    assert sum("validate/kl" in line for line in lines) == 2
    summary = json.loads(inspect(run_file, "--summary"))
    assert summary["state"] == "finished"
    assert summary["config"]["cli"]["model"]["objective"]["margin"] == 0.1
    assert summary["config"]["run"]["seed"] == 1
    media = directory / "files/media"
    assert len(list(media.glob("table/validate/samples*.json"))) == 2
    assert list(media.glob("images/validate/tds_curve*.png"))
    return True


def is_offline_with(reason, directory, said):
    assert directory.name.startswith("offline-run-")
    (line,) = said
    words = rf"the server started no run \(.*{reason}.*\); it is kept offline, to be sent with: wandb sync {directory}"
    return re.fullmatch(f"tabom: W&B: {words}", line)


def test_refused(fit):
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    directory, said = fit(f"http://127.0.0.1:{port}")
    assert is_offline_with("connection refused", directory, said)
    assert is_complete(directory)
    assert len({path.name.split("-")[-1] for path in directory.parent.glob("*run-*")}) == 1  # one run, tried twice


@pytest.mark.slow
def test_never_answered(fit):
    with RunServer(is_answering=False).running() as server:
        directory, said = fit(server.address)
        assert is_offline_with("(?:context deadline exceeded|request canceled)", directory, said)
        assert is_complete(directory)


@pytest.mark.slow
def test_no_key(fit, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    with RunServer().running() as server:
        directory, said = fit(server.address)
        assert is_offline_with(r"No API key configured\. Use `wandb login` to log in\.", directory, said)
        assert is_complete(directory)


@pytest.mark.parametrize(
    "vanish",
    [pytest.param(RunServer.hang, id="hangs"), pytest.param(RunServer.go_away, id="is gone", marks=pytest.mark.slow)],
)
def test_in_the_middle_of_a_training(fit, monkeypatch, vanish):
    step, steps = TrainingModule.training_step, []
    end, ended = tracking._end_service, []
    monkeypatch.setattr(tracking, "_end_service", lambda *arguments: ended.append(arguments) or end(*arguments))

    def vanishing_step(*arguments):
        steps.append(arguments)
        if len(steps) == 2:
            vanish(server)
        return step(*arguments)

    monkeypatch.setattr(TrainingModule, "training_step", vanishing_step)
    with RunServer().running() as server:
        directory, said = fit(server.address)
        assert directory.name.startswith("run-")
        words = "the server did not take everything within 1 s; nothing is lost, the rest is to be sent with"
        assert said == [f"tabom: W&B: {words}: wandb sync {directory}"]
        assert is_complete(directory)
    assert ended or vanish is not RunServer.hang  # W&B would go on asking for half an hour


@pytest.mark.slow
def test_a_server_that_answers(fit, monkeypatch):
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "50")
    with RunServer().running() as server:
        directory, said = fit(server.address)
        assert said == []
        assert is_complete(directory)
        lines = server.lines[directory.name.split("-")[-1]]
    assert [line["trainer/global_step"] + 1 for line in lines if "train/loss" in line] == STEPS
