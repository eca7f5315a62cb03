"""Cross-entropy over randomly masked tokens, the order ignored."""

import dataclasses

import torch
from helpers import corrupted_batch, token_statistics_of, trajectory_batch

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
    corrupted = NelboObjective().corrupt(batch, MASK, torch.Generator().manual_seed(0))
    assert torch.equal(corrupted.is_target, corrupted.noisy_ids == MASK)
    assert set(corrupted.is_target.sum(1).tolist()) == {1, 2, 3, 4, 5, 6}
    assert torch.equal(corrupted.is_target.any(0), batch.is_response[0])


def test_filler_is_asked_for_by_default():
    batch = batch_with_filler()
    corrupted = NelboObjective().corrupt(batch, MASK, torch.Generator().manual_seed(0))
    assert (corrupted.is_target & batch.is_filler).any()


def test_filler_can_be_left_out_but_is_masked_all_the_same():
    batch = batch_with_filler()
    learnt, left_out = (
        NelboObjective(supervise_padding=flag).corrupt(batch, MASK, torch.Generator().manual_seed(0))
        for flag in (True, False)
    )
    assert torch.equal(left_out.noisy_ids, learnt.noisy_ids)
    assert torch.equal(left_out.is_target, learnt.is_target & ~batch.is_filler)
    assert not torch.equal(left_out.is_target, learnt.is_target)
