"""Negative log-likelihood, entropy and divergence: values in nats, precision, gradients."""

from math import exp, log

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tabom.functional import token_statistics as module
from tabom.functional.token_statistics import kl_divergence, token_statistics

quick = settings(deadline=None, max_examples=50)
score_lists = st.lists(st.floats(-30, 30), min_size=1, max_size=7)


def probabilities(scores):
    total = sum(exp(score - max(scores)) for score in scores)
    return [exp(score - max(scores)) / total for score in scores]


def log_probabilities(scores):
    total = sum(exp(score - max(scores)) for score in scores)
    return [score - max(scores) - log(total) for score in scores]


def test_values_by_hand():
    logits = torch.tensor([[0.1, 0.2, 0.3, 0.4], [1.0, 0.0, 0.0, 0.0]]).log().clamp(min=-1e4)
    statistics = token_statistics(logits, torch.tensor([2, 0]))
    entropy = -(0.1 * log(0.1) + 0.2 * log(0.2) + 0.3 * log(0.3) + 0.4 * log(0.4))
    torch.testing.assert_close(statistics.nll, torch.tensor([-log(0.3), 0.0]))
    torch.testing.assert_close(statistics.entropy, torch.tensor([entropy, 0.0]))


def test_a_uniform_distribution_has_log_v_nats():
    statistics = token_statistics(torch.full((1, 7), 3.0), torch.tensor([4]))
    torch.testing.assert_close(statistics.nll, torch.tensor([log(7)]))
    torch.testing.assert_close(statistics.entropy, torch.tensor([log(7)]))


@quick
@given(score_lists, st.data())
def test_equals_the_sums_of_the_definition(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    statistics = token_statistics(torch.tensor([scores], dtype=torch.float64), torch.tensor([target]))
    log_probs = log_probabilities(scores)
    entropy = -sum(p * log_p for p, log_p in zip(probabilities(scores), log_probs, strict=True))
    assert statistics.nll.item() == pytest.approx(-log_probs[target], rel=1e-9, abs=1e-12)
    assert statistics.entropy.item() == pytest.approx(entropy, rel=1e-9, abs=1e-12)


@quick
@given(score_lists, st.floats(-20, 20))
def test_adding_a_constant_to_all_logits_changes_nothing(scores, constant):
    logits, target = torch.tensor([scores], dtype=torch.float64), torch.tensor([0])
    torch.testing.assert_close(token_statistics(logits + constant, target), token_statistics(logits, target))


@quick
@given(score_lists)
def test_entropy_lies_between_zero_and_log_v(scores):
    entropy = token_statistics(torch.tensor([scores]), torch.tensor([0])).entropy.item()
    assert -1e-6 <= entropy <= log(len(scores)) + 1e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_the_softmax(dtype):
    logits, targets = torch.randn(3, 5000).mul(4).to(dtype), torch.tensor([0, 17, 4999])
    widened = token_statistics(logits, targets)
    exact = token_statistics(logits.double(), targets)
    assert widened.nll.dtype is torch.float32
    assert widened.entropy.dtype is torch.float32
    torch.testing.assert_close(widened.nll.double(), exact.nll, rtol=0, atol=1e-5)
    torch.testing.assert_close(widened.entropy.double(), exact.entropy, rtol=0, atol=1e-5)
    divergence, exact = kl_divergence(logits, logits.flip(0)), kl_divergence(logits.double(), logits.double().flip(0))
    assert divergence.dtype is torch.float32
    torch.testing.assert_close(divergence.double(), exact, rtol=0, atol=1e-5)


def test_float64_stays_float64():
    logits = torch.randn(2, 3, dtype=torch.float64)
    assert token_statistics(logits, torch.tensor([0, 1])).entropy.dtype is torch.float64
    assert kl_divergence(logits, logits).dtype is torch.float64


def test_float32_entropy_is_exact_to_float32():
    logits, targets = torch.randn(8, 20000) * 3, torch.zeros(8, dtype=torch.long)
    narrow, wide = token_statistics(logits, targets), token_statistics(logits.double(), targets)
    torch.testing.assert_close(narrow.entropy.double(), wide.entropy, rtol=0, atol=1e-5)


def test_no_epsilon_in_the_logarithm():
    """With log(p + 1e-10), as released, 1e-10 of probability on each of 10000 tokens would lose 1e-6 * log(2) nats."""
    logits = torch.full((1, 10001), -10 * log(10), dtype=torch.float64)
    logits[0, 0] = 0.0
    total = 1 + 1e-6
    entropy = log(total) / total + 10000 * (1e-10 / total) * (10 * log(10) + log(total))
    statistics = token_statistics(logits, torch.tensor([0]))
    torch.testing.assert_close(statistics.entropy, torch.tensor([entropy], dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_extreme_logits_have_finite_values_and_gradients(dtype):
    logits = torch.tensor([[1e4, 0.0, -1e4], [1e4, 0.0, -1e4]], dtype=dtype, requires_grad=True)
    statistics = token_statistics(logits, torch.tensor([0, 2]))
    (statistics.nll.sum() + statistics.entropy.sum()).backward()
    gap = (logits[0, 0] - logits[0, 2]).double().item()
    assert statistics.nll.tolist() == [0.0, pytest.approx(gap, rel=1e-2)]
    assert statistics.entropy.tolist() == [0.0, 0.0]
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, -1.0]]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_any_shape_of_positions(shape):
    logits = torch.randn(*shape, 5)
    statistics = token_statistics(logits, torch.zeros(shape, dtype=torch.long))
    assert statistics.nll.shape == statistics.entropy.shape == kl_divergence(logits, logits).shape == shape


def test_arguments_are_not_changed():
    logits, other, targets = torch.randn(2, 3), torch.randn(2, 3), torch.tensor([0, 2])
    before = logits.clone(), other.clone(), targets.clone()
    token_statistics(logits, targets)
    kl_divergence(logits, other)
    torch.testing.assert_close((logits, other, targets), before, rtol=0, atol=0)


def test_gradients():
    logits = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([[0, 1, 2], [3, 4, 0]])
    assert torch.autograd.gradcheck(lambda logits: token_statistics(logits, targets).nll, logits)
    assert torch.autograd.gradcheck(lambda logits: token_statistics(logits, targets).entropy, logits)


def test_gradient_of_the_entropy_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    token_statistics(logits, torch.tensor([0])).entropy.sum().backward()
    entropy = 0.5 * log(2) + 0.5 * log(4)
    expected = [-0.5 * (log(0.5) + entropy), -0.25 * (log(0.25) + entropy), -0.25 * (log(0.25) + entropy)]
    torch.testing.assert_close(logits.grad, torch.tensor([expected], dtype=torch.float64))


def test_divergence_by_hand():
    logits_p, logits_q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    forward = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    backward = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)
    torch.testing.assert_close(kl_divergence(logits_p, logits_q), torch.tensor([forward]))
    torch.testing.assert_close(kl_divergence(logits_q, logits_p), torch.tensor([backward]))


@quick
@given(score_lists)
def test_divergence_from_itself_is_zero(scores):
    logits = torch.tensor([scores])
    assert kl_divergence(logits, logits).tolist() == [0.0]


@quick
@given(st.integers(1, 6).flatmap(lambda v: st.tuples(*[st.lists(st.floats(-20, 20), min_size=v, max_size=v)] * 2)))
def test_divergence_is_the_sum_of_the_definition_and_not_negative(scores):
    scores_p, scores_q = scores
    terms = zip(probabilities(scores_p), log_probabilities(scores_p), log_probabilities(scores_q), strict=True)
    expected = sum(p * (log_p - log_q) for p, log_p, log_q in terms)
    logits_p, logits_q = torch.tensor([scores_p], dtype=torch.float64), torch.tensor([scores_q], dtype=torch.float64)
    divergence = kl_divergence(logits_p, logits_q).item()
    assert divergence == pytest.approx(expected, rel=1e-9, abs=1e-12)
    assert divergence >= -1e-12


def test_divergence_with_extreme_logits_is_finite():
    logits_p = torch.tensor([[1e4, -1e4]], requires_grad=True)
    logits_q = torch.tensor([[-1e4, 1e4]], requires_grad=True)
    divergence = kl_divergence(logits_p, logits_q)
    divergence.sum().backward()
    assert divergence.tolist() == [2e4]
    assert logits_p.grad.tolist() == [[0.0, 0.0]]
    assert logits_q.grad.tolist() == [[-1.0, 1.0]]


def test_gradients_of_the_divergence():
    logits_p = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    logits_q = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kl_divergence, (logits_p, logits_q))


def plain(logits, targets, temperature=1.0):
    """The definitions on whole tensors, differentiated by autograd."""
    log_probs, tempered = logits.log_softmax(-1), (logits / temperature).log_softmax(-1)
    return (
        -log_probs.gather(-1, targets[..., None])[..., 0],
        -(tempered.exp() * tempered).sum(-1),
        log_probs.exp().amax(-1),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("chunk", [1, 22, 10**6])
def test_gradients_of_all_three_are_exact_whatever_the_chunk(monkeypatch, chunk, temperature):
    monkeypatch.setitem(module._CHUNK_NUMBERS, "cpu", chunk)
    logits = torch.randn(2, 3, 11, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 11, (2, 3)), torch.randn(3, 2, 3, dtype=torch.float64)
    statistics = token_statistics(logits, targets, entropy_temperature=temperature)
    expected = plain(logits, targets, temperature)
    for got, want in zip(statistics, expected, strict=False):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    assert torch.equal(statistics.is_correct, logits.argmax(-1) == targets)
    gradients = [
        torch.autograd.grad(sum((w * v).sum() for w, v in zip(weights, values, strict=False)), logits)[0]
        for values in (statistics[:3], expected)
    ]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_gradients_of_half_precision_are_those_of_single_precision_rounded():
    logits, targets = torch.randn(4, 300).mul(3).bfloat16(), torch.tensor([0, 1, 2, 299])

    def gradient(values):
        values = values.clone().requires_grad_()
        statistics = token_statistics(values, targets)
        (statistics.nll.sum() + statistics.entropy.sum()).backward()
        return values.grad

    assert torch.equal(gradient(logits), gradient(logits.float()).bfloat16())


def test_nothing_as_large_as_the_logits_is_kept_for_the_gradient():
    logits, kept = torch.randn(5, 1000, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        token_statistics(logits, torch.zeros(5, dtype=torch.long))
    large = [tensor for tensor in kept if tensor.numel() >= logits.numel()]
    assert [tensor.data_ptr() for tensor in large] == [logits.data_ptr()]


def test_no_positions():
    statistics = token_statistics(torch.zeros(0, 7, requires_grad=True), torch.zeros(0, dtype=torch.long))
    assert [values.shape for values in statistics[:4]] == [(0,)] * 4
    statistics.nll.sum().backward()
