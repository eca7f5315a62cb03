"""Divergence from a tilted reference: against loops over the vocabulary, and its limits."""

from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional.divergence import kl_divergence
from tabom.functional.tilting import tilted_divergence

SIZE = 5
scores = st.lists(st.floats(-8, 8), min_size=SIZE, max_size=SIZE)


def distribution(values):
    total = sum(exp(value) for value in values)
    return [exp(value) / total for value in values]


def tilted(reference, token, tilt):
    weights = [p * exp(tilt if v == token else 0.0) for v, p in enumerate(reference)]
    return [weight / sum(weights) for weight in weights]


def measured(logits, reference, token, tilt):
    """From what a training step has: two likelihoods and the divergence from the reference."""
    nll, reference_nll = -logits.log_softmax(-1)[..., token], -reference.log_softmax(-1)[..., token]
    return tilted_divergence(nll, kl_divergence(reference, logits), reference_nll, tilt=tilt)


@given(scores, scores, st.integers(0, SIZE - 1), st.floats(-6, 6))
def test_value_and_gradient_are_those_of_a_loop_over_the_vocabulary(model, reference, token, tilt):
    logits = torch.tensor(model, dtype=torch.float64, requires_grad=True)
    value = measured(logits, torch.tensor(reference, dtype=torch.float64), token, tilt)
    value.backward()
    p, q = distribution(model), tilted(distribution(reference), token, tilt)
    assert value.item() == pytest.approx(sum(b * log(b / a) for a, b in zip(p, q, strict=True)), rel=1e-9, abs=1e-9)
    assert logits.grad.tolist() == pytest.approx([a - b for a, b in zip(p, q, strict=True)], rel=1e-9, abs=1e-9)


def test_the_weight_of_the_token_is_the_sigmoid_of_the_definition():
    """With no divergence from the reference and a constant left out, the slope is w."""
    nll = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64, requires_grad=True)
    reference_nll = torch.tensor([0.5, 1.0, 7.0], dtype=torch.float64)
    tilted_divergence(nll, torch.zeros_like(reference_nll), reference_nll, tilt=2.0).sum().backward()
    expected = [1 / (1 + exp(-(-number + log(exp(2.0) - 1)))) for number in reference_nll.tolist()]
    assert nll.grad.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_without_a_tilt_it_is_the_divergence_from_the_reference(dtype):
    logits, reference = torch.randn(2, 7, SIZE, dtype=dtype)
    torch.testing.assert_close(measured(logits, reference, 3, 0.0), kl_divergence(reference, logits))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_large_tilt_gives_the_negative_log_likelihood(dtype):
    logits, reference = torch.randn(2, 7, SIZE, dtype=dtype)
    for tilt in (60.0, 1e4):
        torch.testing.assert_close(measured(logits, reference, 3, tilt), -logits.log_softmax(-1)[:, 3])


def test_it_is_zero_at_the_tilted_reference_and_above_elsewhere():
    reference = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64)
    q = torch.tensor(tilted(reference.tolist(), 1, -3.0), dtype=torch.float64)
    assert measured(q.log(), reference.log(), 1, -3.0).item() == pytest.approx(0.0, abs=1e-12)
    assert measured((q + torch.tensor([0.01, -0.01, 0.0])).log(), reference.log(), 1, -3.0) > 0


@pytest.mark.parametrize("tilt", [-20.0, -1.0, 0.0, 1.0, 20.0])
def test_a_reference_that_is_certain_has_finite_values_and_gradients(tilt):
    nll = torch.tensor([0.0, 90.0, 0.7], requires_grad=True)
    divergence = torch.tensor([0.3, 0.2, 0.1], requires_grad=True)
    value = tilted_divergence(nll, divergence, torch.tensor([0.0, 0.0, 90.0]), tilt=tilt)
    value.sum().backward()
    assert value.isfinite().all()
    assert nll.grad.isfinite().all()
    assert divergence.grad.isfinite().all()


def test_a_failure_pushes_no_further_than_its_tilt():
    """Minus the log-likelihood has no lower bound; this has its minimum where the odds fell by the tilt."""
    reference = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64).log()
    logits = reference.clone().requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=1.0)
    for _ in range(400):
        optimizer.zero_grad()
        measured(logits, reference, 0, -2.0).backward()
        optimizer.step()
    odds = logits.softmax(0)[0] / (1 - logits.softmax(0)[0])
    assert odds.item() == pytest.approx(0.6 / 0.4 * exp(-2.0), rel=1e-6)


def test_each_row_may_have_its_own_tilt():
    logits, reference = torch.randn(2, 3, SIZE, dtype=torch.float64)
    tilts = torch.tensor([-1.0, 0.0, 2.0], dtype=torch.float64)
    expected = [measured(logits[row], reference[row], 2, tilt.item()) for row, tilt in enumerate(tilts)]
    torch.testing.assert_close(measured(logits, reference, 2, tilts), torch.stack(expected))
