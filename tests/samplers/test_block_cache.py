"""The cache against its definition, written out for one row at a time."""

import pytest
import torch
from helpers import TINY
from test_engine import TEXTS, Watched
from test_sampler import prompts

from tabom.backbones import NewTinyDLM
from tabom.errors import TabomError
from tabom.samplers import ConfidenceThreshold, Sampler

SETTINGS = [
    {"block_length": 2},
    {"block_length": 4, "tokens_per_step": 2},
    {"block_length": 3, "schedule": ConfidenceThreshold(0.2), "score": "confidence"},
    {"temperature": 0.5, "block_length": 3},
    {},
]


@pytest.fixture(scope="module")
def backbone(tokenizer):
    torch.manual_seed(1)
    return NewTinyDLM(**TINY, initializer_range=0.7).load(tokenizer).eval()


class Caching(Watched):
    """Notes how many columns each pass computes."""

    def forward_with_cache(self, input_ids, attention_mask):
        self.shapes.append(tuple(input_ids.shape))
        return self.backbone.forward_with_cache(input_ids, attention_mask)

    def forward_from_cache(self, input_ids, attention_mask, positions, cache):
        self.shapes.append(tuple(positions.shape))
        assert cache.keys[0].shape[2] == input_ids.shape[1]
        return self.backbone.forward_from_cache(input_ids, attention_mask, positions, cache)


class Stale:
    """One row: keeps what a whole pass at the start of a block gave, by recomputing it from the canvas of that time."""

    def __init__(self, backbone, block_length, length):
        self.backbone, self.block_length, self.length = backbone, block_length, length
        self.mask_token_id, self.head, self.unused_ids = backbone.mask_token_id, backbone.head, backbone.unused_ids
        self.block, self.then, self.block_size = -1, None, None

    def __call__(self, input_ids, attention_mask):
        response = input_ids[0, -self.length :]
        block = int((response == self.mask_token_id).long().argmax()) // self.block_length
        if block != self.block:
            self.block, self.then = block, input_ids.clone()
        _, cache = self.backbone.forward_with_cache(self.then, attention_mask)
        start = input_ids.shape[1] - self.length + block * self.block_length
        positions = torch.arange(start, input_ids.shape[1])[None]
        hidden = self.backbone.forward_from_cache(input_ids, attention_mask, positions, cache)
        return torch.cat([hidden.new_zeros(1, start, hidden.shape[2]), hidden], 1)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("num_slots", [2, None])
def test_rows_that_come_and_go_are_decoded_as_if_alone(backbone, tokenizer, settings, num_slots):
    batch = prompts(tokenizer, TEXTS)
    decoded = Sampler(**settings, cache_blocks=True).decode(backbone, batch, num_slots=num_slots)
    for row, text in enumerate(TEXTS):
        alone = Stale(backbone, settings.get("block_length", 6), 6)
        expected = Sampler(**settings).decode(alone, prompts(tokenizer, [text]))
        assert torch.equal(decoded.response_ids[row], expected.response_ids[0])
        assert torch.equal(decoded.unmask_step[row], expected.unmask_step[0])
        torch.testing.assert_close(decoded.unmask_entropy[row], expected.unmask_entropy[0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("column", [0, 1])
def test_the_longest_prompt_ends_in_its_first_turn(backbone, tokenizer, column):
    """Then the kept keys and values lose the columns of its prompt."""
    settings = {"block_length": 2, "tokens_per_step": 2}
    batch = prompts(tokenizer, TEXTS)
    longest = max(range(len(TEXTS)), key=lambda row: len(TEXTS[row]))
    eos = int(Sampler(**settings).decode(backbone, batch).response_ids[longest, column])
    decoded = Sampler(**settings, cache_blocks=True).decode(Caching(backbone), batch, eos_token_id=eos)
    assert decoded.unmask_step.max() > decoded.unmask_step[longest].max()
    for row, text in enumerate(TEXTS):
        alone = Stale(backbone, 2, 6)
        expected = Sampler(**settings).decode(alone, prompts(tokenizer, [text]), eos_token_id=eos)
        assert torch.equal(decoded.response_ids[row], expected.response_ids[0])


def test_it_is_exact_at_the_first_step_and_an_approximation_later(backbone, tokenizer):
    batch = prompts(tokenizer, TEXTS)
    exact, cached = (Sampler(block_length=3, cache_blocks=cached).decode(backbone, batch) for cached in (False, True))
    is_first = exact.unmask_step == 0
    assert torch.equal(cached.unmask_step == 0, is_first)
    torch.testing.assert_close(cached.unmask_entropy[is_first], exact.unmask_entropy[is_first])
    assert (exact.unmask_entropy - cached.unmask_entropy).abs().max() > 1e-3


def test_what_is_computed(backbone, tokenizer):
    """Whole canvases at the first step of each block of two, then the block and what is right of it."""
    watched = Caching(backbone)
    Sampler(block_length=2, cache_blocks=True).decode(watched, prompts(tokenizer, ["abc", "d"]))
    assert watched.shapes == [(2, 9), (2, 6), (2, 9), (2, 4), (2, 9), (2, 2)]


def test_entropies_of_later_blocks_are_recorded_as_well(backbone, tokenizer):
    batch = prompts(tokenizer, ["abc", "hello"])
    decoded = Sampler(block_length=2, cache_blocks=True).decode(backbone, batch, record_steps=True)
    for step in range(6):
        is_masked = decoded.unmask_step >= step
        assert not decoded.step_entropy[:, step][is_masked].isnan().any()


def test_no_guidance():
    with pytest.raises(TabomError) as error:
        Sampler(cfg_scale=1.0, cache_blocks=True)
    assert str(error.value) == "cfg_scale: expected 0 beside cache_blocks, got 1.0"
