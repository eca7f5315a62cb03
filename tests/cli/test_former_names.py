"""Configurations and command lines of the first round go on working."""

import pytest
import yaml
from helpers import parsed

from tabom.callbacks import TrajectoryWriter
from tabom.cli.former_names import renamed_words, renaming

CONFIGS = "configs/demo"


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--model.init_args.evaluation=null", "--model.init_args.validation=null"),
        ("--data.evaluation.batch_size", "--data.validation.batch_size"),
        ("--data.evaluations=1", "--data.evaluations=1"),
        ("--trainer.default_root_dir", "--run_dir"),
        ("--trainer.callbacks.init_args.output_dir=x", "--writer.output_dir=x"),
    ],
)
def test_words(word, expected):
    assert renamed_words([word]) == [expected]


def test_an_option_of_a_callback_that_is_given_is_its_own():
    words = ["--trainer.callbacks=Own", "--trainer.callbacks.init_args.output_dir=x"]
    assert renamed_words(words) == words


@pytest.mark.filterwarnings("ignore:.*is called validation now")
@pytest.mark.parametrize("form", ["short", "class"])
def test_files(form):
    options = {"evaluation": {"class_path": "Evaluation", "init_args": {"probe": None}}}
    part = options if form == "short" else {"class_path": "TrainingModule", "init_args": options}
    content = renaming(yaml.safe_load)(yaml.safe_dump({"model": part, "data": {"evaluation": None}}))
    model = content["model"] if form == "short" else content["model"]["init_args"]
    assert model == {"validation": {"class_path": "Validation", "init_args": {"probe": None}}}
    assert content["data"] == {"validation": None}


@pytest.mark.filterwarnings("ignore:.*is called validation now")
def test_a_training_is_configured_by_them(repository, tmp_path, monkeypatch):
    monkeypatch.chdir(repository)
    own = {"model": {"class_path": "TrainingModule", "init_args": {"evaluation": None}}, "trainer": {"logger": False}}
    (tmp_path / "own.yaml").write_text(yaml.safe_dump(own))
    files = ["--config", f"{CONFIGS}/tabom.yaml", "--config", str(tmp_path / "own.yaml")]
    cli = parsed("fit", *files, "--data.init_args.evaluation.batch_size=3")
    assert cli.model.validation is None
    assert cli.datamodule.validation.batch_size == 3


def test_a_distillation_is_configured_by_them(repository, monkeypatch):
    monkeypatch.chdir(repository)
    option = "--trainer.callbacks.init_args.output_dir=elsewhere"
    cli = parsed("predict", "--config", f"{CONFIGS}/distill.yaml", option)
    (writer,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, TrajectoryWriter))
    assert writer.output_dir.name == "elsewhere"
