"""Which exceptions are about input, what is said of them, and where the others are to be reported."""

import errno
import json
import sys
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import yaml
from huggingface_hub.errors import HFValidationError
from lightning.fabric.utilities.exceptions import MisconfigurationException
from wandb.errors import CommError

from tabom.cli import input_errors
from tabom.cli import main as command
from tabom.cli.input_errors import note_of_defect, sentence
from tabom.errors import TabomError

CONFIG = {
    "run_dir": "runs/a",
    "trainer": {"max_time": None, "callbacks": [{"class_path": "lightning.pytorch.callbacks.EarlyStopping"}]},
    "model": {"init_args": {"optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}}}},
    "writer": {"output_dir": "runs/a/trajectories"},
}


def caught(action):
    with pytest.raises(Exception) as error:  # noqa: PT011
        action()
    return error.value


def raising(error):
    def action():
        raise error

    return action


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file", "x/y"), "x/y: No such file"),
        (PermissionError(errno.EACCES, "Permission denied", "runs/a/b"), "run_dir: runs/a/b: Permission denied"),
        (
            OSError(errno.ENOTDIR, "Not a directory", "runs/a/trajectories/1"),
            "writer.output_dir: runs/a/trajectories/1: expected a directory, got a file",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "No space left on device"),
        (ConnectionError("no route to the hub"), "no route to the hub"),
        (MisconfigurationException("one\n  sentence"), "one sentence"),
        (pa.ArrowInvalid("Parquet magic bytes not found"), "Parquet magic bytes not found"),
        (HFValidationError("no such name"), "no such name"),
        (CommError("no key"), "no key"),
        (torch.OutOfMemoryError("CUDA out of memory"), "CUDA out of memory"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_what_is_about_input_whoever_raises_it(error, message):
    assert sentence(caught(raising(error)), CONFIG) == message


def test_a_file_that_is_being_read_is_named(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"\xe9")
    assert sentence(caught(path.read_text)).startswith(f"{path}: expected UTF-8, got 'utf-8' codec can't decode")

    def read(load):
        file = path
        return load(file.read_bytes())

    path.write_text("{")
    assert sentence(caught(lambda: read(json.loads))).startswith(f"{path}: Expecting property name")
    assert sentence(caught(lambda: read(yaml.safe_load))).startswith(f"{path}: while parsing a flow node")


def test_a_librarys_object_is_named_by_its_option():
    parameters = [torch.nn.Parameter(torch.zeros(1))]
    error = caught(lambda: torch.optim.SGD(parameters, lr=-1))
    assert sentence(error, CONFIG) == "model.optimizer (SGD): Invalid learning rate: -1"
    assert sentence(error) is None


class Own(torch.optim.SGD):
    """Of a user, below a library's class."""

    def step(self):
        raise ValueError("own")


@pytest.mark.parametrize("error", [ValueError("x"), KeyError("x"), RuntimeError("x"), TypeError("x")])
def test_what_code_of_ours_or_a_users_raises_is_no_input(error):
    assert sentence(caught(raising(error)), CONFIG) is None
    assert sentence(caught(Own([torch.nn.Parameter(torch.zeros(1))]).step), CONFIG) is None


def test_a_defect_of_ours_says_where_to_report_it():
    ours: dict = {"__name__": "tabom.fake"}
    exec("def run(words):\n    {}['a']", ours)
    error = caught(lambda: ours["run"]([]))
    assert note_of_defect(error) == ""  # this test's own code is in between
    note = note_of_defect(error.with_traceback(error.__traceback__.tb_next.tb_next))
    assert note.startswith("tabom: this is a defect of tabom, not of your input; please report all of the above to ")


def test_classes_may_lie_in_the_current_directory(tmp_path, monkeypatch, capsys, repository):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if path not in ("", str(tmp_path))])
    Path("own_objective.py").write_text(
        "from tabom.objectives import NelboObjective\n\n\nclass OwnObjective(NelboObjective):\n    pass\n"
    )
    config = str(repository / "configs/demo/sft_sd.yaml")
    with pytest.raises(SystemExit) as end:
        command.main(["fit", "--config", config, "--model.objective=own_objective.OwnObjective", "--print_config"])
    assert end.value.code == 0
    assert "class_path: own_objective.OwnObjective" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (TabomError("x: expected\n  y"), "x: expected y"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), "x: No such file"),
    ],
)
def test_main_prints_one_sentence(monkeypatch, capsys, error, text):
    monkeypatch.setattr(command, "_imported", lambda name: raising(error)())
    with pytest.raises(SystemExit) as end:
        command.main(["report"])
    assert (end.value.code, capsys.readouterr().err) == (1, f"tabom: error: {text}\n")


def test_main_adds_where_to_report_to_the_traceback_of_a_defect(monkeypatch):
    monkeypatch.setattr(input_errors, "note_of_defect", lambda error: "where to report it")
    monkeypatch.setattr(command, "_imported", lambda name: raising(KeyError("x"))())
    with pytest.raises(KeyError) as error:
        command.main(["report"])
    assert error.value.__notes__ == ["where to report it"]
