"""A checkpoint from anybody runs nothing and names nothing outside of its place."""

import json
import pickle
import shutil
import warnings
from pathlib import Path

import pytest
import torch
from lightning import Trainer
from torch.distributed.checkpoint import FileSystemWriter, save

from tabom.backbones.masked_lm import MaskedLMBackbone
from tabom.cli.trainer import TabomTrainer
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import TabomError
from tabom.modules.checkpoints import read_checkpoint
from tabom.modules.untrusted import check_callback_paths, check_sharded


class Evil:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.fixture
def proof(tmp_path):
    """The file that is there if something was run."""
    path = tmp_path / "it ran"
    yield path
    assert not path.exists()


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """A sharded checkpoint as FSDP leaves it: tensors, and plain values of the optimizer."""
    path = tmp_path_factory.mktemp("sharded") / "last.ckpt"
    optimizer = {"state": {"a": torch.ones(3)}, "lr": 0.1, "betas": (0.9, 0.99), "foreach": None, "fused": False}
    content = {"state_dict": {"a": torch.ones(3), "b": torch.ones(2, 2).bfloat16()}, "optimizer_0": optimizer}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")
        save(content, storage_writer=FileSystemWriter(path), no_dist=True)
    torch.save({"global_step": 3, "pytorch-lightning_version": "2.6.0"}, path / "meta.pt")
    return path


@pytest.fixture
def sharded(good, tmp_path):
    return shutil.copytree(good, tmp_path / "last.ckpt")


def index_of(path):
    return pickle.loads((path / ".metadata").read_bytes())


def write_index(path, index):
    (path / ".metadata").write_bytes(pickle.dumps(index))


def test_what_is_good_is_read(sharded):
    check_sharded(sharded)
    checkpoint = read_checkpoint(sharded)
    assert (checkpoint["global_step"], checkpoint["state_dict"]["b"].shape) == (3, (2, 2))


@pytest.mark.parametrize("place", ["alone", "storage_meta", "planner_data"])
def test_an_index_that_runs_something(sharded, proof, place):
    index = index_of(sharded)
    if place == "alone":
        index = Evil(proof)
    else:
        setattr(index, place, Evil(proof))
    write_index(sharded, index)
    with pytest.raises(TabomError, match=r"\.metadata: expected the index of a sharded checkpoint \(it names pathlib"):
        read_checkpoint(sharded)


@pytest.mark.parametrize(
    "name", ["os.system", "builtins.eval", "torch.load", "torch.distributed.checkpoint.filesystem.os.system"]
)
def test_an_index_that_names_a_function(sharded, name):
    module, _, function = name.rpartition(".")
    if name.endswith("os.system") and module != "os":
        module, function = "torch.distributed.checkpoint.filesystem", "os.system"
    words = b"".join(b"\x8c" + bytes([len(text)]) + text.encode() for text in (module, function))
    (sharded / ".metadata").write_bytes(b"\x80\x04" + words + b"\x93.")
    with pytest.raises(TabomError, match=f"it names {name}, which no index holds"):
        check_sharded(sharded)


@pytest.mark.parametrize("content", [b"", b"\x80", b"no pickle", pickle.dumps({"a": 1})], ids=str)
def test_what_is_no_index(sharded, content):
    (sharded / ".metadata").write_bytes(content)
    with pytest.raises(TabomError, match=r"\.metadata: expected the index of a sharded checkpoint \("):
        check_sharded(sharded)


def test_a_value_that_runs_something(sharded, proof):
    """torch reads all that is no tensor as a pickle."""
    index = index_of(sharded)
    torch.save(Evil(proof), sharded / "evil.distcp")
    place = next(info for key, info in index.storage_data.items() if key.fqn == "optimizer_0.lr")
    place.relative_path, place.offset, place.length = "evil.distcp", 0, (sharded / "evil.distcp").stat().st_size
    write_index(sharded, index)
    with pytest.raises(TabomError, match=r"evil\.distcp: optimizer_0\.lr: expected a plain value"):
        read_checkpoint(sharded)


@pytest.mark.parametrize("name", ["../x.distcp", "/etc/passwd", "a/b", ""])
def test_a_file_outside(sharded, name):
    index = index_of(sharded)
    next(iter(index.storage_data.values())).relative_path = name
    write_index(sharded, index)
    with pytest.raises(TabomError, match=r"\.metadata: file of optimizer_0\.\w+: expected a plain name and no path"):
        check_sharded(sharded)


def test_no_index(tmp_path):
    with pytest.raises(TabomError, match=r"\.metadata: expected the index of a sharded checkpoint, found no such file"):
        check_sharded(tmp_path)


def test_a_checkpoint_that_runs_something(tmp_path, proof):
    torch.save({"state_dict": {}, "evil": Evil(proof)}, tmp_path / "evil.ckpt")
    with pytest.raises(TabomError, match=r"evil\.ckpt: expected a checkpoint that a training wrote"):
        read_checkpoint(tmp_path / "evil.ckpt")


@pytest.mark.parametrize("error", [PermissionError(13, "Permission denied"), MemoryError()])
def test_a_file_that_cannot_be_read_is_not_called_another_file(tmp_path, monkeypatch, error):
    def load(*_, **__):
        raise error

    (tmp_path / "last.ckpt").touch()
    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(type(error)):
        read_checkpoint(tmp_path / "last.ckpt")


@pytest.mark.parametrize(("given", "is_safe"), [(None, True), (True, True), (False, False)])
def test_lightning_reads_no_more_than_values(monkeypatch, given, is_safe):
    """It would read a checkpoint from an address as a pickle."""
    asked = []
    monkeypatch.setattr(Trainer, "_run", lambda self, model, ckpt_path, weights_only: asked.append(weights_only))
    TabomTrainer._run(TabomTrainer.__new__(TabomTrainer), None, "https://example.org/last.ckpt", given)
    assert asked == [is_safe]


def test_lightning_gets_no_sharded_checkpoint_that_runs_something(monkeypatch, sharded, proof):
    monkeypatch.setattr(Trainer, "_run", lambda self, *_: read_checkpoint(sharded))
    write_index(sharded, Evil(proof))
    with pytest.raises(TabomError, match="it names pathlib"):
        TabomTrainer._run(TabomTrainer.__new__(TabomTrainer), None, sharded)


DIRECTORY = "/runs/a/checkpoints"
STATE = {
    "dirpath": DIRECTORY,
    "best_k_models": {f"{DIRECTORY}/epoch=1.ckpt": 0.5, f"{DIRECTORY}/by/kl=1.ckpt": 0.4},
    "best_model_path": f"{DIRECTORY}/epoch=1.ckpt",
    "last_model_path": "",
    "kth_best_model_path": "",
}


@pytest.mark.parametrize(
    "change",
    [
        {"best_k_models": {"/home/me/thesis.pdf": 0.5}},
        {"kth_best_model_path": f"{DIRECTORY}/../../b/checkpoints/epoch=1.ckpt"},
        {"last_model_path": "/runs/b/last.ckpt"},
        {"best_model_path": "epoch=1.ckpt"},
    ],
)
def test_a_checkpoint_that_would_have_other_files_removed(change):
    check_callback_paths({"callbacks": {"ModelCheckpoint{'monitor': 'x'}": STATE, "Timer": {"time": 1}}}, "c")
    with pytest.raises(TabomError, match=rf"^c: ModelCheckpoint: expected checkpoints in {DIRECTORY}, got "):
        check_callback_paths({"callbacks": {"ModelCheckpoint{'monitor': 'x'}": STATE | change}}, "c")


def test_a_tokenizer_with_code_of_its_own(tmp_path, monkeypatch, proof):
    """Nobody is asked, as transformers would on a terminal."""
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    settings = {"tokenizer_class": "EvilTokenizer", "auto_map": {"AutoTokenizer": ["evil.EvilTokenizer", None]}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(proof)!r}).touch()\n")
    with pytest.raises(TabomError, match="expected the files of a tokenizer"):
        load_tokenizer(str(tmp_path))


def test_a_model_with_code_of_its_own(tmp_path, monkeypatch, proof):
    monkeypatch.setattr("builtins.input", lambda *_: "y")
    auto = {"AutoConfig": "evil.EvilConfig", "AutoModelForMaskedLM": "evil.EvilModel"}
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "evil", "auto_map": auto}))
    (tmp_path / "evil.py").write_text(f"from pathlib import Path\nPath({str(proof)!r}).touch()\n")
    with pytest.raises((TabomError, ValueError)):
        MaskedLMBackbone.from_pretrained(tmp_path, dtype="auto", attn_implementation="sdpa")
