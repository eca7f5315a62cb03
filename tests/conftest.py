"""What every test stands on: no network, a fixed seed, one thread, and tiny things made in the test."""

import contextlib
import itertools
import os
import shutil
import socket
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, settings
from matplotlib.figure import Figure
from PIL import Image

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"

from copies import start_copy  # noqa: F401, a fixture
from helpers import tiny_checkpoint, write_trajectories
from pages import browser, open_page  # noqa: F401, fixtures

from tabom.cli.lightning_cli import run
from tabom.data.tokenizer import load_tokenizer

ENVIRONMENT = dict(os.environ)

# The quick examples are the same in every run; `make test-slow` draws new and more ones.
untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("quick", untimed, max_examples=25, derandomize=True)
settings.register_profile("slow", untimed, max_examples=100)
settings.load_profile("quick")


def pytest_runtest_setup():
    """Before all fixtures: a run over several processes takes all threads, and leaves it at that."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path_factory):
    """Runs write below a temporary folder; sockets reach this machine only; nothing leaks between tests."""
    home = tmp_path_factory.getbasetemp() / "home"
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HF_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))
    for name in os.environ.keys() - ENVIRONMENT.keys() - {"PYTEST_CURRENT_TEST"}:
        monkeypatch.delenv(name)  # Lightning leaves a run's seed and rank here; with a rank it starts no processes
    monkeypatch.setattr(socket.socket, "connect", _local_only(socket.socket.connect))
    torch.manual_seed(0)
    yield
    assert torch.get_default_dtype() is torch.float32


def _local_only(connect):
    def guarded(self, address):
        if self.family != socket.AF_UNIX and address[0] not in ("127.0.0.1", "::1", "localhost"):
            pytest.fail(f"the test reached for the network: {address}")
        return connect(self, address)

    return guarded


@pytest.fixture(scope="session")
def tokenizer():
    return load_tokenizer("characters")


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory, tokenizer) -> Path:
    """A TinyDLM of two narrow layers with random weights, saved with its tokenizer."""
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoint"), tokenizer)


@pytest.fixture(scope="session")
def repository() -> Path:
    return Path(__file__).parents[1]


@pytest.fixture(scope="session")
def shared_data(repository) -> Path:
    """Public benchmark files beside the checkout; they are read by path and never copied."""
    return beside(repository, "data")


@pytest.fixture(scope="session")
def golden(repository) -> Path:
    """Numbers recorded from the official code, beside the checkout."""
    return beside(repository, "golden")


@pytest.fixture(scope="session")
def golden_v2(repository) -> Path:
    """Numbers recorded from the official code of further families, beside the checkout."""
    return beside(repository, "golden_v2")


def beside(repository, name):
    path = repository.parent / "shared" / name
    if not path.is_dir():
        message = f"{path}: not beside this checkout"
        pytest.fail(message) if "CI" in os.environ else pytest.skip(message)
    return path


@pytest.fixture
def make_trajectories(tmp_path, tokenizer):
    """Write 24 trajectories of Sudoku queries, 16 of them verified, in three shards."""

    def make(name="trajectories", **changes) -> Path:
        return write_trajectories(tmp_path / name, tokenizer, **changes)

    return make


@pytest.fixture
def stage(repository, tmp_path, monkeypatch, checkpoint, tokenizer):
    """Run a demo config in a temporary folder, small enough for a test; later options win.

    Figures are blank: to draw them takes as long as all steps. Those of ``trained`` are drawn.
    """
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **_: Image.new("L", (1, 1)).save(path))
    return _stage_in(tmp_path, repository, checkpoint, tokenizer)


@pytest.fixture(scope="session")
def trained(repository, tmp_path_factory, checkpoint, tokenizer):
    """One training by ``stage`` that many tests look at, and none changes: six steps, checks after 3 and 6."""
    directory = tmp_path_factory.mktemp("trained")
    with contextlib.chdir(directory):
        run_dir = f"--run_dir={directory}/out"
        return _stage_in(directory, repository, checkpoint, tokenizer)(
            "fit", "tabom", run_dir, "--trainer.log_every_n_steps=1"
        )


def _stage_in(directory, repository, checkpoint, tokenizer):
    shutil.copytree(checkpoint, directory / "runs/demo/base")
    write_trajectories(directory / "runs/demo/trajectories", tokenizer)
    numbers = itertools.count()

    def call(verb, config, *options):
        small = [
            "--trainer.logger=false",
            f"--run_dir=out{next(numbers)}",
            "--data.validation.batch_size=8",
        ]
        if verb != "predict":
            small += [
                "--data.batch_size=4",
                "--data.validation.num_validation_prompts=4",
                "--data.validation.num_test_prompts=4",
                "--data.validation.num_base_examples=6",
                "--trainer.max_steps=6",
                "--trainer.val_check_interval=3",
                "--model.lr_scheduler.num_warmup_steps=2",
                "--model.lr_scheduler.num_training_steps=6",
            ]
        path = repository / "configs" / "demo" / f"{config}.yaml"
        return run([verb, "--config", str(path), *small, *options])

    return call
