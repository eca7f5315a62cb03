"""Masks that the model's own predictions choose, and the losses on them, against plain loops."""

import dataclasses
import math

import pytest
import torch
from helpers import row_draws, token_statistics_of, trajectory_batch

from tabom.functional.model_masking import LEAST_LIKELY, LIKELIEST, VANILLA, enlarged_ratio, heaviest_mode, smaller_mask
from tabom.objectives import GiftObjective, LiftObjective
from tabom.types import NEVER

MASK, PROMPT, LENGTH = 99, 2, 12
NAN = float("nan")


def batch_of(num_rows=60, *, num_filler=0, **fields):
    batch = trajectory_batch([[NEVER] * LENGTH] * num_rows)
    ids, is_filler = batch.clean_ids.clone(), torch.zeros_like(batch.is_filler)
    ids[:, PROMPT + 1] = MASK  # decoding left a mask: never asked for
    if num_filler:
        is_filler[:, -num_filler:] = True
    return dataclasses.replace(batch, clean_ids=ids, is_filler=is_filler, **fields)


class Looked:
    """What the model says of any batch, the same every time; keeps the batches."""

    def __init__(self, shape, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.nll, self.entropy = 4 * torch.rand(2, *shape, generator=generator, dtype=torch.float64)
        self.seen = []

    def __call__(self, corrupted):
        self.seen.append(corrupted)
        blank = ~corrupted.is_target
        return token_statistics_of(self.nll.masked_fill(blank, NAN), entropy=self.entropy.masked_fill(blank, NAN))


def corrupt(objective, batch, seed=0):
    look = Looked(batch.clean_ids.shape)
    corrupted = objective.corrupt_by_model(batch, MASK, row_draws(batch, seed), look)
    (first,) = look.seen
    for seen in (first, corrupted):
        hidden = seen.is_target | (batch.is_response & (batch.clean_ids == MASK))
        assert torch.equal(seen.is_masked, hidden)
        assert torch.equal(seen.noisy_ids, batch.clean_ids.masked_fill(hidden, MASK))
        assert not seen.is_target[:, PROMPT + 1].any()
    return corrupted, first, look


def draws_of(batch, seed=0):
    """t as both draw it first, and the draws that follow."""
    draws = row_draws(batch, seed)
    place = 1 - draws.per_row()
    return place, 0.999 * place + 0.001, draws


class TestGift:
    @pytest.mark.parametrize("supervise_padding", [True, False])
    def test_masks_follow_the_roots_of_the_entropies(self, supervise_padding):
        batch = batch_of(num_filler=3)
        corrupted, first, look = corrupt(GiftObjective(supervise_padding), batch)
        _, time, draws = draws_of(batch)
        wanted = [p for p in range(PROMPT, PROMPT + LENGTH) if p != PROMPT + 1]
        wanted = wanted if supervise_padding else wanted[:-3]
        where = torch.zeros_like(batch.is_response)
        where[:, wanted] = True
        assert torch.equal(first.is_target, where)
        noise = draws.per_position(where)
        for row in range(len(time)):
            roots = {p: math.sqrt(look.entropy[row, p]) for p in wanted}
            mean = sum(roots.values()) / len(roots)
            for p in wanted:
                ratio = 1 - (1 - float(time[row])) ** (roots[p] / mean)
                assert bool(corrupted.is_target[row, p]) == (float(noise[row, p]) < ratio)
                if corrupted.is_target[row, p]:
                    assert float(corrupted.token_weight[row, p]) == pytest.approx(1 / ratio, rel=1e-5)
        assert not corrupted.is_target[~where].any()

    def test_equal_entropies_are_uniform_masking(self):
        batch = batch_of(4000)
        look = Looked(batch.clean_ids.shape)
        look.entropy.fill_(0.7)
        corrupted = GiftObjective().corrupt_by_model(batch, MASK, row_draws(batch), look)
        _, time, _ = draws_of(batch)
        shares = corrupted.is_target.sum(1).double() / (LENGTH - 1)
        assert (shares - time).mean().abs() < 0.01
        weight = corrupted.token_weight[corrupted.is_target]
        torch.testing.assert_close(
            weight.double(),
            (1 / time[:, None]).expand_as(shares[:, None]).repeat(1, 14)[corrupted.is_target],
            rtol=1e-5,
            atol=0,
        )

    def test_where_the_model_is_sure_of_everything_nothing_is_masked(self):
        batch = batch_of(5)
        look = Looked(batch.clean_ids.shape)
        look.entropy.zero_()
        corrupted = GiftObjective().corrupt_by_model(batch, MASK, row_draws(batch), look)
        assert not corrupted.is_target.any()
        statistics = token_statistics_of(torch.full(batch.clean_ids.shape, NAN), requires_grad=True)
        result = GiftObjective().terms(statistics, corrupted)
        result["loss"].backward()
        assert [value.item() for value in result.values()] == [0.0, 0.0]
        assert not statistics.nll.grad.any()

    def test_value_and_gradient_equal_the_definition(self):
        batch = batch_of(30, row_weight=torch.linspace(0.5, 1.5, 30))
        corrupted, _, _ = corrupt(GiftObjective(), batch)
        nll = 4 * torch.rand(batch.clean_ids.shape, dtype=torch.float64)
        statistics = token_statistics_of(nll.masked_fill(~corrupted.is_target, NAN), requires_grad=True)
        result = GiftObjective().terms(statistics, corrupted)
        result["loss"].backward()
        counted = [row for row in range(30) if corrupted.is_target[row].any()]
        assert 0 < len(counted) < 30
        expected, loss = torch.zeros_like(nll), 0.0
        for row in counted:
            targets = corrupted.is_target[row].nonzero()[:, 0].tolist()
            for p in targets:
                share = float(batch.row_weight[row]) / len(targets) / len(counted)
                expected[row, p] = float(corrupted.token_weight[row, p]) * share
                loss += float(expected[row, p] * nll[row, p])
        assert result["loss"].item() == pytest.approx(loss)
        torch.testing.assert_close(statistics.nll.grad, expected)
        assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


class TestLift:
    @pytest.mark.parametrize("policy", ["time", "random"])
    @pytest.mark.parametrize("supervise_padding", [True, False])
    def test_masks_are_those_of_plain_loops(self, policy, supervise_padding):
        batch = batch_of(120, num_filler=3)
        corrupted, first, look = corrupt(LiftObjective(policy, supervise_padding), batch)
        place, time, draws = draws_of(batch)
        rho_noise = draws.per_row()
        wanted = [p for p in range(PROMPT, PROMPT + LENGTH) if p != PROMPT + 1]
        wanted = wanted if supervise_padding else wanted[:-3]
        where = torch.zeros_like(batch.is_response)
        where[:, wanted] = True
        noise = draws.per_position(where)
        drawn, other = draws.per_row(), draws.per_position(where)
        modes = set()
        for row in range(len(time)):
            t, raw = float(time[row]), float(place[row])
            upper = 1 - raw
            lower = 0.0 if upper <= 0.1 else 0.1
            larger = t + lower + (upper - lower) * float(rho_noise[row])
            masked = [p for p in wanted if float(noise[row, p]) < larger]
            assert first.is_target[row].nonzero()[:, 0].tolist() == masked
            weights = [3 * t * (1 - t), t, 1 - t]
            mode = weights.index(max(weights)) if policy == "time" else int(3 * float(drawn[row]))
            number = round(len(masked) * min(max(t / larger, 1e-3), 1.0))
            if mode == 0:
                kept = sorted(masked, key=lambda p: float(other[row, p]))[: max(1, number)]
            else:
                kept = sorted(masked, key=lambda p: float(look.nll[row, p]), reverse=mode == 2)[:number]
            assert corrupted.is_target[row].nonzero()[:, 0].tolist() == sorted(kept)
            weight = corrupted.token_weight[row]
            assert weight[wanted].tolist() == pytest.approx([1 / t / len(wanted)] * len(wanted), rel=1e-5)
            assert weight.sum() == pytest.approx(1 / t, rel=1e-5)
            modes.add(mode)
        assert modes == {0, 1, 2}

    def test_value_and_gradient_equal_the_definition(self):
        """A row of which nothing stays masked counts as 0."""
        batch = batch_of(30, row_weight=torch.linspace(0.5, 1.5, 30))
        corrupted, _, _ = corrupt(LiftObjective(), batch)
        assert not corrupted.is_target.any(1).all()
        _, time, _ = draws_of(batch)
        nll = 4 * torch.rand(batch.clean_ids.shape, dtype=torch.float64)
        statistics = token_statistics_of(nll.masked_fill(~corrupted.is_target, NAN), requires_grad=True)
        result = LiftObjective().terms(statistics, corrupted)
        result["loss"].backward()
        expected = torch.zeros_like(nll)
        for row, p in corrupted.is_target.nonzero().tolist():
            expected[row, p] = float(batch.row_weight[row]) / float(time[row]) / (LENGTH - 1) / 30
        loss = sum(float(expected[row, p] * nll[row, p]) for row, p in corrupted.is_target.nonzero().tolist())
        assert result["loss"].item() == pytest.approx(loss, rel=1e-5)
        torch.testing.assert_close(statistics.nll.grad, expected, rtol=1e-5, atol=1e-9)
        assert [name for name, value in result.items() if value.requires_grad] == ["loss"]

    def test_limits(self):
        """A first mask that is no larger stays as it is; a time near 1 or 0 takes the likeliest or the least likely."""
        is_masked, nll = torch.tensor([[True, True, False, True]]), torch.tensor([[2.0, 1.0, 0.0, 3.0]])
        for mode in (VANILLA, LIKELIEST, LEAST_LIKELY):
            kept = smaller_mask(is_masked, nll, torch.tensor([mode]), torch.tensor([1.0]), torch.rand(1, 4))
            assert torch.equal(kept, is_masked)
        none = smaller_mask(is_masked, nll, torch.tensor([LIKELIEST]), torch.tensor([0.0]), torch.rand(1, 4))
        one = smaller_mask(is_masked, nll, torch.tensor([VANILLA]), torch.tensor([0.0]), torch.rand(1, 4))
        assert (int(none.sum()), int(one.sum())) == (0, 1)
        assert heaviest_mode(torch.tensor([0.001, 0.33, 0.34, 0.66, 0.67, 1.0])).tolist() == [2, 2, 0, 0, 1, 1]
        times, zero, one = torch.tensor([0.0, 0.5, 0.9, 0.95, 1.0]), torch.zeros(5), torch.ones(5)
        torch.testing.assert_close(enlarged_ratio(times, zero)[[0, 1, 3, 4]], torch.tensor([0.1, 0.1, 0.0, 0.0]))
        torch.testing.assert_close(enlarged_ratio(times, one), 1 - times)
