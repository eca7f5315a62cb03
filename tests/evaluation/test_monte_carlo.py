"""Likelihoods of a model that is small enough to sum over all masks."""

import itertools
import math

import pytest
import torch

from tabom.backbones import PretrainedBackbone
from tabom.errors import TabomError
from tabom.evaluation import MonteCarlo
from tabom.types import SpecialIds

PROMPT, CONTINUATION = [10, 11, 12], [20, 21, 22, 23, 24]


@pytest.fixture(scope="module")
def backbone(checkpoint, tokenizer):
    return PretrainedBackbone(str(checkpoint)).load(tokenizer).eval()


@pytest.fixture(scope="module")
def estimate(backbone, tokenizer):
    ids = SpecialIds.of(tokenizer)

    def estimated(num_samples, request="a", prompt=PROMPT, continuation=CONTINUATION, greedy=False, **settings):
        settings = MonteCarlo(num_samples, **settings)
        return settings.estimate(backbone, prompt, continuation, request, ids=ids, needs_greedy=greedy)

    return estimated


@torch.inference_mode()
def exact(backbone, prompt, continuation, mask_token_id):
    """Mean over k of N / k times the mean, over all masks of k positions, of the log-likelihood of what is masked."""
    length, total = len(continuation), 0.0
    for mask in itertools.product([False, True], repeat=length):
        k = sum(mask)
        if k == 0:
            continue
        seen = [mask_token_id if hidden else token for hidden, token in zip(mask, continuation, strict=True)]
        ids = torch.tensor([[*prompt, *seen]])
        logits = backbone.logits(backbone(ids, torch.ones_like(ids, dtype=torch.bool)))[0, len(prompt) :]
        chosen = logits.double().log_softmax(-1)[range(length), continuation]
        total += float(chosen[torch.tensor(mask)].sum()) * length / k / math.comb(length, k) / length
    return total


@pytest.mark.parametrize("prompt", [PROMPT, []], ids=["prompt", "no prompt"])
def test_converges_to_the_exact_value(backbone, estimate, tokenizer, prompt):
    expected = exact(backbone, prompt, CONTINUATION, tokenizer.mask_token_id)
    errors = []
    for num_samples in (100, 1600, 6400):
        found = estimate(num_samples, prompt=prompt, batch_size=800)
        assert abs(found.log_likelihood - expected) < 4 * found.standard_error
        errors.append(found.standard_error)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)
    assert errors[2] < 0.01 * abs(expected)


def test_mean_over_requests_is_the_exact_value_with_few_samples_too(backbone, estimate, tokenizer):
    expected = exact(backbone, PROMPT, CONTINUATION, tokenizer.mask_token_id)
    found = torch.tensor([estimate(3, request=str(number)).log_likelihood for number in range(400)])
    assert abs(found.mean() - expected) < 4 * found.std() / 20


def test_the_same_request_gets_the_same_masks_however_they_are_batched(estimate):
    whole, again, parts = estimate(10), estimate(10), estimate(10, batch_size=3)
    assert whole == again
    assert parts.log_likelihood == pytest.approx(whole.log_likelihood, abs=1e-4)
    assert estimate(10, request="b") != whole
    assert estimate(10, seed=1) != whole


def test_greedy_continuation(backbone, estimate, tokenizer):
    from tabom.data.encoding import collate_prompts
    from tabom.samplers import Sampler
    from tabom.types import Example

    ids = SpecialIds.of(tokenizer)
    batch = collate_prompts(
        [(Example("a", "", ""), PROMPT)], pad_token_id=ids.pad, mask_token_id=ids.mask, response_length=4
    )
    greedy = Sampler("confidence").decode(backbone, batch).response_ids[0].tolist()
    assert estimate(1, continuation=greedy, greedy=True).is_greedy
    other = [*greedy[:-1], greedy[-1] + 1 if greedy[-1] < 50 else greedy[-1] - 1]
    assert not estimate(1, continuation=other, greedy=True).is_greedy
    assert not estimate(1, continuation=greedy, greedy=False).is_greedy


def test_nothing_is_certain(estimate):
    found = estimate(4, continuation=[])
    assert (found.log_likelihood, found.is_greedy) == (0.0, True)


def test_a_single_sample_has_no_error(estimate):
    assert estimate(1).standard_error is None


@pytest.mark.parametrize("name", ["num_samples", "batch_size", "context_length"])
def test_bad_numbers(name):
    with pytest.raises(TabomError, match=rf"^{name}: expected at least 1, got 0$"):
        MonteCarlo(**{name: 0})


class TestBlocks:
    """A block-causal model: the bound is a sum over blocks, each given the clean ones before it."""

    def estimated(self, backbone, tokenizer, num_samples):
        method, ids = MonteCarlo(num_samples, batch_size=800), SpecialIds.of(tokenizer)
        return method.estimate(backbone, PROMPT, CONTINUATION, "a", ids=ids, needs_greedy=False)

    def test_converges_to_the_sum_over_blocks(self, checkpoint, tokenizer):
        """The second block begins with the last token of the prompt."""
        backbone = PretrainedBackbone(str(checkpoint), attention="block_causal", block_size=2).load(tokenizer).eval()
        expected, ids = 0.0, [*PROMPT, *CONTINUATION]
        for start, end in ((3, 4), (4, 6), (6, 8)):
            expected += exact(backbone, ids[:start], ids[start:end], tokenizer.mask_token_id)
        found = self.estimated(backbone, tokenizer, 1600)
        assert abs(found.log_likelihood - expected) < 4 * found.standard_error
        assert found.standard_error < 0.02 * abs(expected)

    def test_blocks_of_one_are_a_causal_model(self, checkpoint, tokenizer):
        options = {"shift": True}
        blocks, causal = (
            PretrainedBackbone(str(checkpoint), attention=attention, block_size=size, **options).load(tokenizer).eval()
            for attention, size in (("block_causal", 1), ("causal", None))
        )
        ids = torch.tensor([[*PROMPT, *CONTINUATION]])
        with torch.inference_mode():
            logits = causal.logits(causal(ids, torch.ones_like(ids, dtype=torch.bool)))[0, len(PROMPT) :]
        expected = logits.double().log_softmax(-1)[range(len(CONTINUATION)), CONTINUATION].sum()
        found = self.estimated(blocks, tokenizer, 3)
        assert found.log_likelihood == pytest.approx(float(expected), rel=1e-6)
        assert found.standard_error == pytest.approx(0.0, abs=1e-5)
