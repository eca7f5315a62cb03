"""Every recorded decoding of the official LLaDA and Dream code, step by step; and what we do where theirs is odd."""

import json

import pytest
import torch
from helpers import decode_with_scores
from parity.recorded import RecordedSampler, states
from safetensors.torch import load_file

from tabom.backbones.dream import DreamBackbone
from tabom.backbones.llada import LladaBackbone
from tabom.samplers import (
    AncestralUnmasking,
    ConfidenceThreshold,
    EvenSplit,
    FixedTokens,
    LinearTimesteps,
    Sampler,
    TraceCredit,
)
from tabom.types import Example, PromptBatch

COMPARED = [
    "dream_entropy_leftpad_s24",
    "dream_entropy_s32",
    "dream_entropy_s32_eps0.1",
    "dream_entropy_topk5_s16",
    "dream_entropy_topp0.9_s16",
    "dream_ext_entropy_cap1_s32",
    "dream_ext_entropy_fixed2_s32",
    "dream_ext_entropy_s32",
    "dream_maskgit_plus_leftpad_s24",
    "dream_maskgit_plus_s32",
    "dream_origin_leftpad_s24",
    "dream_origin_s32",
    "dream_topk_margin_s16",
    "llada_cfg1.5_g16_b16_s8",
    "llada_g32_b16_s12",
    "llada_g32_b16_s16",
    "llada_g32_b32_s16",
    "llada_g32_b32_s32",
    "llada_g32_b8_s32",
    "llada_gumbel_T0.7_g8_b4_s8",
    "llada_leftpad_g16_b8_s16",
    "llada_randomremask_g16_b8_s8",
    "tabom_llada_credit_g16_b8_s16",
    "tabom_llada_default_eosinf_g16_b8_s16",
    "tabom_llada_default_g32_b16_s16",
    "tabom_llada_default_g32_b16_s32",
    "tabom_llada_default_thr0.4_g32_b16_s32",
    "tabom_llada_entropy_g32_b16_s32",
    "tabom_llada_topk_margin_g32_b16_s16",
]
QUIRKS = {
    "dream_quirk_ragged_masks_s8": "one budget for all rows",
    "llada_quirk_maskinprompt_g16_b8_s16": "mask tokens of the prompt are filled",
    "llada_quirk_selfmask_g16_b8_s16": "the mask token is chosen",
    "tabom_llada_quirk_fixed3_crossblock_g16_b8_s16": "picks leak into the next block",
}
SCORES = {
    "low_confidence": "confidence",
    "default": "confidence",
    "credit": "confidence",
    "maskgit_plus": "confidence",
    "origin": "confidence",
    "topk_margin": "margin",
    "entropy": "entropy",
    "random": "random",
}


@pytest.fixture(scope="session")
def models(golden):
    families = {"llada_tiny": LladaBackbone, "dream_tiny": DreamBackbone}
    return {name: family.from_pretrained(golden / name).eval() for name, family in families.items()}


@pytest.fixture
def backbone_of(models, monkeypatch):
    def backbone(case):
        found = models[case["checkpoint"]]
        monkeypatch.setitem(found.config, "mask_token_id", case["mask_id"])
        return found

    return backbone


@pytest.fixture(scope="session")
def cases(golden):
    """Parameters by case, without the notes."""
    parameters = {}
    for name in ("llada", "dream"):
        parameters |= json.loads((golden / f"decode_{name}.json").read_text())
    return {name: case for name, case in parameters.items() if not name.startswith("_")}


@pytest.fixture(scope="session")
def tensors(golden):
    return load_file(golden / "decode_llada.safetensors") | load_file(golden / "decode_dream.safetensors")


def settings_of(name, case):
    """The official arguments in our words."""
    settings = {"score": SCORES[case.get("alg", case.get("remasking"))], "temperature": case.get("temperature", 0.0)}
    if "block_length" in case:
        settings["block_length"] = case["block_length"]
        settings["schedule"] = EvenSplit(case["steps"])
    elif case["alg"] == "origin":
        settings["schedule"] = AncestralUnmasking(case["steps"], case["eps"])
    else:
        settings["schedule"] = LinearTimesteps(case["steps"], case["eps"], case.get("per_step_transfer_cap"))
        settings |= {"score_distribution": "sampling", "top_p": case.get("top_p"), "top_k": case.get("top_k")}
    fixed = case.get("fixed_confidence_topk", case.get("dream_fixed_tokens_per_step"))
    if fixed is not None:
        settings["schedule"] = FixedTokens(fixed)
    if "confidence_threshold" in case:
        settings["schedule"] = ConfidenceThreshold(case["confidence_threshold"])
    if case.get("alg") == "credit":
        settings["trace_credit"] = TraceCredit()
    if case.get("logits_eos_inf"):
        settings["forbidden_token_ids"] = (case["eos_token_id"],)
    return settings | {"cfg_scale": case.get("cfg_scale", 0.0)}


def batch_of(name, case, tensors):
    prompt = tensors[f"{name}/prompt_ids"]
    length = case.get("gen_length", case.get("max_new_tokens"))
    response = torch.full((len(prompt), length), case["mask_id"])
    is_prompt = tensors.get(f"{name}/attention_mask", torch.ones_like(prompt)).bool()
    everything = torch.ones_like(response, dtype=torch.bool)
    return PromptBatch(
        noisy_ids=torch.cat([prompt, response], 1),
        attention_mask=torch.cat([is_prompt, everything], 1),
        is_response=torch.cat([torch.zeros_like(is_prompt), everything], 1),
        examples=tuple(Example(f"{name}/{row}", "", "") for row in range(len(prompt))),
    )


def decode(name, cases, tensors, backbone_of):
    case = cases[name]
    sampler = RecordedSampler(**settings_of(name, case))
    if f"{name}/uniforms" in tensors:
        length = tensors[f"{name}/unmask_step"].shape[1]
        sampler.replay(tensors[f"{name}/uniforms"][:, :, -length:])
    batch = batch_of(name, case, tensors)
    return batch, *decode_with_scores(sampler, backbone_of(case), batch)


def without_waiting(history, steps):
    """A row's history and steps (S, L), (N,) without steps that revealed nothing.

    The official threshold decoding takes all rows through a block together: a row that is done waits for the others.
    """
    kept = steps.unique()
    return history[kept], torch.searchsorted(kept, steps)


def counts(unmask_step):
    """Tokens revealed in each step of a row."""
    return torch.bincount(unmask_step).tolist()


def test_every_recorded_case_is_compared_or_a_known_quirk(cases):
    assert {*COMPARED, *QUIRKS} == set(cases)
    assert {name for name in cases if "quirk" in name} == set(QUIRKS)


@pytest.mark.parametrize("name", COMPARED)
def test_decoding(name, cases, tensors, backbone_of):
    batch, decoded, scores = decode(name, cases, tensors, backbone_of)
    recorded = tensors[f"{name}/x_history"]
    recorded_step = tensors.get(f"{name}/unmask_step", tensors.get(f"{name}/decode_step_map"))
    ours = states(batch, decoded, len(recorded), cases[name]["mask_id"])
    for row, (history, steps) in enumerate(zip(recorded.unbind(1), recorded_step, strict=True)):
        if "confidence_threshold" in cases[name]:
            history, steps = without_waiting(history, steps)
        assert torch.equal(ours[: len(history), row], history)
        is_revealed = steps >= 0
        assert decoded.unmask_step[row, is_revealed].tolist() == steps[is_revealed].tolist()
        assert (decoded.unmask_step[row, ~is_revealed] >= len(history)).all()
    assert torch.equal(ours[-1], tensors[f"{name}/final_ids"])
    if f"{name}/unmask_confidence" in tensors:
        is_revealed = recorded_step >= 0
        expected = tensors[f"{name}/unmask_confidence"]
        torch.testing.assert_close(scores[is_revealed], expected[is_revealed], rtol=0, atol=1e-5)


def test_schedules(golden):
    """Tokens revealed by Dream's schedule, for a single row of L masked positions."""
    schedules = json.loads((golden / "decode_dream.json").read_text())["_schedules"]
    assert len(schedules) == 31
    for key, expected in schedules.items():
        length, num_steps = (int(part[1:].removeprefix("teps")) for part in key.split("_")[:2])
        assert key == f"L{length}_steps{num_steps}_eps0.001"
        schedule, left, revealed = LinearTimesteps(num_steps), torch.tensor([length]), []
        for step in range(num_steps):
            count = schedule.num_revealed(left, torch.tensor([step]), num_blocks=1)
            left = left - count
            revealed.append(int(count))
        assert revealed == expected, key
        assert schedule.max_num_steps(length, num_blocks=1) == num_steps


def test_a_limit_of_tokens_per_step_leaves_no_mask(cases, tensors, backbone_of):
    """The official code stops after its 32 steps with two masks left; ours takes them in further steps."""
    name = "dream_ext_entropy_cap1_s32"
    _, decoded, _ = decode(name, cases, tensors, backbone_of)
    assert (tensors[f"{name}/final_ids"] == 127).sum(1).tolist() == [1, 1]
    assert [counts(row) for row in decoded.unmask_step] == [[0] + [1] * 32] * 2
    assert (decoded.response_ids != 127).all()


def test_rows_share_no_budget(cases, tensors, backbone_of):
    """Dream gives all rows one budget: it re-masks known tokens of one row and leaves masks in the other."""
    name = "dream_quirk_ragged_masks_s8"
    batch, decoded, _ = decode(name, cases, tensors, backbone_of)
    assert (tensors[f"{name}/final_ids"] == 127).any(1).tolist() == [True, True]
    assert [counts(row) for row in decoded.unmask_step] == [[1, 2, 2, 2, 2, 2, 2, 3]] * 2
    assert (decoded.response_ids != 127).all()
    sampler = Sampler(**settings_of(name, cases[name]))
    for row in range(2):
        alone = PromptBatch(
            *(tensor[row : row + 1] for tensor in (batch.noisy_ids, batch.attention_mask, batch.is_response)),
            examples=batch.examples[row : row + 1],
        )
        again = sampler.decode(backbone_of(cases[name]), alone)
        assert again.response_ids[0].tolist() == decoded.response_ids[row].tolist()


def test_mask_tokens_of_a_prompt_stay(cases, tensors, backbone_of):
    """LLaDA fills them as well and spends a block's tokens on them, so that masks are left in the response."""
    name = "llada_quirk_maskinprompt_g16_b8_s16"
    before = tensors[f"{name}/prompt_ids"].clone()
    batch, decoded, _ = decode(name, cases, tensors, backbone_of)
    assert (tensors[f"{name}/final_ids"] == 127).sum() == 3
    assert torch.equal(batch.noisy_ids[:, :8], before)
    assert (before == 127).sum(1).tolist() == [1, 2]
    assert (decoded.response_ids != 127).all()
    assert [[sorted(block) for block in row.view(2, 8).tolist()] for row in decoded.unmask_step] == [
        [list(range(8)), list(range(8, 16))]
    ] * 2


def test_the_mask_token_is_never_chosen(cases, tensors, backbone_of):
    """LLaDA chooses it, spends the step, and leaves seven masks; ours takes the next likely token."""
    name = "llada_quirk_selfmask_g16_b8_s16"
    _, decoded, _ = decode(name, cases, tensors, backbone_of)
    assert (tensors[f"{name}/final_ids"] == 34).sum() == cases[name]["masks_left"] == 7
    assert (decoded.response_ids != 34).all()
    assert [counts(row) for row in decoded.unmask_step] == [[1] * 16] * 2


def test_nothing_leaks_out_of_a_block(cases, tensors, backbone_of):
    """Where 3 tokens per step do not divide a block of 8, the released code picks at random outside of it."""
    name = "tabom_llada_quirk_fixed3_crossblock_g16_b8_s16"
    _, decoded, _ = decode(name, cases, tensors, backbone_of)
    for row in decoded.unmask_step:
        assert [counts(block) for block in row.view(2, 8)] == [[3, 3, 2], [0, 0, 0, 3, 3, 2]]
    assert (decoded.response_ids != 127).all()
