"""Trainings with replay: what they log, what they keep, and that they go on where they were stopped."""

import json
import math

import pytest
import torch
from helpers import slow

from tabom.errors import TabomError
from tabom.modules import TrainingModule
from tabom.objectives import Replay
from tabom.storage.run_record import find_records

REPLAY = '--data.replay={"batch_size": 3, "source": "PythonSource", "num_examples": 20}'
LORA = '--model.backbone.lora={"r": 2}'
UNCHECKED = ("--trainer.limit_val_batches=0", "--trainer.enable_checkpointing=false")
# peft 0.21 reads an attribute that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


def weights(cli):
    return {name: value.clone() for name, value in cli.model.backbone.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def steps(monkeypatch):
    """What each training step logs."""
    seen = []
    step = TrainingModule.training_step

    def watched(module, batch, batch_idx):
        loss = step(module, batch, batch_idx)
        metrics = module.trainer.callback_metrics
        names = [name for name in metrics if name.startswith("train/")]
        seen.append({name.removeprefix("train/"): float(metrics[name]) for name in names})
        return loss

    monkeypatch.setattr(TrainingModule, "training_step", watched)
    return seen


@pytest.mark.parametrize("lora", [(), (LORA,)], ids=["all weights", "adapter"])
def test_the_loss_says_its_parts(stage, steps, lora):
    """At the first step the model is the base."""
    stage("fit", "sft_sd", REPLAY, "--model.replay.weight=7", *UNCHECKED, *lora)
    assert steps[0]["replay_kl"] == 0
    assert all(step["replay_kl"] > 0 for step in steps[1:])
    for step in steps:
        assert step.keys() == {"loss", "reconstruction", "objective", "replay_kl"} | (step.keys() & LEARNING)
        assert step["objective"] == step["reconstruction"]
        assert step["loss"] == pytest.approx(step["objective"] + 7 * step["replay_kl"], rel=1e-6)


LEARNING = {"learning_rate", "gradient_norm"}


def test_replay_keeps_the_model_near_the_base(stage, steps):
    """With the same steps and masks of the objective; a weight of 0 measures and does nothing else."""
    options = (REPLAY, "--model.optimizer.lr=0.01", *UNCHECKED)
    plain = weights(stage("fit", "sft_sd", *options[1:]))
    idle = weights(stage("fit", "sft_sd", *options, "--model.replay.weight=0"))
    free = [step["replay_kl"] for step in steps[-6:]]
    stage("fit", "sft_sd", *options, "--model.replay.weight=30")
    assert equal(idle, plain)
    assert steps[-1]["replay_kl"] < 0.5 * free[-1]


def test_the_weight_warms_up_with_the_steps(stage, steps):
    warmup = '--model.replay={"weight": 2.0, "weight_warmup": {"num_steps": 4}}'
    stage("fit", "sft_sd", REPLAY, warmup, *UNCHECKED)
    assert [step["replay_weight"] for step in steps] == [0.0, 0.5, 1.0, 1.5, 2.0, 2.0]


OBJECTIVES = ("sft_gt", "trajectory_masking", "tabom_global", "dinfer", "boltzmann_kl")


@pytest.mark.parametrize("config", ["t3d", "tabom", *slow(*OBJECTIVES)])
def test_it_goes_with_every_objective(stage, steps, config):
    stage("fit", config, REPLAY, "--trainer.max_steps=2", *UNCHECKED)
    assert steps[0]["replay_kl"] == 0 < steps[1]["replay_kl"]
    assert steps[1]["loss"] == pytest.approx(steps[1]["objective"] + steps[1]["replay_kl"], rel=1e-6)


def checkpoint_every_step(directory):
    settings = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}", "dirpath": str(directory)}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": settings}
    return f"--trainer.callbacks={json.dumps([callback])}"


@pytest.mark.parametrize("lora", [(), (LORA,)], ids=["all weights", "adapter"])
def test_a_resumed_training_ends_with_the_same_bits(stage, tmp_path, lora):
    """An epoch has three batches; the replay goes on through its end."""
    options = (REPLAY, "--trainer.limit_val_batches=0", *lora)
    straight = weights(stage("fit", "tabom", checkpoint_every_step(tmp_path / "straight"), *options))
    for step in (2, 5):
        path = tmp_path / "straight" / f"step={step}.ckpt"
        resumed = stage(
            "fit", "tabom", f"--ckpt_path={path}", checkpoint_every_step(tmp_path / f"from{step}"), *options
        )
        assert resumed.trainer.global_step == 6
        assert equal(weights(resumed), straight), f"resumed at step {step}"


def test_accumulated_batches_are_one_batch(stage):
    """In both streams."""

    def trained(batch_size, *options):
        replay = f'--data.replay={{"batch_size": {batch_size}, "source": "PythonSource", "num_examples": 20}}'
        return weights(stage("fit", "sft_sd", replay, f"--data.batch_size={batch_size}", *UNCHECKED, *options))

    whole, parts = trained(4), trained(2, "--trainer.accumulate_grad_batches=2")
    without = trained(4, "--model.replay.weight=0")
    assert max((whole[name] - parts[name]).abs().max() for name in whole) < 1e-5
    assert max((whole[name] - without[name]).abs().max() for name in whole) > 1e-3


def test_the_base_is_neither_copied_nor_trained_beside_an_adapter(stage):
    before = weights(stage("validate", "sft_sd", LORA))
    cli = stage("fit", "sft_sd", REPLAY, LORA, *UNCHECKED)
    (base,) = cli.model._base
    assert list(base.parameters()) == []
    changed = {name for name, value in weights(cli).items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".lora_" in name for name in changed)
    assert {name for name, p in cli.model.named_parameters() if p.grad is not None} <= cli.model._trained_names()


def test_the_masks_of_the_replay_follow_seed_and_place(stage, monkeypatch):
    """Not the epoch, the step or the process."""
    module = (cli := stage("validate", "sft_sd", REPLAY)).model
    (batch, *_) = cli.datamodule.train_dataloader()
    seen = []

    def keep(replay, loss, rows, *, draws, **_):
        seen.append(draws.per_row())
        return {"loss": loss}

    monkeypatch.setattr(Replay, "terms", keep)

    def draws(**place):
        with monkeypatch.context() as patch:
            for name, value in place.items():
                patch.setattr(type(module), name, value)
            module._replayed(torch.zeros(()), batch.replay)
        return seen[-1]

    expected = draws()
    assert torch.equal(draws(current_epoch=3, global_step=7, global_rank=1), expected)
    monkeypatch.setattr(module, "_seed", 9)
    assert not torch.equal(draws(), expected)


def test_rows_of_the_replay_are_named_where_a_loss_is_not_finite(stage, monkeypatch):
    terms = Replay.terms
    monkeypatch.setattr(
        Replay,
        "terms",
        lambda *a, **k: {**terms(*a, **k), "replay_kl": torch.tensor(math.nan), "loss": torch.tensor(math.nan)},
    )
    got = (
        r"loss=nan, reconstruction=[\d.]+, objective=[\d.]+, replay_kl=nan; queries: (sudoku4x4/\d{16}, ){4}.*\.py:\d+"
    )
    with pytest.raises(TabomError, match=rf"^step 0: expected a finite loss, got {got}$"):
        stage("fit", "sft_sd", REPLAY)


def test_tokens_and_trajectories_are_in_the_record(stage, tmp_path):
    replay = '--data.replay={"batch_size": 2, "trajectories": "runs/demo/trajectories"}'
    plain, own = (stage("fit", "sft_sd", *UNCHECKED, *options) for options in ((), (replay,)))
    (first,), (second,) = (find_records([tmp_path / cli.trainer.default_root_dir]) for cli in (plain, own))
    assert second.inputs["replay"] == second.inputs["trajectories"] == first.inputs["trajectories"]
    assert "replay" not in first.inputs
    assert second.num_tokens == pytest.approx(1.5 * first.num_tokens)  # two rows beside four of the same length


def test_bad_settings(stage):
    with pytest.raises(TabomError) as error:
        stage("fit", "sft_sd", "--model.replay.weight=2")
    message = (
        "model.replay: expected Replay(weight=1.0, weight_warmup=None) with data.replay null, which ignores it, got"
    )
    assert str(error.value).startswith(message)
    with pytest.raises(TabomError) as error:
        stage("fit", "sft_sd", REPLAY, "--model.backbone=NewTinyDLM", "--data.tokenizer=characters")
    assert str(error.value) == (
        "data.replay: expected a pretrained backbone, which the replay keeps the model near, got NewTinyDLM"
    )
    with pytest.raises(TabomError, match=r"replay\.weight: expected at least 0, got -1\.0"):
        stage("fit", "sft_sd", REPLAY, "--model.replay.weight=-1")
    expected = "expected the manifest of a finished distillation, found no such file"
    with pytest.raises(
        TabomError,
        match=rf"^runs/demo/own/manifest\.json: {expected}; tabom predict --config .*/distill_own\.yaml makes it$",
    ):
        stage("fit", "sft_sd", '--data.replay={"batch_size": 2, "trajectories": "runs/demo/own"}')
