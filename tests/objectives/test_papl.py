"""Cross-entropy with more weight on the tokens that the model is sure of."""

import math

import pytest
import torch
from helpers import corrupted_batch, row_draws, token_statistics_of, trajectory_batch

from tabom.errors import TabomError
from tabom.objectives import NelboObjective
from tabom.objectives.papl import PaplObjective
from tabom.types import NEVER

MASK = 99
NAN = float("nan")


def oracle(is_target, nll, alpha, temperature):
    """Loss and gradient as plain loops; the weights are constants."""
    counted = [row for row, flags in enumerate(is_target) if any(flags)]
    gradient, loss, largest = [[0.0] * len(row) for row in nll], 0.0, 0.0
    for row in counted:
        targets = [k for k, flag in enumerate(is_target[row]) if flag]
        total = sum(math.exp(-nll[row][k] / temperature) for k in targets)
        weight = {k: math.exp(-nll[row][k] / temperature) / total for k in targets}
        largest += max(weight.values()) / len(counted)
        for k in targets:
            gradient[row][k] = (1 + alpha * weight[k]) / len(targets) / len(counted)
            loss += gradient[row][k] * nll[row][k]
    return loss, gradient, largest


@pytest.mark.parametrize(("alpha", "temperature"), [(1.0, 1.0), (0.0, 1.0), (3.0, 0.5), (0.5, 4.0)])
@pytest.mark.parametrize("seed", range(2))
def test_value_and_gradient_equal_the_definition(alpha, temperature, seed):
    generator = torch.Generator().manual_seed(seed)
    clean_ids = [[10, 11, MASK, 13, 14], [10, 11, 12, 13, 14], [MASK] * 5, [MASK, MASK, 12, MASK, MASK]]
    batch = trajectory_batch([[NEVER] * 5] * 4, clean_ids=clean_ids)
    objective = PaplObjective(alpha=alpha, temperature=temperature)
    corrupted = objective.corrupt(batch, MASK, row_draws(batch, seed))
    assert corrupted.is_target.any(1).tolist() == [True, True, False, True]
    nll = torch.rand(batch.clean_ids.shape, generator=generator, dtype=torch.float64) * 4
    measured = token_statistics_of(nll.masked_fill(~corrupted.is_target, NAN), requires_grad=True)
    result = objective.terms(measured, corrupted)
    result["loss"].backward()
    loss, gradient, largest = oracle(corrupted.is_target.tolist(), nll.tolist(), alpha, temperature)
    unweighted, _, _ = oracle(corrupted.is_target.tolist(), nll.tolist(), 0.0, 1.0)
    assert result["loss"].item() == pytest.approx(loss)
    assert result["reconstruction"].item() == pytest.approx(unweighted)
    assert result["largest_weight"].item() == pytest.approx(largest)
    torch.testing.assert_close(measured.nll.grad, torch.tensor(gradient).double())
    assert [name for name, value in result.items() if value.requires_grad] == ["loss"]


def test_value_by_hand():
    """Probabilities 0.6 and 0.2: weights 3/4 and 1/4."""
    nll = [[-math.log(0.6), -math.log(0.2), NAN]]
    result = PaplObjective(alpha=2.0).terms(token_statistics_of(nll), corrupted_batch([[True, True, False]]))
    expected = ((1 + 2 * 0.75) * -math.log(0.6) + (1 + 2 * 0.25) * -math.log(0.2)) / 2
    assert result["loss"].item() == pytest.approx(expected)
    assert result["largest_weight"].item() == pytest.approx(0.75)


def test_masks_are_those_of_the_nelbo():
    batch = trajectory_batch([[NEVER] * 6] * 20)
    papl, nelbo = (
        objective.corrupt(batch, MASK, row_draws(batch)) for objective in (PaplObjective(), NelboObjective())
    )
    assert torch.equal(papl.noisy_ids, nelbo.noisy_ids)


def test_no_target_at_all_gives_a_zero_that_is_still_attached():
    measured = token_statistics_of([[NAN, NAN]], requires_grad=True)
    result = PaplObjective().terms(measured, corrupted_batch([[False, False]]))
    result["loss"].backward()
    assert [value.item() for value in result.values()] == [0.0, 0.0, 0.0]
    assert measured.nll.grad.tolist() == [[0.0, 0.0]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": -1.0}, "alpha: expected at least 0, got -1.0"),
        ({"alpha": NAN}, "alpha: expected at least 0, got nan"),
        ({"temperature": 0.0}, "temperature: expected above 0, got 0.0"),
    ],
    ids=str,
)
def test_values_out_of_range_are_errors(options, message):
    with pytest.raises(TabomError) as error:
        PaplObjective(**options)
    assert str(error.value) == message
