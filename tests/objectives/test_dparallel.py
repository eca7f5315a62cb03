"""Certainty forcing: both halves of a block, and the entropies of what is predicted correctly."""

import dataclasses
import inspect

import pytest
import torch
from helpers import corrupted_batch, row_draws, token_statistics_of, trajectory_batch

from tabom.backbones import PretrainedBackbone
from tabom.backbones.target_pass import TargetPass
from tabom.errors import TabomError
from tabom.objectives.dparallel import DParallelObjective
from tabom.types import NEVER

MASK = 99
NAN = float("nan")


def mean(values):
    return sum(values) / len(values) if values else 0.0


def oracle(is_target, is_correct, nll, entropy, weight):
    """Loss, gradients by nll and by entropy, and logged terms, as plain loops over 2B rows."""
    counted = [row for row, flags in enumerate(is_target) if any(flags)]
    by_nll, by_entropy = ([[0.0] * len(row) for row in nll] for _ in range(2))
    reconstruction, certainty, accuracy = [], [], []
    for row in counted:
        targets = [k for k, flag in enumerate(is_target[row]) if flag]
        correct = [k for k in targets if is_correct[row][k]]
        reconstruction.append(mean([nll[row][k] for k in targets]))
        certainty.append(mean([entropy[row][k] for k in correct]))
        accuracy.append(len(correct) / len(targets))
        for k in targets:
            by_nll[row][k] = 2 / len(targets) / len(counted)
        for k in correct:
            by_entropy[row][k] = 2 * weight / len(correct) / len(counted)
    logged = {"reconstruction": mean(reconstruction), "entropy": mean(certainty), "accuracy": mean(accuracy)}
    return 2 * (logged["reconstruction"] + weight * logged["entropy"]), by_nll, by_entropy, logged


@pytest.mark.parametrize("weight", [2.0, 0.0])
@pytest.mark.parametrize("share_correct", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("supervise_padding", [True, False])
def test_value_and_gradients_equal_the_definition(weight, share_correct, supervise_padding):
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(10, 17).repeat(8, 1)
    ids[1, 2:] = MASK
    ids[2] = MASK
    batch = trajectory_batch([[NEVER] * 7] * 8, clean_ids=ids.tolist())
    is_filler = torch.zeros_like(batch.is_filler)
    is_filler[:, -2:] = True
    batch = dataclasses.replace(batch, is_filler=is_filler)
    objective = DParallelObjective(supervise_padding, block_length=3, certainty_weight=weight)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    shape = corrupted.clean_ids.shape
    assert not corrupted.is_target[[2, 10]].any()
    nll, entropy = (torch.rand(shape, generator=generator, dtype=torch.float64) * 4 for _ in range(2))
    is_correct = torch.rand(shape, generator=generator) < share_correct
    hidden = ~corrupted.is_target
    measured = token_statistics_of(nll.masked_fill(hidden, NAN), entropy.masked_fill(hidden, NAN), requires_grad=True)
    result = objective.terms(measured._replace(is_correct=is_correct), corrupted)
    result["loss"].backward()
    flags = (corrupted.is_target.tolist(), is_correct.tolist())
    loss, by_nll, by_entropy, logged = oracle(*flags, nll.tolist(), entropy.tolist(), weight)
    assert result["loss"].item() == pytest.approx(loss)
    assert {name: value.item() for name, value in result.items() if name != "loss"} == pytest.approx(logged)
    torch.testing.assert_close(measured.nll.grad, torch.tensor(by_nll).double())
    torch.testing.assert_close(measured.entropy.grad, torch.tensor(by_entropy).double())
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_value_by_hand():
    """A block of two: CE 1 + CE_rev 3, H 0.5 + H_rev 0 as the second is wrong."""
    corrupted = corrupted_batch([[True, False], [False, True]])
    measured = token_statistics_of([[1.0, NAN], [NAN, 3.0]], [[0.5, NAN], [NAN, 0.7]])
    is_correct = torch.tensor([[True, True], [True, False]])
    result = DParallelObjective().terms(measured._replace(is_correct=is_correct), corrupted)
    assert {name: value.item() for name, value in result.items()} == {
        "loss": 1.0 + 3.0 + 2.0 * 0.5,
        "reconstruction": 2.0,
        "entropy": 0.25,
        "accuracy": 0.5,
    }


def test_no_target_at_all_gives_a_zero_that_is_still_attached():
    measured = token_statistics_of([[NAN, NAN]], requires_grad=True)
    result = DParallelObjective().terms(measured, corrupted_batch([[False, False]]))
    result["loss"].backward()
    assert [value.item() for value in result.values()] == [0.0] * 4
    assert (measured.nll.grad.tolist(), measured.entropy.grad.tolist()) == ([[0.0, 0.0]], [[0.0, 0.0]])


def test_one_pass_over_both_halves_reads_tempered_entropies(tokenizer, checkpoint):
    """Against the logits of the same pass: two rows per sequence, entropies at temperature 0.5."""
    backbone = PretrainedBackbone(str(checkpoint)).load(tokenizer)
    mask = backbone.mask_token_id
    objective = DParallelObjective(block_length=4)
    batch = trajectory_batch([[NEVER] * 8] * 3)
    corrupted = objective.corrupt(batch, mask, row_draws(batch))
    assert len(corrupted.query_ids) == len(corrupted.noisy_ids) == 6
    target_pass = TargetPass(backbone, corrupted)
    statistics = target_pass.statistics(entropy_temperature=objective.entropy_temperature)
    logits = target_pass.head.logits(target_pass.hidden).detach().double()
    probs = (logits / 0.5).softmax(1)
    entropy = -(probs * probs.log()).sum(1)
    is_correct = logits.argmax(1) == corrupted.clean_ids[corrupted.is_target]
    torch.testing.assert_close(statistics.entropy[corrupted.is_target].detach().double(), entropy, rtol=1e-4, atol=1e-5)
    assert torch.equal(statistics.is_correct[corrupted.is_target], is_correct)
    assert objective.terms(statistics, corrupted)["loss"].requires_grad


def test_the_settings_reach_the_corruption():
    batch = trajectory_batch([[NEVER] * 6] * 400)
    corrupted = DParallelObjective(block_length=2, mask_ratio=0.2).corrupt(batch, MASK, row_draws(batch))
    num_targets = corrupted.is_target.reshape(2, 400, -1).sum(2)
    assert (num_targets.sum(0) == 2).all()
    torch.testing.assert_close(num_targets.double().mean(1), torch.tensor([0.4, 1.6]).double(), rtol=0, atol=0.1)


def test_the_defaults_are_those_of_the_released_code():
    defaults = {name: value.default for name, value in inspect.signature(DParallelObjective).parameters.items()}
    assert defaults == {
        "supervise_padding": True,
        "block_length": 32,
        "mask_ratio": 0.5,
        "certainty_weight": 2.0,
        "entropy_temperature": 0.5,
        "tilt": None,
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block_length": 0}, "block_length: expected at least 1, got 0"),
        ({"mask_ratio": 1.0}, "mask_ratio: expected above 0 and below 1, got 1.0"),
        ({"certainty_weight": -1.0}, "certainty_weight: expected at least 0, got -1.0"),
        ({"entropy_temperature": 0.0}, "entropy_temperature: expected above 0, got 0.0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(TabomError) as error:
        DParallelObjective(**options)
    assert str(error.value) == message


def test_a_block_longer_than_the_response_is_an_error():
    objective = DParallelObjective(block_length=9)
    objective.check_response_length(9)
    with pytest.raises(TabomError) as error:
        objective.check_response_length(8)
    assert str(error.value) == "block_length: expected at most the response length of 8 tokens, got 9"
