"""What is measured on held-out data, and the way back to the base."""

import dataclasses
import json
import shutil
import statistics
from pathlib import Path

import pytest
import torch
from helpers import ScriptedDLM, corrupted_batch, last_checkpoint, trajectory_batch
from safetensors.torch import load_file

from tabom.errors import TabomError
from tabom.objectives import Ranking, TabomObjective
from tabom.samplers import Sampler
from tabom.tasks import Sudoku4x4
from tabom.validation import PassAt, Validation
from tabom.validation.text import TextMeasures
from tabom.validation.trajectories import TrajectoryMeasures

OF_EVERY_TRAINING = (
    "probe: expected no tilt and a ranking that needs no base model, so that it is the same for every training"
)
CURVES = {"tds", "tds_by_share", "unmask_entropy", "ce_self_distilled", "ce_ground_truth"}


@pytest.fixture
def far(stage, tmp_path_factory):
    """A checkpoint that is far from its base; trained once."""
    path = tmp_path_factory.getbasetemp() / "far_from_the_base.ckpt"
    if not path.exists():
        shutil.copy(last_checkpoint(stage("fit", "tabom", "--model.optimizer.lr=0.05")), path)
    return path


@pytest.fixture
def tested(stage):
    def call(*options, config="tabom"):
        results = stage("test", config, *options).trainer.callback_metrics
        return {name.removeprefix("test/"): float(value) for name, value in results.items()}

    return call


def test_batch_size_plays_no_part(tested, far):
    options = (f"--ckpt_path={far}", "--model.validation.mask_ratios=[0.2,0.8]")
    alone, together = (tested(*options, f"--data.validation.batch_size={size}") for size in (1, 50))
    assert alone.keys() == together.keys()
    assert alone == pytest.approx(together, rel=1e-4, abs=1e-6)


def test_the_base_has_changed_in_nothing(tested):
    results = tested(*several_domains(), "--data.validation.num_base_prompts=3")
    assert {name: value for name, value in results.items() if name.startswith(("kl", "nelbo_change"))} == dict.fromkeys(
        (f"{name}{end}" for name in ("kl", "nelbo_change") for end in ("", "_error", "/puzzles", "/python")), 0.0
    )
    assert results["accuracy_minus_forgetting"] == results["accuracy_1_per_step"]
    assert results["inverted_under_base"] == pytest.approx(1 - results["order_agreement"])


def several_domains():
    domains = {"python": {"class_path": "PythonSource"}, "puzzles": {"class_path": "Countdown"}}
    return (f"--data.base_domains={json.dumps(domains)}",)


def test_forgetting_of_tables():
    """KL is that of the base from the model, in nats per token."""
    model, base = ([[0.0, 1.0, 2.0], [0.5, 0.0, 0.0]], [[3.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    batch = dataclasses.replace(corrupted_batch([[False, True, True]]), domain="text")
    measures = TextMeasures(["text"])
    measures.update(ScriptedDLM(model), ScriptedDLM(base), batch)
    results = measures.compute(has_base=True)
    log_model, log_base = (torch.tensor(table).log_softmax(-1) for table in (model, base))
    clean = batch.clean_ids[0, 1:, None]
    nll, base_nll = (-log_probs.gather(1, clean).mean() for log_probs in (log_model, log_base))
    torch.testing.assert_close(results["nelbo"].float(), nll)
    torch.testing.assert_close(results["nelbo_change"].float(), nll - base_nll)
    torch.testing.assert_close(results["kl"].float(), (log_base.exp() * (log_base - log_model)).sum(1).mean())


@pytest.mark.parametrize("pairs", ["compared", "all"])
def test_order_is_measured_on_the_pairs_that_the_sampler_compared(pairs):
    """Whatever the probe ranks. Two blocks of three: 5 of 6 pairs agree, of those across blocks none."""
    entropies = [0.9, 1.2, 1.05, 0.3, 0.5, 0.7]
    table = [[0.0, *_logits_of(entropy)] for entropy in entropies]
    batch = trajectory_batch([[0, 1, 2, 3, 4, 5]], clean_ids=[[1] * 6], prompt_length=0, block_length=3)
    probe = TabomObjective(window=6, margin=0.0, ranking=Ranking(pairs=pairs))
    measures = TrajectoryMeasures(probe, ())
    measures.update(ScriptedDLM(table), ScriptedDLM(table), batch)
    results = measures.compute(has_base=True, has_ground_truth=False)
    assert results["order_agreement"].item() == pytest.approx(5 / 6)
    assert results["inverted_under_base"].item() == pytest.approx(1 / 6)
    assert results["order_correlation"].item() == pytest.approx((5 - 1) / 6)
    across = sum(entropies[r] - entropies[s] for r in range(3) for s in range(3, 6))
    expected = 0.15 / 6 if pairs == "compared" else (0.15 + across) / 15
    assert results["ranking"].item() == pytest.approx(expected, abs=1e-4)


def _logits_of(entropy):
    """Three logits, the first and the last two of which are such that the entropy beside a mask token is this."""
    low, high = 0.0, 50.0
    for _ in range(60):
        middle = (low + high) / 2
        found = torch.distributions.Categorical(logits=torch.tensor([0.0, middle, 0.0, 0.0]).double()).entropy()
        low, high = (middle, high) if found > entropy else (low, middle)
    return [low, 0.0, 0.0]


def test_accuracy_minus_forgetting(tested, far):
    """One nat of KL is worth as much accuracy as the weight says."""
    results = tested(f"--ckpt_path={far}", "--model.validation.forgetting_weight=2.0")
    assert results["kl"] > 0.01
    expected = results["accuracy_1_per_step"] - 2 * results["kl"]
    assert results["accuracy_minus_forgetting"] == pytest.approx(expected, rel=1e-5)


def test_an_accuracy_has_the_error_of_its_number_of_prompts(stage, monkeypatch):
    """Of 40 prompts in batches of 16 every fourth is solved: sqrt(0.25 * 0.75 / 39)."""
    monkeypatch.setattr("tabom.validation.decoding.is_correct", lambda verdicts: torch.arange(len(verdicts)) % 4 == 0)
    sizes = ("--data.validation.num_test_prompts=40", "--data.validation.batch_size=16")
    results = stage("test", "tabom", *sizes).trainer.callback_metrics
    assert results["test/accuracy_2_per_step"] == 0.25
    assert float(results["test/accuracy_2_per_step_error"]) == pytest.approx((0.25 * 0.75 / 39) ** 0.5)


def test_every_position_is_decoded_where_steps_are_recorded(tested, monkeypatch):
    """The discrimination score needs all steps; accuracies do not."""
    asked = set()
    decode = Sampler.decode

    def noted(self, backbone, batch, *, eos_token_id=None, record_steps=False):
        asked.add((self.tokens_per_step, eos_token_id, record_steps))
        return decode(self, backbone, batch, eos_token_id=eos_token_id, record_steps=record_steps)

    monkeypatch.setattr(Sampler, "decode", noted)
    tested()
    assert asked == {(1, None, True), (2, 2, False)}


def test_several_domains_and_their_average(tested, far):
    results = tested(*several_domains(), f"--ckpt_path={far}")
    for name in ("nelbo", "nelbo_change", "kl"):
        python, puzzles = results[f"{name}/python"], results[f"{name}/puzzles"]
        assert python != puzzles
        assert results[name] == pytest.approx((python + puzzles) / 2, rel=1e-6)


def test_accuracy_kept_on_a_base_domain(stage, monkeypatch):
    """The base's answers are asked for once, the model's at every check."""
    cli = stage(
        "validate",
        "tabom",
        '--data.base_domains={"sudoku": {"class_path": "Sudoku4x4"}}',
        "--data.validation.num_base_prompts=4",
        "--data.validation.num_validation_prompts=0",
    )
    assert "validate/accuracy_kept" in cli.trainer.callback_metrics
    validation, (batch,) = cli.model.validation, list(cli.datamodule.val_dataloader()[1])
    remembered = validation.parts["skills"].base_verdicts
    assert list(remembered.values()) == [False] * 4
    remembered.update(zip(remembered, [True, True, False, True], strict=True))
    answers = iter([False, True, False, False])
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda *_: next(answers))
    validation.prepare(19, torch.device("cpu"), base_domains=["sudoku"], base_tasks=["sudoku"])
    validation.measure(cli.model.backbone, cli.model._base[0], batch, cli.datamodule)
    results = validation.compute(has_base=True, is_check=False, sum_over_ranks=lambda counts: counts)
    assert {name: float(value) for name, value in results.items()} == {
        "base_accuracy": 0.25,
        "base_accuracy_error": 0.25,
        "accuracy_kept": pytest.approx(1 / 3),
        "accuracy_kept_error": pytest.approx(statistics.stdev([-1 / 3, 2 / 3, 0, -1 / 3]) / 2 / 0.75),
    }


def test_curves(stage, far):
    cli = stage(
        "test",
        "tabom",
        f"--ckpt_path={far}",
        "--model.validation.mask_ratios=[0.1,0.5,0.9]",
    )
    curves = cli.model.validation.curves
    assert set(curves) == CURVES
    assert [len(curves[name]) for name in ("tds", "unmask_entropy", "tds_by_share")] == [19, 19, 20]
    decoded, truth = curves["ce_self_distilled"], curves["ce_ground_truth"]
    assert len(decoded) == len(truth) == 3
    ratio = cli.trainer.callback_metrics["test/ce_ratio"]
    assert float(ratio) == pytest.approx(float(truth.mean() / decoded.mean()), rel=1e-6)
    figures = {path.stem for path in (Path(cli.trainer.default_root_dir) / "figures").rglob("*.png")}
    assert figures == {f"test_{name}" for name in ("tds_curve", "tds_by_share", "entropy_by_step", "ce_by_mask_ratio")}


def test_pass_at_k(tested, monkeypatch):
    """One of two samples of each prompt is right: pass@1 is a half, pass@2 is certain."""
    answers = iter([False] * 8 + [True, False] * 100)
    monkeypatch.setattr(Sudoku4x4, "is_correct", lambda *_: next(answers))
    pass_at = {"sampler": {"class_path": "Sampler", "init_args": {"temperature": 1.0}}, "num_samples": 2, "k": [1, 2]}
    results = tested(
        f"--model.validation.pass_at={json.dumps(pass_at)}",
        "--data.validation.batch_size=1",
        "--model.validation.tokens_per_step=[1]",
        "--data.validation.num_test_prompts=4",
    )
    assert 0 < results["pass_at_1"] <= results["pass_at_2"] <= 1
    assert results["pass_at_2_error"] == pytest.approx(statistics.stdev([0, 0, 1, 1]) / 2)  # half of the prompts


def test_the_largest_drop_is_kept(stage, tmp_path):
    """It grows over the checks of a run and goes on when the run is resumed."""
    high = ("--model.optimizer.lr=0.05",)
    cli = stage("fit", "tabom", *high)
    checkpoint = last_checkpoint(cli)
    largest = float(cli.trainer.callback_metrics["validate/largest_nelbo_change"])
    assert largest >= float(cli.trainer.callback_metrics["validate/nelbo_change"]) > 0
    saved = torch.load(checkpoint, weights_only=True)
    saved["largest_drop"]["largest"] += 100
    torch.save(saved, tmp_path / "changed.ckpt")
    more = ("--trainer.max_steps=9", "--model.lr_scheduler.num_training_steps=9")
    resumed = stage("fit", "tabom", *high, *more, f"--ckpt_path={tmp_path / 'changed.ckpt'}")
    expected = pytest.approx(largest + 100, abs=1e-3)
    assert float(resumed.trainer.callback_metrics["validate/largest_nelbo_change"]) == expected


class TestInterpolation:
    def test_the_ends_are_base_and_trained_model(self, tested, far):
        def at(weight):
            return tested(f"--ckpt_path={far}", f"--model.interpolation={weight}")

        base, half, whole = at(0), at(0.5), at(1)
        assert base["kl"] == base["nelbo_change"] == 0
        assert 0 < half["kl"] < whole["kl"]
        assert whole == tested(f"--ckpt_path={far}")

    def test_weights_are_averaged_once(self, stage, far):
        options = ("--trainer.limit_test_batches=1", f"--ckpt_path={far}")
        base = stage("test", "tabom", options[0]).model.backbone.state_dict()
        whole = stage("test", "tabom", *options).model.backbone.state_dict()
        cli = stage("test", "tabom", *options, "--model.interpolation=0.25")
        cli.model.interpolate()
        for name, weight in cli.model.backbone.state_dict().items():
            torch.testing.assert_close(weight, base[name] + 0.25 * (whole[name] - base[name]))

    def test_the_export_lies_there_too(self, stage, far, tmp_path):
        stage("export", "tabom", f"--ckpt_path={far}", "--output_dir=half", "--model.interpolation=0.5")
        base, half = (load_file(tmp_path / path / "model.safetensors") for path in ("runs/demo/base", "half"))
        whole = torch.load(far, weights_only=True)["state_dict"]
        assert half.keys() == base.keys()
        for name, weight in half.items():
            average = (base[name] + whole[f"backbone.transformer.{name}"]) / 2
            torch.testing.assert_close(weight, average)

    def test_not_in_a_training(self, stage):
        with pytest.raises(TabomError) as error:
            stage("fit", "tabom", "--model.interpolation=0.5")
        assert str(error.value) == "interpolation: expected 1 in a training, got 0.5"

    def test_out_of_range(self, stage):
        with pytest.raises((TabomError, SystemExit)):
            stage("test", "tabom", "--model.interpolation=1.5")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask_ratios": (0.0,)}, "mask_ratios: expected above 0 and at most 1, got 0.0"),
        ({"forgetting_weight": -1.0}, "forgetting_weight: expected at least 0, got -1.0"),
        ({"tokens_per_step": ()}, "tokens_per_step: expected at least one number, got none"),
        ({"probe": TabomObjective(tilt=1.0)}, OF_EVERY_TRAINING),
        ({"probe": TabomObjective(ranking=Ranking(skip_inverted=True))}, OF_EVERY_TRAINING),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(TabomError) as error:
        Validation(Sampler(), **changes)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("temperature", "k", "message"),
    [
        (0.0, (1,), "pass_at: expected a sampler that draws, as at a temperature above 0"),
        (1.0, (1, 9), "pass_at.k: expected at least 1 and at most 8, got 9"),
        (1.0, (), "pass_at.k: expected at least one number, got none"),
    ],
)
def test_bad_pass_at(temperature, k, message):
    with pytest.raises(TabomError) as error:
        PassAt(Sampler(temperature=temperature), k=k)
    assert str(error.value) == message
