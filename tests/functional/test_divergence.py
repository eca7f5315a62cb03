"""Divergence from a reference model: values in nats, precision, exact gradients of chunks."""

from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional import token_statistics as chunks
from tabom.functional.divergence import kl_divergence, linear_kl_divergence
from tabom.functional.head import Head

score_lists = st.lists(st.floats(-30, 30), min_size=1, max_size=7)


def log_probabilities(scores):
    total = sum(exp(score - max(scores)) for score in scores)
    return [score - max(scores) - log(total) for score in scores]


def definition(scores_p, scores_q):
    log_p, log_q = log_probabilities(scores_p), log_probabilities(scores_q)
    return sum(exp(p) * (p - q) for p, q in zip(log_p, log_q, strict=True))


def test_divergence_by_hand():
    logits_p, logits_q = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
    forward = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    backward = 0.25 * log(0.25 / 0.5) + 0.75 * log(0.75 / 0.5)
    torch.testing.assert_close(kl_divergence(logits_p, logits_q), torch.tensor([forward]))
    torch.testing.assert_close(kl_divergence(logits_q, logits_p), torch.tensor([backward]))


@given(score_lists)
def test_divergence_from_itself_is_zero(scores):
    logits = torch.tensor([scores])
    assert kl_divergence(logits, logits).tolist() == [0.0]


@given(st.integers(1, 6).flatmap(lambda v: st.tuples(*[st.lists(st.floats(-20, 20), min_size=v, max_size=v)] * 2)))
def test_divergence_is_the_sum_of_the_definition_and_not_negative(scores):
    scores_p, scores_q = scores
    logits_p, logits_q = torch.tensor([scores_p], dtype=torch.float64), torch.tensor([scores_q], dtype=torch.float64)
    divergence = kl_divergence(logits_p, logits_q).item()
    assert divergence == pytest.approx(definition(scores_p, scores_q), rel=1e-9, abs=1e-12)
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


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_widened_before_the_softmax(dtype):
    logits = torch.randn(3, 5000).mul(4).to(dtype)
    divergence, exact = kl_divergence(logits, logits.flip(0)), kl_divergence(logits.double(), logits.double().flip(0))
    assert divergence.dtype is torch.float32
    torch.testing.assert_close(divergence.double(), exact, rtol=0, atol=1e-5)


def test_float64_stays_float64():
    logits = torch.randn(2, 3, dtype=torch.float64)
    assert kl_divergence(logits, logits).dtype is torch.float64


def test_arguments_are_not_changed():
    logits, other = torch.randn(2, 3), torch.randn(2, 3)
    before = logits.clone(), other.clone()
    kl_divergence(logits, other)
    linear_kl_divergence(logits, Head(torch.eye(3)), other, Head(torch.eye(3)))
    torch.testing.assert_close((logits, other), before, rtol=0, atol=0)


def make_head(*, bias=True, softcap=None, width=4, requires_grad=True):
    weight = torch.randn(11, width, dtype=torch.float64, requires_grad=requires_grad)
    return Head(weight, torch.randn(11, dtype=torch.float64, requires_grad=requires_grad) if bias else None, softcap)


def chunked(monkeypatch, chunk, block):
    monkeypatch.setitem(chunks._CHUNK_NUMBERS, "cpu", chunk)
    monkeypatch.setitem(chunks._BLOCK_NUMBERS, "cpu", block)


@pytest.mark.parametrize(("bias", "softcap"), [(False, None), (True, 1.5)])
@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (33, 22), (44, 10**6), (10**6, 22), (10**6, 10**6)])
def test_values_and_gradients_are_those_of_a_plain_loop(monkeypatch, chunk, block, bias, softcap):
    """The gradient of the logits is g (q - p) times the slope of the soft cap, row by row."""
    chunked(monkeypatch, chunk, block)
    hidden_p, hidden_q = (torch.randn(2, 4, width, dtype=torch.float64, requires_grad=True) for width in (3, 4))
    head_p, head_q = make_head(softcap=2.0, width=3), make_head(bias=bias, softcap=softcap)
    upstream = torch.randn(2, 4, dtype=torch.float64)
    divergence = linear_kl_divergence(hidden_p, head_p, hidden_q, head_q)
    logits_p, logits_q = head_p.logits(hidden_p).detach(), head_q.logits(hidden_q)
    of_logits = torch.zeros_like(logits_q)
    for row in range(2):
        for k in range(4):
            scores_p, scores_q = logits_p[row, k].tolist(), logits_q[row, k].tolist()
            assert divergence[row, k].item() == pytest.approx(definition(scores_p, scores_q), rel=1e-10, abs=1e-13)
            log_p, log_q = log_probabilities(scores_p), log_probabilities(scores_q)
            for v in range(11):
                of_logits[row, k, v] = upstream[row, k] * (exp(log_q[v]) - exp(log_p[v]))
    inputs = [tensor for tensor in (hidden_q, head_q.weight, head_q.bias) if tensor is not None]
    expected = torch.autograd.grad(logits_q, inputs, of_logits)
    for _ in range(2):  # the first backward pass uses up what was kept, the second computes it again
        gradients = torch.autograd.grad((upstream * divergence).sum(), inputs, retain_graph=True)
        torch.testing.assert_close(gradients, expected, rtol=1e-10, atol=1e-12)


def test_the_reference_is_never_differentiated():
    hidden = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    heads = [make_head(), make_head()]
    linear_kl_divergence(hidden[0], heads[0], hidden[1], heads[1]).sum().backward()
    assert [hidden[0].grad, heads[0].weight.grad, heads[0].bias.grad] == [None] * 3
    assert all(tensor.grad.abs().max() > 0 for tensor in (hidden[1], heads[1].weight, heads[1].bias))


def test_a_frozen_head_gets_no_gradient():
    hidden, head = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), make_head(requires_grad=False)
    linear_kl_divergence(hidden.flip(0), head, hidden, head).sum().backward()
    assert head.weight.grad is None
    assert hidden.grad.abs().max() > 0


def test_value_and_gradient_are_zero_where_both_agree():
    hidden, head = torch.randn(5, 4, dtype=torch.float64, requires_grad=True), make_head()
    divergence = linear_kl_divergence(hidden, head, hidden, head)
    divergence.sum().backward()
    assert divergence.tolist() == [0.0] * 5
    assert not hidden.grad.any()
    assert not head.weight.grad.any()


def test_logits_are_made_once_where_they_fit_a_chunk_and_never_more(monkeypatch):
    hidden, head = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), make_head()
    heights = []
    whole = Head.wide_logits
    monkeypatch.setattr(Head, "wide_logits", lambda head, some: heights.append(len(some)) or whole(head, some))
    for chunk, expected in ((6 * 11, [6, 6]), (4 * 11, [4, 4, 2, 2, 4, 4, 2, 2])):
        chunked(monkeypatch, chunk, 10**6)
        heights.clear()
        linear_kl_divergence(hidden.flip(0), head, hidden, head).sum().backward()
        assert heights == expected


@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("chunk", [1, 44, 10**6])
def test_a_frozen_head_takes_no_second_logits(monkeypatch, chunk, softcap):
    """The gradient of the states is that beside a trained head, also in a second backward pass."""
    chunked(monkeypatch, chunk, 22)
    hidden, trained = torch.randn(6, 4, dtype=torch.float64, requires_grad=True), make_head(softcap=softcap)
    frozen, upstream = Head(trained.weight.detach(), trained.bias.detach(), softcap), torch.randn(6).double()
    (expected,) = torch.autograd.grad(upstream @ linear_kl_divergence(hidden.flip(0), trained, hidden, trained), hidden)
    whole, heights = Head.wide_logits, []
    monkeypatch.setattr(Head, "wide_logits", lambda head, some: heights.append(len(some)) or whole(head, some))
    divergence = linear_kl_divergence(hidden.flip(0), frozen, hidden, frozen)
    for _ in range(2):
        (gradient,) = torch.autograd.grad(upstream @ divergence, hidden, retain_graph=True)
        torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)
    assert sum(heights) == 2 * 6


def test_half_precision_states_give_the_divergence_of_exact_logits():
    hidden = torch.randn(8, 64).bfloat16().requires_grad_()
    head = Head((torch.randn(20000, 64) / 8).bfloat16().requires_grad_())
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, head.weight)]
    divergence = linear_kl_divergence(hidden.detach().flip(0), head, hidden, head)
    wanted = kl_divergence(Head(exact[1]).logits(exact[0].flip(0)).detach(), Head(exact[1]).logits(exact[0]))
    assert divergence.dtype is torch.float32
    torch.testing.assert_close(divergence.double(), wanted, rtol=0, atol=1e-4)
    gradients = torch.autograd.grad(divergence.mean(), (hidden, head.weight))
    for got, want in zip(gradients, torch.autograd.grad(wanted.mean(), exact), strict=True):
        assert got.dtype is torch.bfloat16
        torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=1e-5)


def test_under_autocast_states_and_heads_are_cast_as_a_linear_layers_are():
    hidden, weight = torch.randn(4, 16), torch.randn(300, 16)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        divergence = linear_kl_divergence(hidden, Head(weight), hidden.flip(0), Head(weight))
    cast = hidden.bfloat16(), Head(weight.bfloat16())
    torch.testing.assert_close(divergence, linear_kl_divergence(*cast, cast[0].flip(0), cast[1]), rtol=0, atol=0)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_any_shape_of_positions(shape):
    hidden, head = torch.randn(*shape, 4, requires_grad=True), Head(torch.randn(11, 4, requires_grad=True))
    divergence = linear_kl_divergence(hidden, head, hidden, head)
    divergence.sum().backward()
    assert divergence.shape == kl_divergence(hidden, hidden).shape == shape
    assert torch.equal(head.weight.grad, torch.zeros_like(head.weight))


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu(dtype):
    hidden, weight = torch.randn(64, 128), torch.randn(5000, 128) / 3
    on_cpu, on_gpu = (
        linear_kl_divergence(states, Head(matrix), states.flip(0), Head(matrix))
        for states, matrix in ((hidden.to(kind, dtype), weight.to(kind, dtype)) for kind in ("cpu", "cuda"))
    )
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, rtol=1e-3, atol=1e-3)
