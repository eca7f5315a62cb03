"""A training of a Python program leaves a record that reports find, as one of the command line does."""

import functools
from pathlib import Path

import pytest
import torch
from helpers import write_trajectories
from lightning import Trainer, seed_everything

from tabom.backbones import PretrainedBackbone
from tabom.callbacks import RunRecorder
from tabom.cli.verbs import report
from tabom.data import TrajectoryDataModule, ValidationSizes
from tabom.errors import TabomError
from tabom.modules import TrainingModule
from tabom.objectives import NelboObjective, TabomObjective
from tabom.reporting.results import collect
from tabom.samplers import Sampler
from tabom.storage.run_record import find_records
from tabom.storage.settings import flat_config
from tabom.tasks import PythonSource, Sudoku4x4
from tabom.validation import Validation

# https://github.com/Lightning-AI/pytorch-lightning/issues/21438
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*isinstance.treespec, LeafSpec.. is deprecated:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
]
ADAM = functools.partial(torch.optim.AdamW, lr=3e-3)
SIZES = ValidationSizes(num_validation_prompts=4, num_test_prompts=6, num_base_examples=4, batch_size=8)


def module_of(checkpoint, objective=None, optimizer=ADAM):
    return TrainingModule(
        backbone=PretrainedBackbone(str(checkpoint)),
        objective=objective or TabomObjective(window=8, margin=0.3),
        optimizer=optimizer,
        validation=Validation(Sampler()),
    )


@pytest.fixture
def data(tmp_path, checkpoint, tokenizer):
    path = write_trajectories(tmp_path / "trajectories", tokenizer)
    domains = {"python": PythonSource()}
    return TrajectoryDataModule(
        str(path), Sudoku4x4(), 19, str(checkpoint), base_domains=domains, batch_size=4, validation=SIZES
    )


def trainer_of(directory, name, **options):
    options = {"logger": False, "enable_checkpointing": False, "num_sanity_val_steps": 0} | options
    callbacks = [RunRecorder(name)]
    return Trainer(
        max_steps=2, accelerator="cpu", default_root_dir=directory, callbacks=callbacks, log_every_n_steps=1,
        enable_progress_bar=False, enable_model_summary=False, **options,
    )  # fmt: skip


def test_a_base_and_two_trainings_are_compared(tmp_path, monkeypatch, checkpoint, data):
    monkeypatch.chdir(tmp_path)  # which is no repository with changes
    trainer_of(tmp_path / "runs/base", "base").test(module_of(checkpoint), data, verbose=False)
    for name, objective in (("mine", None), ("theirs", NelboObjective())):
        module = module_of(checkpoint, objective, lambda parameters: torch.optim.SGD(parameters, lr=0.125))
        trainer_of(tmp_path / "runs" / name, name).fit(module, data)
        trainer_of(tmp_path / "runs" / name, name).test(module, data, verbose=False)
    records = find_records([tmp_path / "runs"])
    assert [record.verb for record in records] == ["test", "fit", "test", "fit", "test"]
    assert {record.state for record in records} == {"finished"}
    results = collect(records)
    assert [(model.label, model.rate) for model in results.compared] == [
        ("base", None), ("mine", 0.125), ("theirs", 0.125),
    ]  # fmt: skip
    assert results.trainings[records[2].path] == [records[1]]
    assert results.warnings() == []
    page = tmp_path / "page.md"
    report.run(["report", str(tmp_path / "runs"), "-o", str(page)])
    assert "| mine |" in page.read_text()
    assert "(a Python program)" in page.read_text()


def test_one_trainer_writes_one_record_a_call(tmp_path, checkpoint, data):
    trainer, module = trainer_of(tmp_path / "one", "mine", enable_checkpointing=True), module_of(checkpoint)
    trainer.fit(module, data)
    trainer.test(module, data, verbose=False)
    trainer.test(module, data, ckpt_path="best", verbose=False)
    fit, *tests = find_records([tmp_path / "one"])
    assert [(test.parent, test.last("train"), len(test.checks)) for test in tests] == [(fit.run_id, {}, 1)] * 2
    assert [check.step for check in fit.checks if check.stage == "train"] == [1, 2]
    assert fit.num_tokens > 0


def test_settings_are_those_of_the_objects(tmp_path, checkpoint, data):
    seed_everything(7, verbose=False)
    trainer = trainer_of(tmp_path / "one", "mine", limit_train_batches=2)
    trainer.fit(module_of(checkpoint), data)
    (record,) = find_records([tmp_path / "one"])
    keys = flat_config(record.config)
    expected = {
        "trainer.max_steps": 2,
        "trainer.limit_train_batches": 2,
        "model": "tabom.modules.TrainingModule",
        "model.backbone": "tabom.backbones.PretrainedBackbone",
        "model.backbone.path": str(checkpoint),
        "model.objective": "tabom.objectives.TabomObjective",
        "model.objective.margin": 0.3,
        "model.objective.ranking.surrogate": "hinge",
        "model.optimizer": "torch.optim.AdamW",
        "model.optimizer.lr": 3e-3,
        "data.task": "tabom.tasks.Sudoku4x4",
        "data.base_domains.python": "tabom.tasks.PythonSource",
        "data.validation.num_test_prompts": 6,
    }
    assert {key: keys[key] for key in expected} == expected
    assert len(record.inputs["trajectories"]["manifest_sha256"]) == 64
    assert record.seed == 7


def test_a_failed_training_says_so(tmp_path, checkpoint, data):
    trainer = trainer_of(tmp_path / "one", "mine")
    trainer.fit_loop.epoch_loop.advance = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        trainer.fit(module_of(checkpoint), data)
    (record,) = find_records([Path(tmp_path / "one")])
    assert (record.state, record.reason) == ("failed", "ZeroDivisionError: division by zero")


def test_a_recorder_needs_a_name():
    with pytest.raises(TabomError, match=r"^name: expected what reports are to call the model, got an empty one$"):
        RunRecorder("")
