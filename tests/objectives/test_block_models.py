"""Objectives on a block-causal model: what is asked for lies in the block that was being decoded."""

import dataclasses

import pytest
import torch
from helpers import TINY, row_draws, trajectory_batch

from tabom.backbones import NewTinyDLM
from tabom.corruption import CountMasking, TrajectorySegments, UniformMasking
from tabom.errors import TabomError
from tabom.modules.reference import Reference, measure
from tabom.objectives import (
    DInferObjective,
    DOpsdObjective,
    DParallelObjective,
    ExactOrderObjective,
    GiftObjective,
    LiftObjective,
    NelboObjective,
    PaplObjective,
    Replay,
    T3DObjective,
    TabomObjective,
    TadObjective,
)
from tabom.types import NEVER, NO_TOKEN

MASK, SIZE, PROMPT = 99, 4, 5
STEPS = [[1, 0, 2, 5, 3, 4, 6, 7, 8], [0, 2, 1, 3, 3, 4, 5, 7, NEVER]]
"""The prompt fills one block and begins the next, of which the response has three tokens."""
TRAJECTORY = {
    "tabom": TabomObjective(window=6),
    "tabom_by_steps": TabomObjective(window=2, window_unit="steps", supervise_padding=False),
    "exact_order": ExactOrderObjective(window=4),
    "dinfer": DInferObjective(),
    "t3d": T3DObjective(),
    "t3d_one_block": T3DObjective(states="one_block", path="prefix_levels"),
    "dparallel": DParallelObjective(block_length=SIZE),
    "tad": TadObjective(window=2),
    "d_opsd": DOpsdObjective(future="later_steps", retain_ratio=1.0, clip=None),
}
OTHERS = {
    "nelbo": NelboObjective(),
    "nelbo_by_row": NelboObjective(weighting="inverse_ratio"),
    "nelbo_by_block": NelboObjective(weighting="inverse_ratio", ratio_per="block", stratified_ratios=True),
    "tilted": NelboObjective(tilt=2.0),
    "papl": PaplObjective(),
    "lift": LiftObjective(),
    "gift": GiftObjective(),
    "t3d_all_blocks": T3DObjective(states="mostly_masked", path="prefix_levels"),
}


def batch_of(steps=STEPS):
    batch = trajectory_batch(steps, entropy=[[0.1 * i for i in range(9)]] * len(steps), prompt_length=PROMPT)
    return dataclasses.replace(batch, teacher_prompt_ids=torch.tensor([[NO_TOKEN, 7, 8], [6, 7, 8]])[: len(steps)])


def in_blocks(batch):
    return dataclasses.replace(batch, attention_block=(batch.attention_mask.long().cumsum(1) - 1) // SIZE)


@pytest.fixture
def backbone(tokenizer):
    torch.manual_seed(0)
    return NewTinyDLM(**TINY, initializer_range=0.5, block_size=SIZE).load(tokenizer)


@pytest.mark.parametrize("name", [*TRAJECTORY, *OTHERS])
def test_a_training_step(backbone, name):
    objective, batch = {**TRAJECTORY, **OTHERS}[name], batch_of()
    base = backbone.reference()
    torch.nn.init.normal_(backbone.transformer.lm_head.weight)
    options = {"reference": Reference(), "base": base, "step": 0, "draws": row_draws(batch, 3)}
    measured = measure(objective, batch, backbone=backbone, **options)
    corrupted = measured.corrupted
    assert corrupted.is_target.any()
    objective.terms(*measured)["loss"].backward()
    gradients = [p.grad for p in backbone.parameters() if p.grad is not None]
    assert all(gradient.isfinite().all() for gradient in gradients)
    assert any(gradient.abs().max() > 0 for gradient in gradients)


@pytest.mark.parametrize("name", TRAJECTORY)
def test_targets_are_in_the_block_that_was_being_decoded(name):
    """For every state, with what the states before it left final in earlier blocks."""
    objective, batch = TRAJECTORY[name], in_blocks(batch_of())
    blocks = set()
    for seed in range(30):
        corrupted = objective.corrupt(batch, MASK, row_draws(batch, seed))
        for row, wanted in enumerate(corrupted.is_target):
            block, clean_ids = batch.attention_block[row % 2], corrupted.clean_ids[row]
            asked = block[wanted].unique().tolist()
            assert len(asked) <= 1
            blocks |= set(asked)
            if asked:
                is_before = block < asked[0]
                assert torch.equal(corrupted.noisy_ids[row][is_before], clean_ids[is_before])
    assert blocks == {1, 2, 3}


def test_windows_start_at_all_states():
    """Also where fewer tokens than a window are left."""
    batch = in_blocks(batch_of())
    segments = TrajectorySegments(9)
    numbers = {
        int(corrupted.is_masked[0].sum())
        for seed in range(80)
        for corrupted in [segments(batch, MASK, row_draws(batch, seed))]
    }
    assert numbers == set(range(1, 10))


def test_a_teacher_sees_no_later_block():
    batch = in_blocks(batch_of())
    with pytest.raises(TabomError, match="future: expected later_steps with a block-causal backbone"):
        DOpsdObjective().corrupt(batch, MASK, row_draws(batch))
    num_told = 0
    for seed in range(20):
        corrupted = TRAJECTORY["d_opsd"].corrupt(batch, MASK, row_draws(batch, seed))
        is_told = corrupted.reference_canvas.noisy_ids != corrupted.noisy_ids
        current = batch.attention_block.where(corrupted.is_target, NEVER).amax(1, keepdim=True)
        assert not (is_told & corrupted.is_target.any(1, keepdim=True) & (batch.attention_block != current)).any()
        num_told += int(is_told.sum())
    assert num_told > 0


def test_replay(backbone):
    batch = batch_of()
    base = backbone.reference()
    torch.nn.init.normal_(backbone.transformer.lm_head.weight)
    found = Replay().terms(torch.zeros(()), batch, backbone=backbone, base=base, step=0, draws=row_draws(batch))
    assert found["replay_kl"] > 0


class TestMaskRatios:
    def test_each_block_has_its_own(self):
        batch = in_blocks(trajectory_batch([[NEVER] * 400] * 3, prompt_length=0))
        batch = dataclasses.replace(batch, attention_block=batch.attention_block // 25)
        corrupted = UniformMasking(ratio_per="block")(batch, MASK, row_draws(batch))
        assert corrupted.mask_ratio.shape == (3, 400)
        for block in range(4):
            here = slice(block * 100, block * 100 + 100)
            ratio = corrupted.mask_ratio[:, here]
            assert (ratio == ratio[:, :1]).all()
            torch.testing.assert_close(corrupted.is_masked[:, here].float().mean(1), ratio[:, 0], rtol=0, atol=0.15)
        assert len(corrupted.mask_ratio.unique()) == 12

    def test_the_weights_are_those_of_the_ratios(self):
        batch = in_blocks(batch_of())
        corrupted = OTHERS["nelbo_by_block"].corrupt(batch, MASK, row_draws(batch))
        expected = batch.is_response / (9 * corrupted.mask_ratio)
        torch.testing.assert_close(corrupted.token_weight, expected)

    def test_a_model_without_blocks_has_one(self):
        batch = batch_of()
        with pytest.raises(TabomError, match="ratio_per: expected row with a backbone that is not block-causal"):
            UniformMasking(ratio_per="block")(batch, MASK, row_draws(batch))
        with pytest.raises(TabomError, match="late_bias"):
            UniformMasking(ratio_per="block", late_bias=1.0)


def test_counts_of_each_block_are_an_unbiased_bound():
    """By the chain rule in each block of two: a pair that is one fair coin has half a bit a token."""
    batch = in_blocks(trajectory_batch([[NEVER] * 9] * 400, prompt_length=0))
    corrupted = CountMasking(0.3)(batch, MASK, row_draws(batch))
    nll = torch.zeros(400, 9)
    for start, end in ((0, 4), (4, 8), (8, 9)):
        hidden = corrupted.is_target[:, start:end]
        nll[:, start:end] = hidden.all(1, keepdim=True).float()  # all but the first are certain once one is seen
    estimate = (nll * corrupted.token_weight).where(corrupted.is_target, 0.0).sum(1).mean()
    assert estimate.item() == pytest.approx(3 / 9, abs=0.01)
    assert (corrupted.is_target[:, 8]).all()
