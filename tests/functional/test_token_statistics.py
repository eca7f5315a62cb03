"""Negative log-likelihood and entropy: values in nats, precision, gradients."""

from math import exp, log

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tabom.functional import head as head_module
from tabom.functional import token_statistics as module
from tabom.functional.head import Head
from tabom.functional.token_statistics import linear_token_statistics, token_statistics

score_lists = st.lists(st.floats(-30, 30), min_size=1, max_size=7)


def statistics_of(logits, targets, **options):
    """With a gradient: the hidden states are the logits, the head is the identity."""
    return linear_token_statistics(logits, Head(torch.eye(logits.shape[-1], dtype=logits.dtype)), targets, **options)


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


@given(score_lists, st.data())
def test_equals_the_sums_of_the_definition(scores, data):
    target = data.draw(st.integers(0, len(scores) - 1))
    statistics = token_statistics(torch.tensor([scores], dtype=torch.float64), torch.tensor([target]))
    log_probs = log_probabilities(scores)
    entropy = -sum(p * log_p for p, log_p in zip(probabilities(scores), log_probs, strict=True))
    assert statistics.nll.item() == pytest.approx(-log_probs[target], rel=1e-9, abs=1e-12)
    assert statistics.entropy.item() == pytest.approx(entropy, rel=1e-9, abs=1e-12)


@given(score_lists, st.floats(-20, 20))
def test_adding_a_constant_to_all_logits_changes_nothing(scores, constant):
    logits, target = torch.tensor([scores], dtype=torch.float64), torch.tensor([0])
    moved, unmoved = token_statistics(logits + constant, target), token_statistics(logits, target)
    torch.testing.assert_close(moved[:3], unmoved[:3])  # which of two is the larger, rounding may decide


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


def test_float64_stays_float64():
    logits = torch.randn(2, 3, dtype=torch.float64)
    assert token_statistics(logits, torch.tensor([0, 1])).entropy.dtype is torch.float64


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
    statistics = statistics_of(logits, torch.tensor([0, 2]))
    (statistics.nll.sum() + statistics.entropy.sum()).backward()
    gap = (logits[0, 0] - logits[0, 2]).double().item()
    assert statistics.nll.tolist() == [0.0, pytest.approx(gap, rel=1e-2)]
    assert statistics.entropy.tolist() == [0.0, 0.0]
    assert logits.grad.tolist() == [[0.0, 0.0, 0.0], [1.0, 0.0, -1.0]]


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_any_shape_of_positions(shape):
    logits = torch.randn(*shape, 5)
    statistics = token_statistics(logits, torch.zeros(shape, dtype=torch.long))
    assert statistics.nll.shape == statistics.entropy.shape == shape


def test_arguments_are_not_changed():
    logits, targets = torch.randn(2, 3), torch.tensor([0, 2])
    before = logits.clone(), targets.clone()
    token_statistics(logits, targets)
    torch.testing.assert_close((logits, targets), before, rtol=0, atol=0)


def test_gradient_of_the_entropy_by_hand():
    logits = torch.tensor([[0.5, 0.25, 0.25]], dtype=torch.float64).log().requires_grad_()
    statistics_of(logits, torch.tensor([0])).entropy.sum().backward()
    entropy = 0.5 * log(2) + 0.5 * log(4)
    expected = [-0.5 * (log(0.5) + entropy), -0.25 * (log(0.25) + entropy), -0.25 * (log(0.25) + entropy)]
    torch.testing.assert_close(logits.grad, torch.tensor([expected], dtype=torch.float64))


def plain(hidden, head, ids, temperature=1.0):
    """The definitions on whole tensors, differentiated by autograd."""
    logits = head.logits(hidden)
    log_probs, tempered = logits.log_softmax(-1), (logits / temperature).log_softmax(-1)
    return (
        -log_probs.gather(-1, ids[..., :1])[..., 0],
        -(tempered.exp() * tempered).sum(-1),
        log_probs.exp().amax(-1),
        -log_probs.gather(-1, ids[..., 1:])[..., 0],
    )


def differentiable(statistics):
    return statistics.nll, statistics.entropy, statistics.confidence, statistics.sampled_nll


def make_head(dtype=torch.float64, *, bias=True, softcap=None, vocabulary=11, width=4):
    weight = torch.randn(vocabulary, width, dtype=dtype, requires_grad=True)
    return Head(weight, torch.randn(vocabulary, dtype=dtype, requires_grad=True) if bias else None, softcap)


def chunked(monkeypatch, chunk, block):
    monkeypatch.setitem(module._CHUNK_NUMBERS, "cpu", chunk)
    monkeypatch.setitem(module._BLOCK_NUMBERS, "cpu", block)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(("bias", "softcap"), [(False, None), (True, 1.5)])
@pytest.mark.parametrize(("chunk", "block"), [(1, 1), (33, 22), (44, 10**6), (10**6, 22), (10**6, 10**6)])
def test_values_and_gradients_are_exact_whatever_the_chunk(monkeypatch, chunk, block, bias, softcap, temperature):
    chunked(monkeypatch, chunk, block)
    hidden = torch.randn(2, 4, 4, dtype=torch.float64, requires_grad=True)
    head = make_head(bias=bias, softcap=softcap)
    ids, weights = torch.randint(0, 11, (2, 4, 2)), torch.randn(4, 2, 4, dtype=torch.float64)
    statistics = linear_token_statistics(
        hidden, head, ids[..., 0], sampled_ids=ids[..., 1], entropy_temperature=temperature
    )
    expected = plain(hidden, head, ids, temperature)
    for got, want in zip(differentiable(statistics), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-14)
    assert torch.equal(statistics.is_correct, head.logits(hidden).argmax(-1) == ids[..., 0])
    inputs = [tensor for tensor in (hidden, head.weight, head.bias) if tensor is not None]
    losses = [
        sum((w * v).sum() for w, v in zip(weights, values, strict=True))
        for values in (differentiable(statistics), expected)
    ]
    wanted = torch.autograd.grad(losses[1], inputs)
    for _ in range(2):  # the first backward pass uses up what was kept, the second computes it again
        gradients = torch.autograd.grad(losses[0], inputs, retain_graph=True)
        torch.testing.assert_close(gradients, wanted, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["nll", "entropy", "confidence", "sampled_nll"])
def test_gradient_of_each_alone(name):
    hidden, head, ids = torch.randn(3, 4, dtype=torch.float64, requires_grad=True), make_head(), torch.arange(6)
    statistics = linear_token_statistics(hidden, head, ids[:3], sampled_ids=ids[3:], entropy_temperature=0.7)
    expected = dict(
        zip(
            ("nll", "entropy", "confidence", "sampled_nll"),
            plain(hidden, head, ids.view(2, 3).t(), 0.7),
            strict=True,
        )
    )
    inputs = [hidden, head.weight, head.bias]
    got = torch.autograd.grad(getattr(statistics, name).sum(), inputs)
    torch.testing.assert_close(got, torch.autograd.grad(expected[name].sum(), inputs), rtol=1e-10, atol=1e-12)


def test_float32_gradients_equal_those_of_float64():
    hidden, weight, ids = torch.randn(6, 32), torch.randn(5000, 32) / 6, torch.arange(6)

    def gradients(dtype):
        inputs = [hidden.to(dtype).requires_grad_(), weight.to(dtype).requires_grad_()]
        statistics = linear_token_statistics(inputs[0], Head(inputs[1]), ids)
        return torch.autograd.grad(statistics.nll.mean() + statistics.entropy.mean(), inputs)

    for narrow, wide in zip(gradients(torch.float32), gradients(torch.float64), strict=True):
        torch.testing.assert_close(narrow.double(), wide, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("tile", [1, 2**22])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_states_give_entropies_of_exact_logits(monkeypatch, dtype, tile):
    """At the same logits: those of the rounded states and weights, computed in float64."""
    monkeypatch.setattr(head_module, "_TILE_NUMBERS", 100 * tile)
    hidden = torch.randn(8, 64, dtype=dtype, requires_grad=True)
    head = Head((torch.randn(20000, 64) / 2).to(dtype).requires_grad_())
    ids = torch.arange(8)
    statistics = linear_token_statistics(hidden, head, ids)
    exact = [tensor.detach().double().requires_grad_() for tensor in (hidden, head.weight)]
    nll, entropy, confidence, _ = plain(exact[0], Head(exact[1]), ids[:, None].expand(8, 2))
    assert statistics.nll.dtype is statistics.entropy.dtype is torch.float32
    torch.testing.assert_close(statistics.nll.double(), nll, rtol=0, atol=1e-4)
    torch.testing.assert_close(statistics.entropy.double(), entropy, rtol=0, atol=1e-4)
    torch.testing.assert_close(statistics.confidence.double(), confidence, rtol=0, atol=1e-5)
    rounded = token_statistics(head.logits(hidden), ids).entropy.double()
    if dtype is torch.bfloat16:
        assert (rounded - entropy).abs().max() > 1e-3  # what rounding the logits would cost
    gradients = torch.autograd.grad(statistics.nll.mean() + statistics.entropy.mean(), (hidden, head.weight))
    wanted = torch.autograd.grad(nll.mean() + entropy.mean(), exact)
    for got, want in zip(gradients, wanted, strict=True):
        assert got.dtype is dtype
        torch.testing.assert_close(got.double(), want, rtol=2e-2, atol=1e-5)


def test_under_autocast_states_and_head_are_cast_as_a_linear_layers_are():
    hidden, weight, ids = torch.randn(4, 16), torch.randn(300, 16), torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        statistics = linear_token_statistics(hidden, Head(weight), ids)
    cast = hidden.bfloat16(), Head(weight.bfloat16())
    torch.testing.assert_close(statistics, linear_token_statistics(*cast, ids), rtol=0, atol=0)


def test_autocast_leaves_float64_alone():
    inputs = torch.randn(4, 16, dtype=torch.float64), Head(torch.randn(300, 16, dtype=torch.float64)), torch.arange(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = linear_token_statistics(*inputs)
    torch.testing.assert_close(inside, linear_token_statistics(*inputs), rtol=0, atol=0)


def test_a_frozen_head_gets_no_gradient():
    hidden, head = torch.randn(3, 4, requires_grad=True), Head(torch.randn(11, 4))
    statistics = linear_token_statistics(hidden, head, torch.arange(3))
    statistics.entropy.sum().backward()
    assert head.weight.grad is None
    assert hidden.grad is not None


def test_logits_are_kept_where_they_fit_a_chunk_and_never_more(monkeypatch):
    hidden, head = torch.randn(6, 4, requires_grad=True), make_head(torch.float32)
    heights = []
    whole = Head.wide_logits
    monkeypatch.setattr(Head, "wide_logits", lambda head, some: heights.append(len(some)) or whole(head, some))
    for chunk, expected in ((6 * 11, [6]), (4 * 11, [4, 2, 4, 2])):
        chunked(monkeypatch, chunk, 10**6)
        heights.clear()
        linear_token_statistics(hidden, head, torch.arange(6)).entropy.sum().backward()
        assert heights == expected
    with torch.no_grad():
        assert linear_token_statistics(hidden, head, torch.arange(6)).entropy.grad_fn is None


@pytest.mark.parametrize("vocabulary", [1, 2, 1024, 2049, 3000, 4096])
def test_the_first_of_equal_peaks_counts(vocabulary):
    logits = torch.randint(0, 3, (40, vocabulary)).float()
    logits[0, -1] = logits[1, 0] = 7.0
    first = (logits == logits.amax(1, keepdim=True)).int().argmax(1)
    assert token_statistics(logits, first).is_correct.all()
    assert not token_statistics(logits, (first + 1) % vocabulary).is_correct.any() or vocabulary == 1


def test_statistics_of_logits_are_not_differentiated():
    assert token_statistics(torch.zeros(1, 3, requires_grad=True), torch.tensor([0])).nll.grad_fn is None


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_on_a_gpu(dtype):
    hidden, weight, ids = torch.randn(64, 128), torch.randn(5000, 128) / 3, torch.arange(64)
    on_cpu, on_gpu = (
        linear_token_statistics(hidden.to(device, dtype), Head(weight.to(device, dtype)), ids.to(device))
        for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(on_gpu.entropy.cpu(), on_cpu.entropy, rtol=0, atol=1e-3)
    torch.testing.assert_close(on_gpu.nll.cpu(), on_cpu.nll, rtol=0, atol=1e-3)


def test_no_positions():
    hidden, head = torch.zeros(0, 4, requires_grad=True), make_head(torch.float32)
    statistics = linear_token_statistics(hidden, head, torch.zeros(0, dtype=torch.long))
    assert [values.shape for values in statistics[:4]] == [(0,)] * 4
    statistics.nll.sum().backward()
    assert torch.equal(head.weight.grad, torch.zeros_like(head.weight))
