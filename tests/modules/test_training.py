import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from helpers import last_checkpoint, slow

from tabom.backbones import PretrainedBackbone
from tabom.errors import TabomError
from tabom.modules import TrainingModule
from tabom.objectives import NelboObjective


def weights(cli):
    return {name: value.clone() for name, value in cli.model.backbone.state_dict().items()}


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("config", ["tabom", *slow("sft_gt", "sft_sd", "trajectory_masking")])
def test_every_method_trains(stage, config):
    before = weights(stage("validate", config))
    cli = stage("fit", config)
    assert cli.trainer.global_step == 6
    assert not equal(weights(cli), before)
    metrics = cli.trainer.callback_metrics
    expected = {
        *("accuracy_1_per_step", "accuracy_2_per_step", "nelbo", "nelbo_change", "kl"),
        *("accuracy_1_per_step_error", "accuracy_2_per_step_error", "nelbo_error", "nelbo_change_error", "kl_error"),
        *("reconstruction", "ranking", "order_agreement", "order_correlation", "inverted_under_base", "tds"),
        *("calibration_error", "text_calibration_error", "ce_ratio", "accuracy_minus_forgetting"),
        "largest_nelbo_change",
    }
    assert expected == {name.removeprefix("validate/") for name in metrics if name.startswith("validate/")}
    assert all(torch.isfinite(value) for value in metrics.values())
    assert metrics["validate/kl"] > 0


OBJECTIVES = {
    **dict.fromkeys(("tabom_global", "t3d", "logistic", "plackett_luce", "boltzmann_kl", "shuffled_order"), ""),
    "dinfer": "",
    "papl": "PaplObjective",
    "dparallel": "DParallelObjective",
    "inverse_ratio": "NelboObjective",
    "cart": "NelboObjective",
}
SETTINGS = {
    "dparallel": {"block_length": 8},
    "inverse_ratio": {"weighting": "inverse_ratio"},
    "cart": {"weighting": "cart"},
}


QUICK = ("t3d", "plackett_luce", "dparallel", "cart")  # one of each kind; the others differ in a few values


@pytest.mark.parametrize("name", [*QUICK, *slow(*(name for name in OBJECTIVES if name not in QUICK))])
def test_every_objective_trains_on_the_same_data(stage, name):
    class_path, config = OBJECTIVES[name], "sft_sd" if OBJECTIVES[name] else name
    objective = json.dumps({"class_path": class_path, "init_args": SETTINGS.get(name, {})})
    options = [f"--model.objective={objective}"] if class_path else []
    cli = stage(
        "fit", config, "--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--trainer.callbacks=null", *options
    )
    metrics = cli.trainer.callback_metrics
    assert {"loss", "train/loss", "train/reconstruction"} <= metrics.keys()
    assert all(value.isfinite() for value in metrics.values())
    assert cli.trainer.global_step == 3


def test_the_base_has_forgotten_nothing(stage):
    metrics = stage("test", "tabom").trainer.callback_metrics
    assert metrics["test/kl"] == metrics["test/nelbo_change"] == 0


def test_the_base_is_neither_trained_nor_saved(trained, checkpoint, tokenizer):
    (base,) = trained.model._base
    before = PretrainedBackbone(str(checkpoint)).load(tokenizer).state_dict()
    assert equal(dict(base.state_dict()), before)
    saved = torch.load(last_checkpoint(trained), weights_only=True)
    assert set(saved["state_dict"]) == {f"backbone.{name}" for name in before}


@pytest.mark.parametrize("config", ["tabom", *slow("sft_sd")])
def test_the_same_seed_gives_the_same_weights(stage, trained, config):
    first = weights(trained if config == "tabom" else stage("fit", config))
    again = weights(stage("fit", config))
    other = weights(
        stage("fit", config, "--seed_everything=2", "--trainer.limit_val_batches=0", "--trainer.callbacks=null")
    )
    assert equal(first, again)
    assert not equal(first, other)


def checkpoint_every_step(directory):
    settings = {"every_n_train_steps": 1, "save_top_k": -1, "filename": "{step}", "dirpath": str(directory)}
    callback = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": settings}
    return f"--trainer.callbacks={json.dumps([callback])}"


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(stage, tmp_path):
    """An epoch has three batches: a run is picked up within the first, at a boundary, and within the second."""
    straight = weights(stage("fit", "tabom", checkpoint_every_step(tmp_path / "straight")))
    for step in (2, 3, 4, 5):
        torch.rand(17)
        path = tmp_path / "straight" / f"step={step}.ckpt"
        resumed = stage("fit", "tabom", f"--ckpt_path={path}", checkpoint_every_step(tmp_path / f"from{step}"))
        assert resumed.trainer.global_step == 6
        assert equal(weights(resumed), straight), f"resumed at step {step}"


def test_a_run_that_was_too_short_can_be_prolonged(stage, trained):
    straight = weights(trained)
    short = stage("fit", "tabom", "--trainer.max_steps=3")
    assert not equal(weights(short), straight)
    assert equal(weights(stage("fit", "tabom", "--ckpt_path", last_checkpoint(short))), straight)


def test_last_and_best_checkpoints(trained):
    """Validation comes at steps 3 and 6; the best of two equal ones is the first, the last is the last."""
    last = torch.load(last_checkpoint(trained), weights_only=True)
    best = torch.load(trained.trainer.checkpoint_callback.best_model_path, weights_only=True)
    assert (last["global_step"], best["global_step"]) == (6, 3)


def test_the_best_checkpoint_is_only_evaluated(stage, trained):
    """It holds no state of the optimizer, and says where a training that is to go on finds it."""
    last, path = last_checkpoint(trained), trained.trainer.checkpoint_callback.best_model_path
    stored, best = (torch.load(each, weights_only=True) for each in (last, path))
    assert stored.keys() - best.keys() == {"optimizer_states", "lr_schedulers", "reference"}
    assert stored["callbacks"].keys() == best["callbacks"].keys()
    assert any(key.startswith("ModelCheckpoint{") for key in stored["callbacks"])  # as in earlier checkpoints
    message = rf"^{path}: expected a checkpoint with the state of a training, .*; a training goes on with {last}$"
    with pytest.raises(TabomError, match=message):
        stage("fit", "tabom", f"--ckpt_path={path}")
    with pytest.raises(TabomError, match=message):
        stage("fit", "tabom", "--ckpt_path=best", f"--run_dir={Path(last).parents[1]}")


def test_command_line_wins_over_what_a_checkpoint_was_made_with(stage, trained):
    resumed = stage("fit", "tabom", "--ckpt_path", last_checkpoint(trained), "--model.objective.margin=0.7")
    assert resumed.model.objective.margin == 0.7


def test_learning_rate_follows_the_schedule(trained):
    (scheduler,) = trained.model.trainer.lr_scheduler_configs
    assert scheduler.interval == "step"
    assert scheduler.scheduler.last_epoch == 6
    assert scheduler.scheduler.get_last_lr() == pytest.approx([0.0], abs=1e-12)


def test_the_gradient_norm_is_logged_before_clipping(stage, monkeypatch):
    norms, logged, rates = {}, {}, []

    def clip(module, optimizer, **options):
        step = module.global_step + 1
        norms[step] = sum(p.grad.double().square().sum() for p in module.parameters() if p.grad is not None) ** 0.5
        if "train/gradient_norm" in module.trainer.callback_metrics:
            logged[step] = module.trainer.callback_metrics["train/gradient_norm"].item()
            rates.append(module.trainer.callback_metrics["train/learning_rate"].item())

    monkeypatch.setattr(TrainingModule, "configure_gradient_clipping", clip)
    options = ["--trainer.log_every_n_steps=2", "--trainer.max_steps=4", "--trainer.limit_val_batches=0"]
    stage("fit", "tabom", *options)
    assert logged == {step: pytest.approx(norms[step // 2 * 2].item(), rel=1e-5) for step in (2, 3, 4)}
    peak = 1e-3  # at the second step, then down along a cosine to the sixth
    assert rates == pytest.approx([peak, peak, peak * (1 + 0.5**0.5) / 2])


def test_a_loss_that_is_not_finite_names_step_terms_and_queries(stage, monkeypatch):
    finite = NelboObjective.terms

    def diverges(self, *arguments):
        terms = finite(self, *arguments)
        return {**terms, "loss": terms["loss"] * torch.nan}

    monkeypatch.setattr(NelboObjective, "terms", diverges)
    got = r"loss=nan, reconstruction=[\d.]+; queries: (sudoku4x4/\d{16}(, )?){4}"
    message = rf"^step 0: expected a finite loss, got {got}$"
    with pytest.raises(TabomError, match=message):
        stage("fit", "sft_sd")


def test_gradients_that_are_not_finite_end_the_run_before_the_weights_change(stage, monkeypatch):
    """The loss is finite: the derivative of a root at 0 is not."""
    finite, steps = NelboObjective.terms, []

    def breaks(self, statistics, *arguments):
        terms = finite(self, statistics, *arguments)
        return {**terms, "loss": terms["loss"] + (statistics.nll.nan_to_num() * 0).sum().sqrt()}

    monkeypatch.setattr(NelboObjective, "terms", breaks)
    monkeypatch.setattr(TrainingModule, "configure_gradient_clipping", lambda *_, **__: steps.append(1))
    with pytest.raises(TabomError, match=r"^step 0: expected finite gradients, got a norm of nan, from \['backbone\."):
        stage("fit", "sft_sd")
    assert steps == []


@pytest.fixture
def masks(stage, monkeypatch):
    """What a training step masks in a batch of four rows, with changes to the batch and to where the step stands."""
    module = (cli := stage("validate", "tabom")).model
    (first, *_) = cli.datamodule.train_dataloader()
    seen = []

    def keep(_, corrupted):
        seen.append(corrupted.noisy_ids)
        raise StopIteration

    monkeypatch.setattr("tabom.modules.reference.TargetPass", keep)

    def call(row_numbers=(3, 1, 4, 5), rows=(0, 1, 2, 3), batch_idx=0, seed=0, **place):
        batch = dataclasses.replace(first, row_numbers=torch.tensor(row_numbers)).select(rows)
        with monkeypatch.context() as patch:
            for name, value in place.items():
                patch.setattr(type(module), name, value)
            patch.setattr(module, "_seed", seed)
            with pytest.raises(StopIteration):
                module.training_step(batch, batch_idx)
        return seen[-1]

    return call


def test_masks_depend_on_seed_epoch_and_row_alone(masks):
    """Not on the step, the process, the rows beside it, or what was drawn before."""
    expected = masks()
    torch.rand(5)
    assert torch.equal(masks(batch_idx=7, global_rank=1), expected)
    assert torch.equal(masks(rows=(2, 1)), expected[[2, 1]])
    for changed in (masks(row_numbers=(0, 2, 6, 7)), masks(current_epoch=1), masks(seed=9)):
        assert (changed != expected).any(1).sum() >= 2  # a row may draw the same segment again


def test_rows_without_a_number_are_an_error(stage):
    cli = stage("validate", "tabom")
    (batch, *_) = cli.datamodule.train_dataloader()
    with pytest.raises(TabomError) as error:
        cli.model.training_step(dataclasses.replace(batch, row_numbers=None), 0)
    assert str(error.value) == "training batch: expected row_numbers, which random masks are drawn by, got none"


def test_pretraining_has_nothing_to_forget(stage, tmp_path):
    cli = stage(
        "fit",
        "pretrain",
        "--data.num_base_rows=20",
        "--model.backbone.hidden_size=16",
        "--trainer.callbacks=null",
    )
    names = {name for name in cli.trainer.callback_metrics if name.startswith("validate/")}
    accuracies = [f"accuracy_{number}_per_step{end}" for number in (1, 2) for end in ("", "_error")]
    expected = (*accuracies, "nelbo", "nelbo_error", "tds", "text_calibration_error")
    assert names == {f"validate/{name}" for name in expected}


def test_held_out_answers_of_a_pretraining(stage):
    """Puzzles of the validation split, cut to the budget; at ratio 1 nothing of the answer is seen."""
    small = ("--model.backbone.hidden_size=16", "--data.response_length=18", "--data.task.answer_layout=rows")
    cli = stage("validate", "pretrain", *small, "--trainer.callbacks=null", "--model.validation.mask_ratios=[0.5,1.0]")
    curves, backbone, tokenizer = cli.model.validation.curves, cli.model.backbone.eval(), cli.datamodule.tokenizer
    assert {name for name in curves if name.startswith("ce_")} == {"ce_ground_truth"}
    means = []
    for example in cli.datamodule.task.examples("validation", 6):
        prompt, answer = (tokenizer(text)["input_ids"] for text in (example.prompt, example.reference))
        noisy = torch.tensor([prompt + [backbone.mask_token_id] * 18])
        with torch.no_grad():
            scores = backbone.logits(backbone(noisy, torch.ones_like(noisy).bool()))[0, len(prompt) :]
        means.append(torch.nn.functional.cross_entropy(scores.double(), torch.tensor(answer[:18])))
    assert float(curves["ce_ground_truth"][1]) == pytest.approx(float(torch.stack(means).mean()), rel=1e-5)


def test_evaluation_in_smaller_batches_is_the_same(stage):
    def metrics(size):
        results = stage("test", "tabom", f"--data.validation.batch_size={size}").trainer.callback_metrics
        return {name: float(value) for name, value in results.items() if name.split("/")[1] in ("nelbo", "tds")}

    assert metrics(100) == pytest.approx(metrics(3), rel=1e-5)


@pytest.mark.parametrize("num_processes", [1, 2])
def test_several_processes_weigh_their_rows_together(num_processes):
    objective = NelboObjective()
    module = SimpleNamespace(
        _base=[],
        _mean_over_ranks=torch.neg,
        backbone=torch.nn.Linear(1, 1),
        device="cpu",
        objective=objective,
        trainer=SimpleNamespace(world_size=num_processes, callbacks=[]),
    )
    TrainingModule.on_fit_start(cast("TrainingModule", module))
    assert (objective.mean_over_ranks is torch.neg) == (num_processes == 2)
