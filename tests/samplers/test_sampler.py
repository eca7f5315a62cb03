import dataclasses

import pytest
import torch
from helpers import TINY, ScriptedDLM

from tabom.backbones import NewTinyDLM
from tabom.data.encoding import collate_prompts
from tabom.errors import TabomError
from tabom.samplers import Sampler
from tabom.types import Example

N = 6
SETTINGS = [
    {},
    {"score": "confidence"},
    {"tokens_per_step": 2},
    {"tokens_per_step": 4},
    {"temperature": 0.7},
    {"temperature": 0.7, "tokens_per_step": 2, "score": "confidence"},
]


def prompts(tokenizer, texts, response_length=N):
    items = [
        (Example(f"q/{text}", text, "x"), tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts
    ]
    return collate_prompts(
        items,
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        response_length=response_length,
    )


def canvas_of(batch, response):
    return torch.cat([batch.noisy_ids[:, : -response.shape[1]], response], 1)


@pytest.fixture(scope="module")
def backbone(tokenizer):
    torch.manual_seed(1)
    return NewTinyDLM(**TINY, initializer_range=0.7).load(tokenizer).eval()


@pytest.mark.parametrize("settings", SETTINGS)
def test_every_token_is_revealed_once(backbone, tokenizer, settings):
    decoded = Sampler(**settings).decode(backbone, prompts(tokenizer, ["abc", "xyz", "1"]))
    per_step = settings.get("tokens_per_step", 1)
    for steps in decoded.unmask_step.tolist():
        counts = [steps.count(step) for step in range(max(steps) + 1)]
        assert sum(counts) == N
        assert all(count == per_step for count in counts[:-1])
        assert 1 <= counts[-1] <= per_step
    assert (decoded.response_ids != tokenizer.mask_token_id).all()


@pytest.mark.parametrize("settings", SETTINGS)
def test_replaying_unmask_step_reproduces_every_state(backbone, tokenizer, settings):
    """At each state the model, asked afresh, gives the recorded entropies, and the revealed positions come first."""
    batch = prompts(tokenizer, ["abc", "hello"])
    sampler = Sampler(**settings)
    decoded = sampler.decode(backbone, batch)
    for step in range(int(decoded.unmask_step.max()) + 1):
        is_masked = decoded.unmask_step >= step
        state = canvas_of(batch, decoded.response_ids.masked_fill(is_masked, tokenizer.mask_token_id))
        with torch.no_grad():
            log_probs = backbone.logits(backbone(state, batch.attention_mask)[:, -N:]).log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        torch.testing.assert_close(decoded.step_entropy[:, step][is_masked], entropy[is_masked])
        assert decoded.step_entropy[:, step][~is_masked].isnan().all()

        is_revealed = decoded.unmask_step == step
        torch.testing.assert_close(decoded.unmask_entropy[is_revealed], entropy[is_revealed])
        cost = entropy if sampler.score == "entropy" else -log_probs.amax(-1).exp()
        for row in range(len(cost)):
            kept = cost[row][is_masked[row] & ~is_revealed[row]]
            assert not len(kept) or cost[row][is_revealed[row]].max() <= kept.min() + 2e-5
        if sampler.temperature == 0:
            assert (decoded.response_ids[is_revealed] == log_probs.argmax(-1)[is_revealed]).all()


@pytest.mark.parametrize("settings", SETTINGS)
def test_batch_of_one_and_batch_of_many_give_the_same_trajectory(backbone, tokenizer, settings):
    texts = ["abc", "a longer prompt with padding on the others", "1", "def f(x):", "zz"]
    together = Sampler(**settings).decode(backbone, prompts(tokenizer, texts))
    for row, text in enumerate(texts):
        alone = Sampler(**settings).decode(backbone, prompts(tokenizer, [text]))
        assert alone.response_ids[0].tolist() == together.response_ids[row].tolist()
        assert alone.unmask_step[0].tolist() == together.unmask_step[row].tolist()
        torch.testing.assert_close(alone.unmask_entropy[0], together.unmask_entropy[row], rtol=1e-4, atol=1e-5)


def test_the_prompt_and_the_batch_are_not_touched(backbone, tokenizer):
    batch = prompts(tokenizer, ["abc", "de"])
    before = batch.noisy_ids.clone()
    Sampler().decode(backbone, batch)
    assert torch.equal(batch.noisy_ids, before)


def test_order_of_a_known_table(tokenizer):
    """Logit gaps of 3, 1, 2 nats: position 0 is surest, then 2, then 1."""
    model = ScriptedDLM([[0.0, 3.0, 0.0], [0.0, 0.0, 1.0], [0.0, 2.0, 0.0]])
    batch = prompts(tokenizer, ["a"], response_length=3)
    batch = dataclasses.replace(batch, noisy_ids=batch.noisy_ids.masked_fill(batch.is_response, 0))
    for score in ("entropy", "confidence"):
        decoded = Sampler(score).decode(model, batch)
        assert decoded.unmask_step.tolist() == [[0, 2, 1]]
        assert decoded.response_ids.tolist() == [[1, 2, 1]]
    assert model.num_calls == 2 * 3


def test_entropy_and_confidence_differ_where_they_should(tokenizer):
    """Top-1 0.5 against 0.45, but a flat rest against a second peak: H = 1.04 + ... decides the other way round."""
    first = torch.tensor([0.0001, 0.5, 0.125, 0.125, 0.125, 0.1249]).log()
    second = torch.tensor([0.0001, 0.45, 0.45, 0.0333, 0.0333, 0.0333]).log()
    model = ScriptedDLM(torch.stack([first, second]))
    batch = prompts(tokenizer, ["a"], response_length=2)
    assert Sampler("confidence").decode(model, batch).unmask_step.tolist() == [[0, 1]]
    assert Sampler("entropy").decode(model, batch).unmask_step.tolist() == [[1, 0]]


def test_ties_go_to_the_lowest_position_even_with_noise_in_the_last_bits(tokenizer):
    noise = torch.tensor([[0.0], [-3e-7], [3e-7]])
    model = ScriptedDLM(torch.tensor([[0.0, 1.0, 0.0]]).repeat(3, 1) + noise * torch.tensor([0.0, 1.0, 0.0]))
    batch = prompts(tokenizer, ["a"], response_length=3)
    assert Sampler().decode(model, batch).unmask_step.tolist() == [[0, 1, 2]]


def test_the_mask_token_is_never_chosen(tokenizer):
    model = ScriptedDLM([[9.0, 1.0, 0.0], [9.0, 0.0, 1.0]], mask_token_id=0)
    batch = prompts(tokenizer, ["a"], response_length=2)
    for temperature in (0.0, 1.0):
        assert (Sampler(temperature=temperature).decode(model, batch).response_ids != 0).all()


def test_temperature_draws_from_the_distribution(tokenizer):
    """P(1) = 0.2 and P(2) = 0.8 at temperature 1; at 0.5 odds are squared: 0.04 / 0.68 and 0.64 / 0.68."""
    model = ScriptedDLM(torch.tensor([[1e-9, 0.2, 0.8]]).log())
    texts = [str(number) for number in range(2000)]
    batch = prompts(tokenizer, texts, response_length=1)
    for temperature, expected in ((1.0, 0.2), (0.5, 0.04 / 0.68)):
        share = (Sampler(temperature=temperature).decode(model, batch).response_ids == 1).float().mean()
        assert abs(share - expected) < 4 * (expected * (1 - expected) / 2000) ** 0.5


def test_noise_depends_on_seed_and_query(backbone, tokenizer):
    batch = prompts(tokenizer, ["abc", "abcd"])
    first, again, other = (
        Sampler(temperature=2.0, seed=seed).decode(backbone, batch).response_ids for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tokens_per_step": 0}, "tokens_per_step: expected at least 1, got 0"),
        ({"temperature": -0.1}, "temperature: expected at least 0, got -0.1"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(TabomError) as error:
        Sampler(**settings)
    assert str(error.value) == message


def test_settings_make_the_same_sampler():
    sampler = Sampler("confidence", 3, 0.5, 7)
    assert Sampler(**sampler.settings()).settings() == sampler.settings()
    assert sampler.with_tokens_per_step(2).settings() == {**sampler.settings(), "tokens_per_step": 2}
