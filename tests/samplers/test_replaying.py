"""A decoding gone through again has the entropies that the sampler recorded."""

import pytest
import torch
from helpers import TINY

from tabom.backbones import NewTinyDLM
from tabom.data.encoding import collate_prompts
from tabom.functional.unmasking import dense_steps
from tabom.samplers import Sampler
from tabom.samplers.replaying import replayed_entropies
from tabom.types import Example

N = 6


@pytest.fixture
def backbone(tokenizer):
    torch.manual_seed(0)
    return NewTinyDLM(**TINY, initializer_range=0.5).load(tokenizer).eval()


def replayed(backbone, prompt, response_ids, unmask_step, batch_size=4):
    told = []
    entropy = replayed_entropies(
        backbone, torch.tensor(prompt), response_ids, unmask_step, batch_size=batch_size, on_states=told.append
    )
    return entropy, told


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"tokens_per_step": 4, "score": "confidence"},
        {"temperature": 0.7, "block_length": 4},
    ],
    ids=str,
)
@pytest.mark.parametrize("batch_size", [1, 4, 50])
@pytest.mark.parametrize("block_size", [None, 4])
def test_what_was_recorded(backbone, tokenizer, options, batch_size, block_size):
    backbone.block_size = block_size
    prompt = tokenizer("3 + 4 =")["input_ids"]
    batch = collate_prompts(
        [(Example("q", "", ""), prompt)],
        pad_token_id=tokenizer.pad_token_id,
        mask_token_id=tokenizer.mask_token_id,
        response_length=N,
    )
    decoded = Sampler(**options).decode(backbone, batch)
    steps = dense_steps(decoded.unmask_step, where=torch.ones(1, N, dtype=torch.bool))[0]
    entropy, told = replayed(backbone, prompt, decoded.response_ids[0], steps, batch_size)
    torch.testing.assert_close(entropy, decoded.unmask_entropy[0], rtol=0, atol=2e-6)
    num_states = int(steps.max()) + 1
    assert told == [min(batch_size, num_states - first) for first in range(0, num_states, batch_size)]


def test_positions_that_no_step_revealed_stay_masked(backbone, tokenizer):
    """By a loop over the states, in which they are masks."""
    prompt, response = tokenizer("ab")["input_ids"], torch.tensor(tokenizer("cdefgh")["input_ids"])
    steps = torch.tensor([1, -1, 0, 1, -1, 2])
    entropy, _ = replayed(backbone, prompt, response, steps)
    assert entropy.isnan().tolist() == [step == -1 for step in steps.tolist()]
    for position in steps.ne(-1).nonzero().flatten().tolist():
        is_visible = (steps < steps[position]) & (steps != -1)
        canvas = response.where(is_visible, tokenizer.mask_token_id)
        ids = torch.cat([torch.tensor(prompt), canvas])[None]
        hidden = backbone(ids, torch.ones_like(ids, dtype=torch.bool))[0, len(prompt) + position]
        log_p = backbone.logits(hidden[None])[0].detach().double().log_softmax(-1)
        assert entropy[position].item() == pytest.approx(-(log_p.exp() * log_p).sum().item(), abs=2e-6)
