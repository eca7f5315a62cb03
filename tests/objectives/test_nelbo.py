"""Cross-entropy over randomly masked tokens, the order ignored."""

import dataclasses

import pytest
import torch
from helpers import corrupted_batch, row_draws, token_statistics_of, trajectory_batch

from tabom.errors import TabomError
from tabom.objectives import NelboObjective
from tabom.types import NEVER

MASK = 99
NAN = float("nan")


def terms(nll, is_target):
    return NelboObjective().terms(token_statistics_of(nll), corrupted_batch(is_target))


def test_mean_per_row_then_over_rows():
    result = terms([[2.0, 4.0, 6.0], [5.0, 7.0, 9.0]], [[True, True, True], [False, True, False]])
    expected = torch.tensor(((2.0 + 4.0 + 6.0) / 3 + 7.0) / 2)
    assert set(result) == {"loss", "reconstruction"}
    torch.testing.assert_close(result["loss"], expected)
    torch.testing.assert_close(result["reconstruction"], expected)


def test_rows_without_targets_do_not_count():
    result = terms([[2.0, 4.0], [5.0, 7.0]], [[True, True], [False, False]])
    torch.testing.assert_close(result["loss"], torch.tensor((2.0 + 4.0) / 2))


def test_what_was_not_asked_for_is_not_seen_and_gets_no_gradient():
    nll = torch.tensor([[2.0, NAN], [NAN, 7.0]], requires_grad=True)
    loss = terms(nll, [[True, False], [False, True]])["loss"]
    loss.backward()
    torch.testing.assert_close(loss.detach(), torch.tensor((2.0 + 7.0) / 2))
    assert nll.grad.tolist() == [[0.5, 0.0], [0.0, 0.5]]


def test_no_target_at_all_gives_a_zero_that_is_still_attached():
    nll = torch.tensor([[2.0, 4.0]], requires_grad=True)
    loss = terms(nll, [[False, False]])["loss"]
    loss.backward()
    assert loss.item() == 0.0
    assert nll.grad.tolist() == [[0.0, 0.0]]


def test_only_the_loss_is_attached():
    result = terms(torch.tensor([[2.0, 4.0]], requires_grad=True), [[True, True]])
    assert result["loss"].requires_grad
    assert not result["reconstruction"].requires_grad


def batch_with_filler(num_rows=50):
    batch = trajectory_batch([[NEVER] * 6] * num_rows)
    is_filler = torch.zeros_like(batch.is_filler)
    is_filler[:, -2:] = True
    return dataclasses.replace(batch, is_filler=is_filler)


def test_corruption_masks_the_response_at_random():
    batch = trajectory_batch([[NEVER] * 6] * 200)
    corrupted = NelboObjective().corrupt(batch, MASK, row_draws(batch))
    assert torch.equal(corrupted.is_target, corrupted.noisy_ids == MASK)
    assert set(corrupted.is_target.sum(1).tolist()) == {1, 2, 3, 4, 5, 6}
    assert torch.equal(corrupted.is_target.any(0), batch.is_response[0])


def test_filler_is_asked_for_by_default():
    batch = batch_with_filler()
    corrupted = NelboObjective().corrupt(batch, MASK, row_draws(batch))
    assert (corrupted.is_target & batch.is_filler).any()


def test_filler_can_be_left_out_but_is_masked_all_the_same():
    batch = batch_with_filler()
    learnt, left_out = (
        NelboObjective(supervise_padding=flag).corrupt(batch, MASK, row_draws(batch)) for flag in (True, False)
    )
    assert torch.equal(left_out.noisy_ids, learnt.noisy_ids)
    assert torch.equal(left_out.is_target, learnt.is_target & ~batch.is_filler)
    assert not torch.equal(left_out.is_target, learnt.is_target)


LENGTH = 9


def ragged_batch(seed):
    """Left padding, prompt, responses of 0 to 9 positions, a filled end, and one that decoding left masked."""
    generator = torch.Generator().manual_seed(seed)
    batch = trajectory_batch([[NEVER] * LENGTH] * 12, prompt_length=3)
    position = torch.arange(-3, LENGTH).expand(12, -1)
    length = torch.tensor([0, 1, 2, 3, 5, 7, 9, 9, 9, 9, 4, 1])[:, None]
    is_response = (position >= 0) & (position < length)
    ids = batch.clean_ids.masked_fill(is_response & (torch.rand(is_response.shape, generator=generator) < 0.1), MASK)
    is_padding = (position < -3 + torch.randint(0, 3, (12, 1), generator=generator)) | (position >= length)
    is_filler = is_response & (position >= length - torch.randint(0, 3, (12, 1), generator=generator))
    changes = {"clean_ids": ids, "attention_mask": ~is_padding, "is_response": is_response, "is_filler": is_filler}
    return dataclasses.replace(batch, **changes)


def mean(values):
    return sum(values) / len(values) if values else 0.0


def oracle(batch, corrupted, nll, weighting, supervise_padding, p):
    """Loss and gradient as plain loops over the definitions; the weights come from what is visible and drawn alone."""
    num_rows, width = corrupted.noisy_ids.shape
    weights, counted = [[0.0] * width for _ in range(num_rows)], []
    for row in range(num_rows):
        learnable, targets, visible = [], [], []
        for k in range(width):
            if batch.attention_mask[row, k] and corrupted.noisy_ids[row, k] != MASK:
                visible.append(k)
            is_text = batch.is_response[row, k] and batch.clean_ids[row, k] != MASK
            if is_text and (supervise_padding or not batch.is_filler[row, k]):
                learnable.append(k)
                if corrupted.noisy_ids[row, k] == MASK:
                    targets.append(k)
        for k in targets:
            if weighting == "inverse_ratio":
                weights[row][k] = 1 / corrupted.mask_ratio[row].item() / len(learnable)
            elif weighting == "cart":
                weights[row][k] = sum(0.5 * p * (1 - p) ** (abs(k - j) - 1) for j in visible) / len(targets)
            else:
                weights[row][k] = 1 / len(targets)
        if learnable if weighting == "inverse_ratio" else targets:
            counted.append(row)
    values = [sum(w * v for w, v in zip(weights[row], nll[row], strict=True) if w) for row in counted]
    return mean(values), [[w / len(counted) for w in row] for row in weights]


@pytest.mark.parametrize("weighting", ["mean", "inverse_ratio", "cart"])
@pytest.mark.parametrize("supervise_padding", [True, False])
@pytest.mark.parametrize("seed", range(3))
def test_value_and_gradient_equal_the_definition(weighting, supervise_padding, seed):
    batch, generator = ragged_batch(seed), torch.Generator().manual_seed(seed)
    objective = NelboObjective(supervise_padding, weighting, cart_p=0.3 if weighting == "cart" else 0.1)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch, seed))
    nll = torch.rand(batch.clean_ids.shape, generator=generator, dtype=torch.float64) * 4
    measured = token_statistics_of(nll.masked_fill(~corrupted.is_target, NAN), requires_grad=True)
    result = objective.terms(measured, corrupted)
    result["loss"].backward()
    loss, gradient = oracle(batch, corrupted, nll.tolist(), weighting, supervise_padding, 0.3)
    assert result["loss"].item() == pytest.approx(loss, rel=1e-6)
    torch.testing.assert_close(measured.nll.grad, torch.tensor(gradient).double(), rtol=1e-5, atol=1e-8)
    unweighted, _ = oracle(batch, corrupted, nll.tolist(), "mean", supervise_padding, 0.3)
    assert result["reconstruction"].item() == pytest.approx(unweighted)
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_a_row_without_a_masked_token_counts_as_zero():
    """The bound is unbiased only if such rows count."""
    batch = trajectory_batch([[NEVER]] * 4000)
    objective = NelboObjective(weighting="inverse_ratio")
    corrupted = objective.corrupt(batch, MASK, row_draws(batch))
    assert not corrupted.is_target.any(1).all()
    loss = objective.terms(token_statistics_of(torch.full(batch.clean_ids.shape, 2.0)), corrupted)["loss"]
    expected = 2.0 * (corrupted.is_target.any(1) / corrupted.mask_ratio).mean()
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(loss, torch.tensor(2.0), rtol=0.1, atol=0)
    assert corrupted.mask_ratio.amin() > 1e-3


@pytest.mark.parametrize("weighting", ["mean", "inverse_ratio", "cart"])
def test_no_target_at_all_gives_a_zero_for_every_weighting(weighting):
    batch = trajectory_batch([[0, 1]], clean_ids=[[MASK, MASK]])
    objective = NelboObjective(weighting=weighting)
    measured = token_statistics_of([[NAN] * 4], requires_grad=True)
    loss = objective.terms(measured, objective.corrupt(batch, MASK, row_draws(batch)))["loss"]
    loss.backward()
    assert (loss.item(), measured.nll.grad.tolist()) == (0.0, [[0.0] * 4])


def test_masks_of_mean_and_cart_are_the_same():
    batch = batch_with_filler()
    mean, cart = (
        NelboObjective(weighting=weighting).corrupt(batch, MASK, row_draws(batch)) for weighting in ("mean", "cart")
    )
    assert torch.equal(mean.noisy_ids, cart.noisy_ids)


@pytest.mark.parametrize("p", [0.0, 1.5, NAN])
def test_a_decay_out_of_range_is_an_error(p):
    with pytest.raises(TabomError) as error:
        NelboObjective(cart_p=p)
    assert str(error.value) == f"cart_p: expected above 0 and at most 1, got {p}"


def test_the_mean_over_the_tokens_of_the_batch():
    """As released: no token is forced, so that some rows have none, and long rows weigh more."""
    objective = NelboObjective(reduction="batch_tokens")
    measured = token_statistics_of([[2.0, 4.0, 6.0], [5.0, 7.0, 9.0]])
    result = objective.terms(measured, corrupted_batch([[True, True, True], [False, True, False]]))
    assert result["loss"].item() == result["reconstruction"].item() == pytest.approx((2 + 4 + 6 + 7) / 4)
    batch = trajectory_batch([[NEVER] * 2] * 300)
    num_masked = objective.corrupt(batch, MASK, row_draws(batch)).is_target.sum(1)
    assert set(num_masked.tolist()) == {0, 1, 2}


def test_weights_in_the_mean_over_the_tokens_of_the_batch():
    objective = NelboObjective(weighting="cart", reduction="batch_tokens")
    weight = torch.tensor([[1.0, 2.0], [3.0, NAN]])
    corrupted = dataclasses.replace(corrupted_batch([[True, True], [True, False]]), token_weight=weight)
    result = objective.terms(token_statistics_of([[1.0, 2.0], [4.0, NAN]]), corrupted)
    assert result["loss"].item() == pytest.approx((1 * 1 + 2 * 2 + 3 * 4) / 3)
    with pytest.raises(TabomError) as error:
        NelboObjective(weighting="inverse_ratio", reduction="batch_tokens")
    assert str(error.value) == "reduction: expected trajectories with weighting inverse_ratio, got batch_tokens"


@pytest.mark.parametrize("weighting", ["mean", "inverse_ratio", "cart"])
def test_ratios_spread_evenly_over_the_batch(weighting):
    batch = trajectory_batch([[NEVER] * 400] * 8)
    corrupted = NelboObjective(weighting=weighting, stratified_ratios=True).corrupt(batch, MASK, row_draws(batch))
    assert sorted((8 * (1 - corrupted.mask_ratio)).floor().clamp(max=7).tolist()) == list(range(8))
