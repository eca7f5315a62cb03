"""Block-causal models: the blocks in which responses are decoded, and the cache that changes nothing."""

import pytest
import torch
from helpers import TINY, decode_with_scores
from test_engine import TEXTS, Watched
from test_sampler import N, canvas_of, prompts

from tabom.backbones import NewTinyDLM
from tabom.backbones.snapshot import Present
from tabom.errors import TabomError
from tabom.samplers import AncestralUnmasking, ConfidenceThreshold, EvenSplit, Sampler, StepsPerBlock, TraceCredit

SIZE = 4
SETTINGS = [
    {},
    {"tokens_per_step": 3, "block_length": SIZE},
    {"score": "confidence", "schedule": ConfidenceThreshold(0.2)},
    {"score": "confidence", "schedule": StepsPerBlock(2, threshold=0.2), "temperature": 0.7},
    {"score": "position", "schedule": EvenSplit(6), "trace_credit": TraceCredit(weight=5.0)},
    {"schedule": AncestralUnmasking(6), "deferred_token_ids": tuple(range(10, 40))},
]
LENGTH = 10


@pytest.fixture(scope="module")
def backbone(tokenizer):
    """In float64: what is left of a difference is that of the logits in float32."""
    torch.manual_seed(1)
    return NewTinyDLM(**TINY, initializer_range=0.7, block_size=SIZE).load(tokenizer).double().eval()


@pytest.fixture(params=[False, True], ids=["at the place", "from the left"])
def shifted(backbone, request):
    backbone.shift = request.param
    yield backbone
    backbone.shift = False


def block_of(text, length=LENGTH):
    """The block of each response position, counted from the first one, by the place of its token in the canvas."""
    return [(len(text) + k) // SIZE - len(text) // SIZE for k in range(length)]


def assert_same(decoded, expected):
    assert torch.equal(decoded.response_ids, expected.response_ids)
    assert torch.equal(decoded.unmask_step, expected.unmask_step)
    torch.testing.assert_close(decoded.unmask_entropy, expected.unmask_entropy, rtol=0, atol=1e-6, equal_nan=True)


class Counting(Watched):
    """Notes how many columns each pass computes, of how many that are looked at."""

    def __init__(self, backbone):
        super().__init__(backbone)
        self.slot_cache = backbone.slot_cache

    def forward_from_cache(self, input_ids, attention_mask, positions, cache):
        self.shapes.append((*positions.shape, input_ids.shape[1]))
        return self.backbone.forward_from_cache(input_ids, attention_mask, positions, cache)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("num_slots", [3, None])
def test_with_the_cache_and_without_it_is_the_same(shifted, tokenizer, settings, num_slots):
    batch = prompts(tokenizer, TEXTS, response_length=LENGTH)
    free, kept = (
        decode_with_scores(Sampler(**settings, cache_blocks=cached), shifted, batch, num_slots=num_slots)
        for cached in (False, None)
    )
    assert_same(kept[0], free[0])
    torch.testing.assert_close(kept[1], free[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("settings", SETTINGS[:2])
def test_rows_that_end_early_give_their_slots_to_others(shifted, tokenizer, settings):
    """Whatever the token of the end is: some of those that they decode to."""
    batch = prompts(tokenizer, TEXTS, response_length=LENGTH)
    for eos in Sampler(**settings).decode(shifted, batch).response_ids[[0, 2, 4], [1, 2, 5]].tolist():
        free, kept = (
            Sampler(**settings, cache_blocks=cached).decode(shifted, batch, num_slots=3, eos_token_id=eos)
            for cached in (False, True)
        )
        assert_same(kept, free)


def test_the_first_block_is_what_the_last_one_of_the_prompt_leaves(backbone, tokenizer):
    texts = ["x" * length for length in range(4, 4 + SIZE)]
    decoded = Sampler(tokens_per_step=2).decode(backbone, prompts(tokenizer, texts, response_length=LENGTH))
    for text, steps in zip(texts, decoded.unmask_step.tolist(), strict=True):
        step = 0
        for number in range(max(block_of(text)) + 1):
            places = [k for k in range(LENGTH) if block_of(text)[k] == number]
            taken = sorted(steps[k] for k in places)
            assert taken == [step + i // 2 for i in range(len(places))]
            step = taken[-1] + 1


def test_each_step_sees_what_is_final_and_its_own_block(backbone, tokenizer):
    """Asked afresh at every state, with whatever stands right of the block, the model gives the recorded entropies."""
    batch = prompts(tokenizer, TEXTS[:4], response_length=LENGTH)
    decoded = Sampler(temperature=0.7).decode(backbone, batch)
    for row, text in enumerate(TEXTS[:4]):
        block = torch.tensor(block_of(text))
        for step in range(LENGTH):
            place = int((decoded.unmask_step[row] == step).nonzero())
            response = decoded.response_ids[row].masked_fill(decoded.unmask_step[row] >= step, tokenizer.mask_token_id)
            response[block > block[place]] = 7
            canvas = canvas_of(batch, response.expand(4, -1))[row : row + 1]
            with torch.no_grad():
                hidden = backbone(canvas, batch.attention_mask[row : row + 1])[0, place - LENGTH]
                entropy = torch.distributions.Categorical(logits=backbone.logits(hidden)).entropy().float()
            torch.testing.assert_close(decoded.unmask_entropy[row, place], entropy, rtol=0, atol=1e-6)


def test_what_is_computed(backbone, tokenizer):
    """Two rows end at positions 14 and 17; the second has blocks of 4, 4 and 1 tokens, the first of 3, 4 and 2."""
    watched = Counting(backbone)
    Sampler(tokens_per_step=2).decode(watched, prompts(tokenizer, ["hello", "def f(x)"], response_length=9))
    assert watched.shapes == [
        (2, 12, 12),  # the prompts as well
        (2, 4, 12),
        (2, 8, 16),  # the first block, which is final by now, as well
        (2, 4, 16),
        (2, 6, 17),
    ]


def test_a_backbone_that_is_seen_through_another(backbone, tokenizer):
    batch = prompts(tokenizer, TEXTS[:3], response_length=LENGTH)
    assert_same(Sampler().decode(Present(backbone), batch), Sampler().decode(backbone, batch))


def test_entropies_of_later_blocks_and_guidance_do_without(backbone, tokenizer):
    batch = prompts(tokenizer, TEXTS[:3])
    recorded = Sampler().decode(backbone, batch, record_steps=True)
    assert_same(recorded, Sampler().decode(backbone, batch))
    assert recorded.step_entropy.shape[1] == Sampler().num_steps(N, SIZE)
    assert_same(
        Sampler(cfg_scale=0.5).decode(backbone, batch),
        Sampler(cfg_scale=0.5, cache_blocks=False).decode(backbone, batch),
    )


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, 10),
        ({"tokens_per_step": 3}, 6),  # 1, 4 and 4 positions and one more: 1 + 2 + 2 + 1
        ({"tokens_per_step": 3, "block_length": SIZE}, 6),
        ({"schedule": StepsPerBlock(1)}, 4),
        ({"schedule": StepsPerBlock(2)}, 6),
        ({"schedule": EvenSplit(6)}, 6),
    ],
)
def test_most_steps_wherever_the_prompt_ends(backbone, tokenizer, settings, expected):
    sampler, taken = Sampler(**settings), []
    for length in range(1, SIZE + 1):
        decoded = sampler.decode(backbone, prompts(tokenizer, ["x" * length], response_length=LENGTH))
        taken.append(int(decoded.unmask_step.max()) + 1)
    assert max(taken) == sampler.num_steps(LENGTH, SIZE) == expected


def test_other_blocks_than_the_models(backbone, tokenizer):
    with pytest.raises(TabomError) as error:
        Sampler(block_length=2).decode(backbone, prompts(tokenizer, ["abc"]))
    assert str(error.value) == "block_length: expected null or 4, the block size of the model, got 2"


def test_nothing_is_kept_of_causal_attention_or_in_training_with_checkpointing(tokenizer):
    backbone = NewTinyDLM(**TINY, block_size=SIZE).load(tokenizer).train()
    backbone.slot_cache(1, 8)
    backbone.transformer.activation_checkpointing_enable()
    with pytest.raises(TabomError) as error:
        Sampler().decode(backbone, prompts(tokenizer, ["abc"]))
    assert str(error.value) == "cache: expected a backbone in evaluation mode, got one in training"
    Sampler(tokens_per_step=N).decode(backbone.eval(), prompts(tokenizer, ["abc"]))
    backbone.transformer.config.is_causal = True
    with pytest.raises(TabomError) as error:
        backbone.slot_cache(1, 8)
    assert str(error.value) == "cache: expected attention full of the backbone, got causal"
