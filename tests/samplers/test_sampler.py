import dataclasses
import itertools
import json
import math

import pytest
import torch
from helpers import TINY, ScriptedDLM, decode_with_scores
from jsonargparse import ArgumentParser

from tabom.backbones import NewTinyDLM
from tabom.data.encoding import collate_prompts
from tabom.errors import TabomError
from tabom.samplers import (
    AncestralUnmasking,
    ConfidenceThreshold,
    EntropyBound,
    EvenSplit,
    FixedTokens,
    LinearTimesteps,
    Sampler,
    Schedule,
    TraceCredit,
)
from tabom.samplers.trace import Trace
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
OPTIONS = [
    {"score": "margin", "tokens_per_step": 3, "block_length": 4},
    {"score": "margin", "schedule": ConfidenceThreshold(0.3), "block_length": 3, "temperature": 0.7},
    {"schedule": EntropyBound(1.0), "block_length": 4},
    {"schedule": EntropyBound(2.0), "score": "confidence", "deferred_token_ids": tuple(range(10, 40))},
    {"schedule": ConfidenceThreshold(0.25), "deferred_token_ids": tuple(range(10, 40))},
    {"schedule": LinearTimesteps(6), "temperature": 0.7, "top_p": 0.9, "top_k": 5, "score_distribution": "sampling"},
    {"schedule": LinearTimesteps(3), "score_temperature": 0.5},
    {"schedule": AncestralUnmasking(4), "score": "confidence", "block_length": 3},
    {"schedule": EvenSplit(4), "score": "random", "block_length": 3, "forbidden_token_ids": (7, 9)},
    {"score": "confidence", "cfg_scale": 0.5, "temperature": 0.7},
    {"score": "confidence", "block_length": 2, "trace_credit": TraceCredit()},
]

GUIDED = OPTIONS[-2]


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


@pytest.mark.parametrize("settings", OPTIONS)
def test_blocks_are_revealed_from_left_to_right(backbone, tokenizer, settings):
    sampler = Sampler(**settings)
    decoded = sampler.decode(backbone, prompts(tokenizer, ["abc", "xyz", "1"]))
    assert (decoded.response_ids != tokenizer.mask_token_id).all()
    for steps in decoded.unmask_step.tolist():
        length = sampler.block_length or N
        blocks = [steps[start : start + length] for start in range(0, N, length)]
        assert all(max(block) < min(after) for block, after in itertools.pairwise(blocks))
        assert 0 <= min(steps) <= max(steps) < sampler.num_steps(N)


@pytest.mark.parametrize("options", [{}, {"deferred_token_ids": tuple(range(10, 40)), "block_length": 4}])
@pytest.mark.parametrize("score", ["entropy", "confidence", "random", "position"])
def test_without_whole_logits_everything_is_the_same(backbone, tokenizer, monkeypatch, score, options):
    sampler, batch = Sampler(score, **options), prompts(tokenizer, ["abc", "xyz", "1"])
    assert not sampler._needs_logits
    found = decode_with_scores(sampler, backbone, batch)
    monkeypatch.setattr(Sampler, "_needs_logits", True)
    expected = decode_with_scores(sampler, backbone, batch)
    assert torch.equal(found[0].response_ids, expected[0].response_ids)
    assert torch.equal(found[0].unmask_step, expected[0].unmask_step)
    torch.testing.assert_close(found[0].unmask_entropy, expected[0].unmask_entropy, rtol=0, atol=1e-5)
    torch.testing.assert_close(found[1], expected[1], rtol=0, atol=1e-5)


def state_logits(backbone, sampler, batch, decoded, step):
    """The model asked afresh at the state before ``step``: logits of the response."""
    is_masked = decoded.unmask_step >= step
    state = canvas_of(batch, decoded.response_ids.masked_fill(is_masked, backbone.mask_token_id))
    with torch.no_grad():
        logits = backbone.logits(backbone(state, batch.attention_mask)[:, -N:])
        if sampler.cfg_scale > 0:
            state = state.masked_fill(~batch.is_response, backbone.mask_token_id)
            without = backbone.logits(backbone(state, batch.attention_mask)[:, -N:])
            logits = (sampler.cfg_scale + 1) * logits - sampler.cfg_scale * without
    logits[..., list(sampler.forbidden_token_ids)] = torch.finfo(logits.dtype).min
    return is_masked, logits


@pytest.mark.parametrize("settings", SETTINGS + OPTIONS)
def test_replaying_unmask_step_reproduces_every_state(backbone, tokenizer, settings):
    """At each state the model, asked afresh, gives the recorded entropies, also of positions in later blocks."""
    batch = prompts(tokenizer, ["abc", "hello"])
    sampler = Sampler(**settings)
    decoded = sampler.decode(backbone, batch, record_steps=True)
    assert decoded.step_entropy.shape == (2, sampler.num_steps(N), N)
    for step in range(sampler.num_steps(N)):
        is_masked, logits = state_logits(backbone, sampler, batch, decoded, step)
        log_probs = logits.log_softmax(-1)
        entropy = -(log_probs.exp() * log_probs).sum(-1)
        is_revealed = decoded.unmask_step == step
        torch.testing.assert_close(decoded.step_entropy[:, step][is_masked], entropy[is_masked], rtol=1e-4, atol=1e-4)
        assert decoded.step_entropy[:, step][~is_masked].isnan().all()
        recorded = decoded.unmask_entropy[is_revealed]
        torch.testing.assert_close(recorded, entropy[is_revealed], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("settings", [*SETTINGS, OPTIONS[0], GUIDED])
def test_the_surest_positions_of_the_block_come_first(backbone, tokenizer, settings):
    batch = prompts(tokenizer, ["abc", "hello"])
    sampler = Sampler(**settings)
    decoded, scores_then = decode_with_scores(sampler, backbone, batch)
    block = torch.arange(N) // (sampler.block_length or N)
    for step in range(int(decoded.unmask_step.max()) + 1):
        is_masked, logits = state_logits(backbone, sampler, batch, decoded, step)
        probs = logits.softmax(-1)
        is_revealed = decoded.unmask_step == step
        scores = {
            "entropy": (probs * probs.log()).sum(-1),
            "confidence": probs.gather(-1, decoded.response_ids[..., None])[..., 0],
            "margin": -probs.topk(2).values.diff()[..., 0],
        }
        score = scores[sampler.score]
        torch.testing.assert_close(scores_then[is_revealed], score[is_revealed], rtol=1e-4, atol=1e-4)
        if sampler.temperature == 0:
            assert (decoded.response_ids[is_revealed] == logits.argmax(-1)[is_revealed]).all()
        elif sampler.score == "confidence":
            continue  # ranked by tokens that were drawn and not kept
        for row in range(2):
            kept = is_masked[row] & ~is_revealed[row] & (block == block[is_revealed[row]].max())
            assert not kept.any() or score[row][is_revealed[row]].min() >= score[row][kept].max() - 2e-5


def test_later_blocks_are_looked_at_in_pieces(backbone, tokenizer, monkeypatch):
    batch, sampler, sizes = prompts(tokenizer, ["abc", "hello"]), Sampler(block_length=1), []
    whole = sampler.decode(backbone, batch, record_steps=True)
    look_at = Trace.look_at

    def noted(self, positions, entropy):
        sizes.append(len(entropy))
        look_at(self, positions, entropy)

    monkeypatch.setattr(Trace, "look_at", noted)
    monkeypatch.setattr("tabom.samplers.sampler._WAITING_AT_ONCE", 3)
    pieces = sampler.decode(backbone, batch, record_steps=True)
    assert max(sizes) == 3
    torch.testing.assert_close(pieces.step_entropy, whole.step_entropy, equal_nan=True)


@pytest.mark.parametrize("settings", SETTINGS + OPTIONS)
def test_recording_steps_changes_nothing(backbone, tokenizer, settings):
    batch = prompts(tokenizer, ["abc", "hello"])
    plain, recorded = (Sampler(**settings).decode(backbone, batch, record_steps=record) for record in (False, True))
    assert plain.step_entropy is None
    assert torch.equal(plain.response_ids, recorded.response_ids)
    assert torch.equal(plain.unmask_step, recorded.unmask_step)


@pytest.mark.parametrize("settings", SETTINGS + OPTIONS)
def test_batch_of_one_and_batch_of_many_give_the_same_trajectory(backbone, tokenizer, settings):
    texts = ["abc", "a longer prompt with padding on the others", "1", "def f(x):", "zz"]
    together, scores = decode_with_scores(Sampler(**settings), backbone, prompts(tokenizer, texts))
    for row, text in enumerate(texts):
        alone, scores_alone = decode_with_scores(Sampler(**settings), backbone, prompts(tokenizer, [text]))
        assert alone.response_ids[0].tolist() == together.response_ids[row].tolist()
        assert alone.unmask_step[0].tolist() == together.unmask_step[row].tolist()
        torch.testing.assert_close(alone.unmask_entropy[0], together.unmask_entropy[row], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(scores_alone[0], scores[row], rtol=1e-4, atol=1e-4)


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


def scripted(tokenizer, probabilities, **settings):
    """Decode one row by a table of probabilities (N, V); token 0 is the mask."""
    return scored(tokenizer, probabilities, **settings)[0]


def scored(tokenizer, probabilities, **settings):
    """Likewise, with the scores."""
    table = torch.tensor(probabilities).clamp(min=1e-9).log()
    batch = prompts(tokenizer, ["a"], response_length=len(table))
    return decode_with_scores(Sampler(**settings), ScriptedDLM(table), batch)


def test_margin_and_confidence_differ_where_they_should(tokenizer):
    """0.5 - 0.4 against 0.45 - 0.1; the mask token, with 0.3 in the second row, is no runner-up."""
    table = [[0.0, 0.5, 0.4, 0.1, 0.0], [0.3, 0.45, 0.1, 0.1, 0.05]]
    assert scripted(tokenizer, table, score="confidence").unmask_step.tolist() == [[0, 1]]
    decoded, scores = scored(tokenizer, table, score="margin")
    assert decoded.unmask_step.tolist() == [[1, 0]]
    torch.testing.assert_close(scores, torch.tensor([[0.1, 0.35]]))


def test_confidence_is_that_of_the_drawn_token(tokenizer):
    """Whatever is drawn at temperature 5, its probability at temperature 1 is the score."""
    table = torch.tensor([[1e-9, 0.6, 0.3, 0.1]] * 40)
    decoded, scores = scored(tokenizer, table.tolist(), score="confidence", temperature=5.0, tokens_per_step=40)
    assert decoded.response_ids.unique().tolist() == [1, 2, 3]
    torch.testing.assert_close(scores, table[0, decoded.response_ids])


def test_scores_of_the_sampling_distribution(tokenizer):
    """Tempered at 0.5 the odds 0.6 : 0.3 : 0.1 are 36 : 9 : 1; the filter leaves the first two: 0.8 and 0.2."""
    table = [[0.0, 0.6, 0.3, 0.1]]
    filtered = {"score": "margin", "score_distribution": "sampling", "temperature": 0.5}
    for options in ({"top_k": 2}, {"top_p": 0.9}, {"top_p": 1.0, "top_k": 2}):
        decoded, scores = scored(tokenizer, table, **filtered, **options)
        torch.testing.assert_close(scores, torch.tensor([[0.6]]))
        entropy = -sum(p * math.log(p) for p in (0.6, 0.3, 0.1))
        torch.testing.assert_close(decoded.unmask_entropy, torch.tensor([[entropy]]))
    _, scores = scored(tokenizer, table, **{**filtered, "score_distribution": "model"}, top_k=1)
    torch.testing.assert_close(scores, torch.tensor([[0.3]]))


def test_filters_at_temperature_0_change_scores_alone(tokenizer):
    """Filtered to one token each, every score is 1, and ties go to the lowest position."""
    table = [[0.0, 0.5, 0.4, 0.1], [0.0, 0.1, 0.1, 0.8]]
    filtered = scripted(tokenizer, table, score="confidence", score_distribution="sampling", top_k=1)
    assert filtered.unmask_step.tolist() == [[0, 1]]
    assert filtered.response_ids.tolist() == [[1, 3]]
    assert scripted(tokenizer, table, score="confidence", top_k=1).unmask_step.tolist() == [[1, 0]]


@pytest.mark.parametrize("options", [{"top_k": 2}, {"top_p": 0.6}])
def test_filters_limit_what_is_drawn(tokenizer, options):
    decoded = scripted(tokenizer, [[0.0, 0.2, 0.5, 0.3]] * 200, temperature=3.0, tokens_per_step=200, **options)
    assert decoded.response_ids.unique().tolist() == [2, 3]


def test_a_filter_that_keeps_the_mask_token_alone_leaves_the_likeliest_other(tokenizer):
    decoded = scripted(tokenizer, [[0.9, 0.02, 0.05, 0.03]] * 50, temperature=3.0, tokens_per_step=50, top_k=1)
    assert decoded.response_ids.unique().tolist() == [2]


def test_positions_are_drawn_in_proportion_to_exp_of_the_score(tokenizer):
    """Scores 0.8 and 0.5 at score_temperature 0.3: the first is first with probability e / (1 + e)."""
    table = torch.tensor([[1e-9, 0.5, 0.5], [1e-9, 0.2, 0.8]]).log()
    batch = prompts(tokenizer, [str(number) for number in range(2000)], response_length=2)
    decoded, scores = decode_with_scores(Sampler("confidence", score_temperature=0.3), ScriptedDLM(table), batch)
    share, expected = (decoded.unmask_step[:, 1] == 0).float().mean(), math.e / (1 + math.e)
    assert abs(share - expected) < 4 * (expected * (1 - expected) / 2000) ** 0.5
    torch.testing.assert_close(scores[0], torch.tensor([0.5, 0.8]))


def test_random_order_is_uniform_and_by_the_draws(tokenizer):
    batch = prompts(tokenizer, [str(number) for number in range(1000)], response_length=3)
    decoded, scores = decode_with_scores(Sampler("random"), ScriptedDLM(torch.eye(4)[1:]), batch)
    first = (decoded.unmask_step == 0).float().mean(0)
    assert (first - 1 / 3).abs().max() < 4 * (2 / 9 / 1000) ** 0.5
    assert (scores >= 0).all()
    assert (scores < 1).all()
    _, scores = decode_with_scores(Sampler("random", 3), ScriptedDLM(torch.eye(4)[1:]), batch)
    assert (scores.argmax(1) == decoded.unmask_step.argmin(1)).all()


def test_confidence_threshold_takes_all_that_reach_it_and_at_least_one(tokenizer):
    table = [[0.0, 0.9, 0.1], [0.0, 0.4, 0.6], [0.0, 0.7, 0.3], [0.0, 0.3, 0.7]]
    for score in ("confidence", "entropy"):
        decoded = scripted(tokenizer, table, score=score, schedule=ConfidenceThreshold(0.7))
        assert decoded.unmask_step.tolist() == [[0, 1, 0, 0]]
    decoded = scripted(tokenizer, table, score="confidence", schedule=ConfidenceThreshold(1.0), block_length=2)
    assert decoded.unmask_step.tolist() == [[0, 1, 2, 3]]


def test_entropy_bound_takes_what_the_sum_without_the_largest_allows(tokenizer):
    """Entropies 0.5004, 0.6109, 0.3251, 0.6730: the two smallest add 0.3251 to the bound, three of them 0.8255."""
    table = [[0.0, 0.2, 0.8], [0.0, 0.3, 0.7], [0.0, 0.1, 0.9], [0.0, 0.4, 0.6]]
    for bound, expected in {
        0.0: [1, 2, 0, 3],
        0.33: [0, 1, 0, 2],
        0.82: [0, 1, 0, 1],
        0.83: [0, 0, 0, 1],
        1.5: [0, 0, 0, 0],
    }.items():
        assert scripted(tokenizer, table, schedule=EntropyBound(bound)).unmask_step.tolist() == [expected]
    sure = [[0.0, 1.0, 0.0]] * 2 + table[:1]
    assert scripted(tokenizer, sure, schedule=EntropyBound(0.0)).unmask_step.tolist() == [[0, 0, 0]]
    deferred = scripted(tokenizer, [*table[:3], [0.0, 0.6, 0.4]], schedule=EntropyBound(9.0), deferred_token_ids=(1,))
    assert deferred.unmask_step.tolist() == [[0, 0, 0, 1]]


def test_rows_go_from_block_to_block_on_their_own(tokenizer):
    """The first row is sure of its first block and is in the second one a step later; the other takes a step more."""

    class Rows(ScriptedDLM):
        def __call__(self, input_ids, attention_mask):
            hidden = super().__call__(input_ids, attention_mask)
            is_unsure = input_ids[:, :1, None] == 5
            return torch.where(is_unsure, hidden * 0.01, hidden)

    batch = prompts(tokenizer, ["a", "b"], response_length=4)
    prompt = torch.tensor([[4], [5]])
    batch = dataclasses.replace(batch, noisy_ids=torch.cat([prompt, batch.noisy_ids[:, 1:]], 1))
    model = Rows(torch.tensor([[1e-9, 0.99, 0.01]] * 4).log())
    decoded = Sampler("confidence", schedule=ConfidenceThreshold(0.9), block_length=2).decode(model, batch)
    assert decoded.unmask_step.tolist() == [[0, 0, 1, 1], [0, 1, 2, 3]]


def test_ancestral_unmasking_reveals_each_position_with_the_steps_probability(tokenizer):
    """Four steps from 1 to 0.001: the share revealed at step 0 is 0.24975, and what is left spreads evenly."""
    batch = prompts(tokenizer, [str(number) for number in range(500)], response_length=8)
    decoded = Sampler(schedule=AncestralUnmasking(4)).decode(ScriptedDLM(torch.eye(8)), batch)
    shares = torch.bincount(decoded.unmask_step.flatten(), minlength=4) / (500 * 8)
    expected = torch.tensor([0.24975, 0.24975, 0.24975, 0.25075])
    assert (shares - expected).abs().max() < 4 * (0.25 * 0.75 / 4000) ** 0.5


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({"tokens_per_step": 3}, [3, 3, 2]),
        ({"tokens_per_step": 3, "block_length": 4}, [3, 1, 3, 1]),
        ({"tokens_per_step": 1}, [1] * 8),
        ({"schedule": FixedTokens(5)}, [5, 3]),
        ({"schedule": EvenSplit(3)}, [3, 3, 2]),
        ({"schedule": EvenSplit(6), "block_length": 4}, [2, 1, 1, 2, 1, 1]),
        ({"schedule": EvenSplit(16)}, [1] * 8),
        ({"schedule": LinearTimesteps(4)}, [1, 2, 2, 3]),
        ({"schedule": LinearTimesteps(4), "block_length": 4}, [1, 3, 1, 3]),
        ({"schedule": LinearTimesteps(4, max_tokens_per_step=2)}, [1, 2, 2, 2, 1]),
        ({"schedule": LinearTimesteps(2, eps=0.5)}, [2, 6]),
    ],
)
def test_tokens_revealed_in_each_step(tokenizer, schedule, expected):
    sampler = Sampler(**schedule)
    decoded = sampler.decode(ScriptedDLM(torch.eye(8)), prompts(tokenizer, ["a", "b"], response_length=8))
    for row in decoded.unmask_step:
        assert torch.bincount(row).tolist() == expected
    assert sampler.num_steps(8) == len(expected)


def test_deferred_tokens_come_last_in_their_block(tokenizer):
    """Token 2 is what positions 0, 1 and 3 would reveal; among deferred positions the surest is first."""
    table = [[0.0, 0.2, 0.8], [0.0, 0.1, 0.9], [0.0, 0.6, 0.4], [0.0, 0.3, 0.7], [0.0, 0.7, 0.3]]
    options = {"score": "confidence", "deferred_token_ids": (2,)}
    assert scripted(tokenizer, table, **options).unmask_step.tolist() == [[3, 2, 1, 4, 0]]
    assert scripted(tokenizer, table, **options, block_length=2).unmask_step.tolist() == [[1, 0, 2, 3, 4]]
    assert scripted(tokenizer, table, **options, tokens_per_step=3).unmask_step.tolist() == [[1, 0, 0, 1, 0]]
    threshold = scripted(tokenizer, table, **options, schedule=ConfidenceThreshold(0.5))
    assert threshold.unmask_step.tolist() == [[1, 1, 0, 1, 0]]
    assert scripted(tokenizer, table, **options, schedule=AncestralUnmasking(1)).unmask_step.tolist() == [[0] * 5]
    ancestral = scripted(tokenizer, table, **options, schedule=AncestralUnmasking(50))
    assert ancestral.unmask_step[0, [2, 4]].max() <= ancestral.unmask_step[0, [0, 1, 3]].min()


def test_forbidden_tokens_have_no_share(tokenizer):
    """Without token 1, the rest of 0.5, 0.3, 0.2 is 0.6 and 0.4."""
    for temperature in (0.0, 0.3):
        decoded = scripted(tokenizer, [[0.0, 0.5, 0.3, 0.2]], forbidden_token_ids=(1,), temperature=temperature)
        assert decoded.response_ids.item() in (2, 3)
        expected = -(0.6 * math.log(0.6) + 0.4 * math.log(0.4))
        assert decoded.unmask_entropy.item() == pytest.approx(expected, abs=1e-6)


def test_guidance_moves_away_from_what_is_said_without_the_prompt(tokenizer):
    """Logit gaps of 1 with and 3 without the prompt: 3 + 2 (1 - 3) = -1 at scale 1."""

    class Guided(ScriptedDLM):
        def __call__(self, input_ids, attention_mask):
            is_masked = (input_ids[:, :1, None] == self.mask_token_id).float()
            return super().__call__(input_ids, attention_mask) * (1 + 2 * is_masked)

    model = Guided([[0.0, 1.0, 0.0]], tokenizer.mask_token_id - 1)
    batch = prompts(tokenizer, ["a"], response_length=1)
    assert Sampler().decode(model, batch).response_ids.tolist() == [[1]]
    assert model.num_calls == 1
    decoded, scores = decode_with_scores(Sampler("confidence", cfg_scale=1.0), model, batch)
    assert decoded.response_ids.tolist() == [[2]]
    assert model.num_calls == 3
    assert scores.item() == pytest.approx(1 / (2 + math.exp(-1)), abs=1e-6)


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
        (
            {"tokens_per_step": 2, "schedule": FixedTokens(2)},
            "tokens_per_step: expected 1 with a schedule, which ignores it, got 2",
        ),
        ({"temperature": -0.1}, "temperature: expected at least 0, got -0.1"),
        ({"score_temperature": -1.0}, "score_temperature: expected at least 0, got -1.0"),
        ({"top_p": 0.0}, "top_p: expected above 0 and at most 1, got 0.0"),
        ({"top_k": 0}, "top_k: expected at least 1, got 0"),
        ({"block_length": 0}, "block_length: expected at least 1, got 0"),
        ({"cfg_scale": -1.0}, "cfg_scale: expected at least 0, got -1.0"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(TabomError) as error:
        Sampler(**settings)
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FixedTokens(0), "tokens_per_step: expected at least 1, got 0"),
        (lambda: EvenSplit(0), "num_steps: expected at least 1, got 0"),
        (lambda: LinearTimesteps(0), "num_steps: expected at least 1, got 0"),
        (lambda: LinearTimesteps(4, eps=0.0), "eps: expected above 0 and below 1, got 0.0"),
        (lambda: LinearTimesteps(4, 0.1, 0), "max_tokens_per_step: expected at least 1, got 0"),
        (lambda: ConfidenceThreshold(0.0), "threshold: expected above 0 and at most 1, got 0.0"),
        (lambda: EntropyBound(-0.1), "bound: expected at least 0, got -0.1"),
        (lambda: AncestralUnmasking(4, 1.0), "eps: expected above 0 and below 1, got 1.0"),
        (lambda: TraceCredit(weight=-1.0), "weight: expected at least 0, got -1.0"),
        (lambda: TraceCredit(exponent=-1.0), "exponent: expected at least 0, got -1.0"),
        (lambda: TraceCredit(decay=1.1), "decay: expected at least 0 and at most 1, got 1.1"),
    ],
)
def test_bad_arguments_of_schedules_and_credit(make, message):
    with pytest.raises(TabomError) as error:
        make()
    assert str(error.value) == message


class Idle(Schedule):
    def select(self, block):
        return torch.zeros_like(block.is_eligible)

    def max_num_steps(self, length, num_blocks):
        return 2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule": EvenSplit(4), "block_length": 1},
            "num_steps: expected a multiple of 3, the number of blocks, got 4",
        ),
        ({"schedule": Idle()}, "schedule: expected every position revealed in 2 steps, got fewer"),
        ({"forbidden_token_ids": (2, 3)}, "forbidden_token_ids: expected ids from 0 to 2, got [2, 3]"),
        ({"deferred_token_ids": (-1,)}, "deferred_token_ids: expected ids from 0 to 2, got [-1]"),
    ],
)
def test_settings_that_do_not_fit_the_model_or_the_response(tokenizer, settings, message):
    with pytest.raises(TabomError) as error:
        Sampler(**settings).decode(ScriptedDLM(torch.eye(3)), prompts(tokenizer, ["a"], response_length=3))
    assert str(error.value) == message


@pytest.mark.parametrize(
    ("settings", "is_random"),
    [
        ({}, False),
        ({"tokens_per_step": 2}, False),
        ({"schedule": ConfidenceThreshold(0.5)}, False),
        ({"temperature": 0.5}, True),
        ({"score_temperature": 0.5}, True),
        ({"score": "random"}, True),
        ({"schedule": AncestralUnmasking(4)}, True),
    ],
)
def test_what_draws(settings, is_random):
    assert Sampler(**settings).is_random == is_random


def test_settings_make_the_same_sampler():
    sampler = Sampler("confidence", 3, 0.5, 7, top_p=0.9, block_length=4, forbidden_token_ids=(2,))
    settings = {name: tuple(value) if type(value) is list else value for name, value in sampler.settings().items()}
    assert Sampler(**settings).settings() == sampler.settings()
    assert sampler.with_tokens_per_step(2).settings() == {**sampler.settings(), "tokens_per_step": 2}


def test_settings_name_everything_that_is_injected():
    sampler = Sampler(schedule=LinearTimesteps(8, max_tokens_per_step=2), trace_credit=TraceCredit(decay=0.5))
    settings = json.loads(json.dumps(sampler.settings()))
    assert settings == sampler.settings()
    assert settings["schedule"] == {
        "class_path": "tabom.samplers.schedules.LinearTimesteps",
        "init_args": {"num_steps": 8, "eps": 0.001, "max_tokens_per_step": 2},
    }
    assert settings["trace_credit"] == {
        "class_path": "tabom.samplers.trace_credit.TraceCredit",
        "init_args": {"weight": 0.7, "exponent": 0.2, "decay": 0.5},
    }
    with pytest.raises(TabomError) as error:
        sampler.with_tokens_per_step(1)
    assert str(error.value) == "schedule: expected null where tokens_per_step is varied, got LinearTimesteps"


def test_sampler_is_made_from_a_configuration():
    """What :meth:`Sampler.settings` records can be written into a configuration as it stands."""
    sampler = Sampler("margin", schedule=EvenSplit(8), trace_credit=TraceCredit(), deferred_token_ids=(1, 2))
    parser = ArgumentParser()
    parser.add_class_arguments(Sampler, "sampler")
    made = parser.instantiate(parser.parse_object({"sampler": sampler.settings()})).sampler
    assert made.settings() == sampler.settings()


class Larger(ScriptedDLM):
    """Nearly all probability lies on the mask token (0) and on two ids that no token has (1, 4)."""

    unused_ids = (1, 4)

    def __init__(self):
        super().__init__([[9.0, 8.0, 1.0, 0.0, 7.0]] * N)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"temperature": 1.0},
        {"temperature": 3.0, "score": "margin"},
        {"temperature": 1.0, "top_p": 0.3},
        {"temperature": 1.0, "top_k": 2, "score_distribution": "sampling", "score": "confidence"},
        {"trace_credit": TraceCredit(), "tokens_per_step": 3},
        {"temperature": 1.0, "schedule": AncestralUnmasking(4), "score": "random"},
    ],
)
def test_ids_without_a_token_are_never_chosen(tokenizer, settings):
    decoded = Sampler(**settings).decode(Larger(), prompts(tokenizer, ["a", "b", "c"]), record_steps=True)
    assert set(decoded.response_ids.flatten().tolist()) <= {2, 3}
    assert decoded.response_ids.flatten().tolist().count(3) > 0 or settings.get("temperature", 0) < 3
    expected = torch.distributions.Categorical(logits=torch.tensor([9.0, 8.0, 1.0, 0.0, 7.0])).entropy()
    torch.testing.assert_close(decoded.unmask_entropy, expected.expand(3, N))  # of the whole distribution


def dream_released(logits, temperature, top_p):
    """Scores of Dream's rule as the paper's code runs it, by plain loops."""
    scores = []
    for row in logits.double().tolist():
        scaled = [value / temperature for value in row]
        total = math.fsum(math.exp(value - max(scaled)) for value in scaled)
        probs = [math.exp(value - max(scaled)) / total for value in scaled]
        kept, mass = [], 0.0
        for token in sorted(range(len(probs)), key=lambda token: -probs[token]):
            if mass > top_p:
                break
            kept.append(token)
            mass += probs[token]
        share = [probs[token] / math.fsum(probs[k] for k in kept) for token in kept]
        scores.append(round(math.fsum(p * math.log(p) for p in share), 5))
    return scores


def test_the_released_decoder_of_dream(tokenizer):
    """The likeliest token; the order by entropy of the tempered, filtered distribution, ties from left to right."""
    torch.manual_seed(3)
    backbone = NewTinyDLM(**TINY, initializer_range=0.7).load(tokenizer).eval()
    settings = {"temperature": 0.1, "top_p": 0.9, "score_distribution": "sampling", "token_choice": "likeliest"}
    sampler, batch = Sampler(**settings), prompts(tokenizer, ["abc"])
    assert not sampler.is_random
    decoded = sampler.decode(backbone, batch)
    canvas, never = batch.noisy_ids.clone(), [tokenizer.mask_token_id, *backbone.unused_ids]
    num_tied = 0
    for step in range(N):
        with torch.no_grad():
            logits = backbone.logits(backbone(canvas, batch.attention_mask))[0, -N:].float()
        scores = dream_released(logits, 0.1, 0.9)
        masked = [n for n in range(N) if canvas[0, n - N] == tokenizer.mask_token_id]
        best = max(scores[n] for n in masked)
        num_tied += sum(scores[n] == best for n in masked) > 1
        revealed = next(n for n in masked if scores[n] == best)
        assert decoded.unmask_step[0, revealed] == step
        logits[:, never] = -torch.inf
        canvas[0, revealed - N] = logits[revealed].argmax()
    assert torch.equal(decoded.response_ids[0], canvas[0, -N:])
    assert num_tied > 0


def test_the_likeliest_token_is_no_draw(tokenizer):
    """At any temperature, which then decides the scores alone."""
    torch.manual_seed(3)
    backbone = NewTinyDLM(**TINY, initializer_range=0.7).load(tokenizer).eval()
    batch = prompts(tokenizer, ["abc", "d"])
    cold = Sampler().decode(backbone, batch)
    for seed in range(3):
        hot = Sampler(temperature=5.0, seed=seed, token_choice="likeliest").decode(backbone, batch)
        assert torch.equal(hot.response_ids, cold.response_ids)
