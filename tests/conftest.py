"""What every test stands on: no network, a fixed seed, one thread, and tiny things made in the test."""

import os
import socket
from pathlib import Path

import pytest
import torch

os.environ["WANDB_MODE"] = "offline"
os.environ["WANDB_SILENT"] = "true"
os.environ["HF_HUB_OFFLINE"] = "1"

from helpers import tiny_checkpoint, write_trajectories
from tabom.data.tokenizer import load_tokenizer


@pytest.fixture(autouse=True)
def _isolated(monkeypatch, tmp_path_factory):
    """Runs write below a temporary folder; sockets reach this machine only; nothing leaks between tests."""
    home = tmp_path_factory.getbasetemp() / "home"
    for name in ("WANDB_DATA_DIR", "WANDB_CACHE_DIR", "WANDB_CONFIG_DIR", "HF_HOME"):
        monkeypatch.setenv(name, str(home / name.lower()))
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


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    torch.set_num_threads(1)


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
    path = repository.parent / "shared" / "data"
    if not path.is_dir():
        pytest.skip(f"{path}: no public data beside this checkout")
    return path


@pytest.fixture
def make_trajectories(tmp_path, tokenizer):
    """Write 24 trajectories of Sudoku queries, 16 of them verified, in three shards."""

    def make(name="trajectories", **changes) -> Path:
        return write_trajectories(tmp_path / name, tokenizer, **changes)

    return make
