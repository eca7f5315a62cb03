"""Trainings with teachers that see more than the model, and with masks that the model chooses itself."""

import dataclasses
import json

import pytest
import torch
from helpers import TINY, corrupted_batch, slow, write_trajectories

from tabom.backbones import Backbone, NewTinyDLM
from tabom.backbones.snapshot import Present
from tabom.backbones.target_pass import TargetPass
from tabom.backbones.tiny import TinyDLM
from tabom.errors import TabomError
from tabom.modules.reference import Reference
from tabom.objectives import DOpsdObjective
from tabom.seeding import RowDraws
from tabom.types import Canvas

LORA = "--model.backbone.lora={'r': 2, 'alpha': 4}"
DROPOUT = "--model.backbone.lora={'r': 2, 'alpha': 4, 'dropout': 0.3}"
UNCHECKED = "--trainer.limit_val_batches=0"
CURRENT = "--model.objective.teacher=current"
TRAININGS = {
    "tad": [],
    "lift": [LORA],
    "gift": [DROPOUT],
    "d_opsd": [CURRENT, DROPOUT],
}


def checkpoints(directory):
    options = {"every_n_train_steps": 2, "save_top_k": -1, "filename": "{step}", "dirpath": str(directory)}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": options}
    return f"--trainer.callbacks={json.dumps([callback])}"


def weights(cli):
    return {name: value.clone() for name, value in cli.model.backbone.state_dict().items()}


@pytest.mark.parametrize("config", TRAININGS)
def test_a_resumed_training_ends_with_the_same_bits(stage, tmp_path, config):
    """An epoch has three batches."""
    options = [UNCHECKED, *TRAININGS[config]]
    before = weights(stage("validate", config, *TRAININGS[config]))
    straight = weights(stage("fit", config, *options, checkpoints(tmp_path / "straight")))
    resume = [f"--ckpt_path={tmp_path}/straight/step=2.ckpt", checkpoints(tmp_path / "resumed")]
    resumed = weights(stage("fit", config, *options, *resume))
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(values, resumed[name]) for name, values in straight.items())
    assert any(not torch.equal(values, before[name]) for name, values in straight.items())


PASSES = {
    "tad": ([LORA], [False, True]),
    "lift": ([LORA], [False, True]),
    "gift": ([LORA], [False, True]),
    "d_opsd": ([LORA], [False, True]),
    "current": ([LORA, CURRENT], [False, True]),
    "lift tilted": ([LORA, "--model.objective.tilt=1.0"], [False, False, True]),
}


@pytest.mark.parametrize("name", PASSES)
def test_passes_of_a_step(stage, monkeypatch, name):
    """One with a gradient, the last; the base is the adapter switched off, and no weights are copied."""
    options, expected = PASSES[name]
    forward, calls = TinyDLM.forward, []

    def counted(self, *arguments):
        calls.append(torch.is_grad_enabled())
        return forward(self, *arguments)

    monkeypatch.setattr(TinyDLM, "forward", counted)
    config = {"current": "d_opsd"}.get(name, name.partition(" ")[0])
    cli = stage("fit", config, UNCHECKED, "--trainer.callbacks=null", "--trainer.max_steps=2", *options)
    assert calls == expected * 2
    (base,) = cli.model._base
    assert not isinstance(base, Backbone)
    assert list(base.parameters()) == []
    assert cli.model._reference.state_dict() == {}
    assert cli.trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.parametrize("config", slow(*TRAININGS))
def test_accumulated_batches_are_one_batch(stage, config):
    """Where all rows have something to learn."""
    options = {
        "tad": ["--model.objective.divergence_weight=0"],  # near the end of a trajectory nothing is distant
        "d_opsd": ["--model.objective.retain_ratio=1.0"],
    }.get(config, [])
    limits = [UNCHECKED, "--trainer.callbacks=null", "--trainer.max_steps=1", *options]
    whole = weights(stage("fit", config, *limits))
    parts = weights(stage("fit", config, *limits, "--data.batch_size=2", "--trainer.accumulate_grad_batches=2"))
    assert max((whole[name] - parts[name]).abs().max() for name in whole) < 1e-5


@pytest.fixture
def backbone(tokenizer):
    torch.manual_seed(0)
    return NewTinyDLM(**TINY, initializer_range=0.5).load(tokenizer)


def batch():
    return corrupted_batch([[False, True, True, False], [True, False, True, False]], mask_token_id=1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_gradients_do_not_see_the_look_before(backbone, precision):
    """Mixed precision casts each weight once a step and keeps it: a cast without a gradient must not stay."""

    def gradients(*, looks):
        backbone.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16"):
            if looks:
                seen = TargetPass(Present(backbone), batch()).statistics()
                assert not seen.nll.requires_grad
            TargetPass(backbone, batch()).statistics().nll.sum().backward()
        return [p.grad.clone() for p in backbone.parameters()]

    for got, expected in zip(gradients(looks=True), gradients(looks=False), strict=True):
        assert torch.equal(got, expected)
    assert any(gradient.abs().max() > 0.01 for gradient in gradients(looks=True))


def test_a_present_backbone_has_no_dropout_and_leaves_the_mode(backbone):
    seen = []
    backbone.register_forward_hook(lambda module, *_: seen.append((module.training, torch.is_grad_enabled())))
    head = Present(backbone).head
    TargetPass(Present(backbone), batch())
    assert seen == [(False, False)]
    assert backbone.training
    assert not head.weight.requires_grad
    assert head.weight.data_ptr() == backbone.head.weight.data_ptr()
    assert list(Present(backbone).parameters()) == []


def test_a_pass_over_another_canvas_stands_where_the_batch_asks(backbone):
    """Wider than the batch, and padded: the values are those of the canvas alone."""
    corrupted, wide = batch(), torch.tensor([[0, 0, 9, 5, 1, 1, 6], [4, 8, 9, 1, 5, 1, 6]])
    mask, target = torch.ones(2, 7).bool(), torch.zeros(2, 7).bool()
    mask[0, :2] = False
    target[:, 3:] = corrupted.is_target
    canvas = Canvas(wide, wide, mask, target)
    got = TargetPass(backbone, corrupted, canvas).statistics()
    logits = backbone.logits(backbone(wide, mask))[:, 3:].log_softmax(-1)
    expected = -logits.gather(-1, corrupted.clean_ids[..., None]).squeeze(-1).where(corrupted.is_target, 0.0)
    torch.testing.assert_close(got.nll, expected)
    assert (got.nll[corrupted.is_target] != TargetPass(backbone, corrupted).statistics().nll[corrupted.is_target]).all()
    second = canvas.select([1])
    assert torch.equal(second.noisy_ids, wide[1:])


def test_a_teacher_that_sees_the_same_has_nothing_to_teach(stage):
    """At the first step the model is the base, and with a clip of none the divergence is 0 where nothing is told."""
    options = [UNCHECKED, "--trainer.callbacks=null", "--trainer.max_steps=1"]
    told = stage("fit", "tad", *options, "--model.objective.window=1").trainer.callback_metrics
    assert told["train/teacher_kl"] > 1e-3
    near = stage("fit", "d_opsd", *options, "--model.objective.clip=null").trainer.callback_metrics
    assert near["train/loss"] > 1e-3


@pytest.mark.parametrize("teacher", ["base", "current"])
def test_who_the_teacher_is(backbone, teacher):
    """It sees its own canvas."""
    base = backbone.reference()
    with torch.no_grad():
        for parameter in backbone.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    corrupted = batch()
    more = corrupted.noisy_ids.clone()
    more[:, 3] = 7
    canvas = Canvas(corrupted.clean_ids, more, corrupted.attention_mask, corrupted.is_target)
    corrupted = dataclasses.replace(corrupted, reference_canvas=canvas)
    draws = RowDraws.of_numbers(0, torch.arange(2))
    objective, options = DOpsdObjective(teacher=teacher), {"base": base, "step": 0, "draws": draws}
    statistics, _, seen = Reference().statistics(objective, corrupted, backbone=backbone, **options)
    denoiser = base if teacher == "base" else Present(backbone)
    expected = TargetPass(denoiser, dataclasses.replace(corrupted, noisy_ids=more)).statistics()
    torch.testing.assert_close(statistics.nll, expected.nll)
    assert not seen.hidden.requires_grad
    assert backbone.training


@pytest.mark.parametrize(
    ("config", "options", "message"),
    [
        (
            "d_opsd",
            ["--model.objective.future=later_blocks"],
            r"^query sudoku4x4/\d{16}: expected a trajectory that was decoded in several blocks with future later_b",
        ),
        (
            "d_opsd",
            [CURRENT, LORA, "--model.reference=start"],
            "reference: expected base with DOpsdObjective, in these settings, which ignores it, got start",
        ),
        (
            "tad",
            ["--data.answers=ground_truth"],
            "teacher_prompt: expected training data that tell a teacher|unmasking order",
        ),
        (
            "tad",
            ["--model.backbone=NewTinyDLM", "--data.tokenizer=characters"],
            "objective: TadObjective compares with a reference model, so expected a pretrained backbone, got New",
        ),
    ],
    ids=["one block", "start", "ground truth", "no base"],
)
def test_bad_input(stage, config, options, message):
    with pytest.raises(TabomError, match=message):
        stage("fit", config, UNCHECKED, "--trainer.callbacks=null", *options)


def test_failures_are_refused(stage, tmp_path, tokenizer):
    """They need a tilt, which LIFT has and TAD has not."""
    samples = tmp_path / "samples"
    write_trajectories(samples, tokenizer, num_samples=3, is_verified=[True, False, False] * 8)
    options = [UNCHECKED, "--trainer.callbacks=null", f"--data.path={samples}", "--data.query_weighting=advantage"]
    with pytest.raises(TabomError, match=r"^data\.query_weighting: expected none or failure_rate without a tilt"):
        stage("fit", "tad", *options)
    cli = stage("fit", "lift", *options, "--model.objective.tilt=1.0")
    assert cli.trainer.callback_metrics["train/loss"].isfinite()


@pytest.mark.slow
def test_a_training_on_a_block_causal_model(stage):
    """With its validation: the masks of held-out text are drawn by blocks, and the base itself forgets nothing."""
    options = ["--model.backbone.attention=block_causal", "--model.backbone.block_size=16"]
    trainer = stage("fit", "tabom", *options, "--trainer.max_steps=3", "--trainer.callbacks=null").trainer
    assert trainer.datamodule.block_size == 16
    (text, *_) = trainer.datamodule._text_loader(next(iter(trainer.datamodule.base_domains)), "validation")
    torch.testing.assert_close(text.token_weight.sum(1), torch.ones(len(text.query_ids)))
    for row, weight in enumerate(text.token_weight):
        blocks = (text.attention_mask[row].long().cumsum(0) - 1) // 16
        is_asked = text.is_target[row]
        for block in blocks[is_asked].unique():
            assert len(weight[is_asked & (blocks == block)].unique()) == 1
    assert trainer.callback_metrics["validate/nelbo"].isfinite()
    assert trainer.callback_metrics["validate/order_correlation"].isfinite()
