"""Trainings that compare with the reference at every target: tilted targets, tilted order, failed decodings."""

import json

import pytest
import torch
from helpers import write_trajectories

from tabom.backbones import Backbone
from tabom.backbones.tiny import TinyDLM
from tabom.errors import TabomError

LORA = "--model.backbone.lora={'r': 2, 'alpha': 4}"
TILT = "--model.objective.tilt=2.0"
UNCHECKED = "--trainer.limit_val_batches=0"


def checkpoints(directory):
    options = {"every_n_train_steps": 3, "save_top_k": -1, "filename": "{step}", "dirpath": str(directory)}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": options}
    return f"--trainer.callbacks={json.dumps([callback])}"


def weights(cli):
    return {name: value.clone() for name, value in cli.model.backbone.state_dict().items()}


@pytest.mark.parametrize(
    ("config", "options"),
    [("trajectory_masking", [TILT, LORA]), ("exact_order", ["--model.objective.rank_tilt=1.0"])],
    ids=["targets with an adapter", "order with all weights"],
)
def test_a_resumed_training_ends_where_an_uninterrupted_one_does(stage, tmp_path, config, options):
    options = [UNCHECKED, *options]
    straight = weights(stage("fit", config, *options, checkpoints(tmp_path / "straight")))
    resume = [f"--ckpt_path={tmp_path}/straight/step=3.ckpt", checkpoints(tmp_path / "resumed")]
    resumed = weights(stage("fit", config, *options, *resume))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(values, resumed[name]) for name, values in straight.items())


def test_the_base_is_the_adapter_switched_off_and_never_differentiated(stage, monkeypatch):
    """One pass of it per step, without a gradient; before the first step both are the same model."""
    forward, calls, losses = TinyDLM.forward, [], []

    def counted(self, *arguments):
        calls.append(torch.is_grad_enabled())
        return forward(self, *arguments)

    monkeypatch.setattr(TinyDLM, "forward", counted)
    options = [UNCHECKED, "--trainer.callbacks=null", "--model.objective.tilt=0.0", LORA]
    cli = stage("fit", "sft_sd", *options, "--trainer.max_steps=1")
    losses.append(cli.trainer.callback_metrics["train/loss"].item())
    assert calls == [False, True]
    assert not isinstance(cli.model._base[0], Backbone)
    assert losses == pytest.approx([0.0], abs=1e-6)


def test_failed_decodings_are_trained_on(stage, tmp_path, tokenizer):
    write_trajectories(tmp_path / "runs/demo/samples", tokenizer, num_samples=3, is_verified=[True, False, False] * 8)
    cli = stage("fit", "failed", UNCHECKED, "--trainer.callbacks=null")
    assert cli.trainer.callback_metrics["train/loss"].isfinite()
    rows = cli.datamodule.train_dataloader().dataset
    assert {round(row.advantage, 6) for row in rows} == {0.666667, -0.333333}


def test_failures_without_a_tilt_are_refused(stage, tmp_path, tokenizer):
    write_trajectories(tmp_path / "runs/demo/samples", tokenizer, num_samples=3, is_verified=[True, False, False] * 8)
    with pytest.raises(TabomError) as error:
        stage("fit", "failed", "--model.objective.tilt=null")
    assert str(error.value) == (
        "data.query_weighting: expected none or failure_rate without a tilt, got advantage; "
        "set model.objective.tilt, without which failed decodings would be learnt like the others"
    )
