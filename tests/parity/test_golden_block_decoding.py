"""Recorded decodings of block-causal models by the samplers of SDAR, LLaDA2 and dLLM (BD3LM); and where we differ."""

import json
from collections import Counter

import pytest
import torch
from helpers import decode_with_scores
from parity.recorded import RecordedSampler
from safetensors.torch import load_file

from tabom.backbones.families import FAMILIES
from tabom.samplers import RoundedTimesteps, StepsPerBlock
from tabom.types import Example, PromptBatch

MASK = 127
SDAR = [
    "dynamic_thr0.5",
    "dynamic_thr0.85_partial_prompt_block",
    "static_4steps",
    "static_2steps",
    "sequential",
    "topk3_topp0.9",
    "greedy_topk1",
    "stop_token",
]
REWRITES_PROMPT = "quirk_static_2steps_rewrites_prompt"
LLADA2 = ["greedy_thr0.95", "greedy_thr0.4_partial_prompt_block", "greedy_batch2_3steps", "temperature0.8_topk5"]
LEAVES_MASKS = "quirk_eos_break_leaves_masks"
BD3LM = [("b4_t0", 0), ("b4_ragged_leftpad", 1), ("b4_gumbel", 0)]
"""With the row; all whose prompts are whole blocks."""
OTHER_GRID = [
    "b4_2steps_per_block",
    "b4_short_last",
    "b4_16_tokens",
    "b4_cfg1.0",
    "b4_right_shift",
    "b4_early_stop",
]


@pytest.fixture(scope="module")
def recorded(golden_v2):
    """(backbone, cases, tensors) by the name of the records."""
    found = {}

    def read(name, model_type):
        if name not in found:
            cases = json.loads((golden_v2 / f"decode_{name}.json").read_text())
            backbone = FAMILIES[model_type].backbone.from_pretrained(golden_v2 / cases["_model"]).eval()
            backbone.config["mask_token_id"] = MASK
            found[name] = backbone, cases, load_file(golden_v2 / f"decode_{name}.safetensors")
        return found[name]

    return read


class Recording:
    """One case with a response that fills its last block."""

    def __init__(self, recorded, name):
        self.backbone, cases, tensors = recorded
        self.case = cases[name]
        self.options = self.case.get("params") or self.case["config"]
        self.tensors = {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
        self.prompt_ids, self.steps = self.tensors["prompt_ids"], self.tensors["unmask_step"]
        self.steps = self.steps.view(len(self.prompt_ids), -1)
        self.length = self.steps.shape[1]
        size = self.options.get("block_length") or self.options["block_size"]
        self.backbone.block_size = size

    def batch(self, rows=None):
        prompt = self.prompt_ids if rows is None else self.prompt_ids[rows]
        noisy = torch.nn.functional.pad(prompt, (0, self.length), value=MASK)
        is_response = torch.zeros_like(noisy, dtype=torch.bool)
        is_response[:, -self.length :] = True
        examples = tuple(Example(f"{row}", "", "") for row in range(len(prompt)))
        return PromptBatch(noisy, torch.ones_like(is_response), is_response, examples)

    def sampler(self, default_temperature, **settings):
        """Which draws the recorded tokens: nothing else has a chance."""
        temperature = self.options.get("temperature", default_temperature)
        sampler = RecordedSampler(
            **{
                "score": "confidence",
                "temperature": temperature,
                "score_distribution": "sampling" if temperature else "model",
                "top_k": self.options.get("top_k"),
                "top_p": self.options.get("top_p"),
                "top_k_first": True,
                **settings,
            }
        )
        if "sampled_ids" in self.tensors:
            drawn = self.tensors["sampled_ids"].view(-1, len(self.prompt_ids), self.backbone.block_size)
            uniforms = torch.zeros(len(drawn), len(self.prompt_ids), self.length, self.backbone.vocab_size)
            uniforms = uniforms.double()
            for step, start in enumerate((self.tensors["block_start_of_step"] - self.prompt_ids.shape[1]).tolist()):
                columns = range(max(start, 0), start + self.backbone.block_size)
                for row in range(len(self.prompt_ids)):
                    ids = drawn[step, row, columns.start - start :]
                    uniforms[step, row, list(columns), ids] = 0.5
            sampler.replay(uniforms)
        return sampler

    def compare(self, decoded, scores, rows=None, *, end=None):
        """Tokens, steps and confidences, up to and with the first ``end``."""
        for place, row in enumerate(range(len(self.steps)) if rows is None else rows):
            ids = self.tensors["final_ids"][row, -self.length :].tolist()
            num = ids.index(end) + 1 if end in ids else self.length
            assert decoded.response_ids[place, :num].tolist() == ids[:num]
            assert decoded.unmask_step[place, :num].tolist() == self.steps[row, :num].tolist()
            if scores is not None:
                expected = self.tensors["unmask_confidence"].view(len(self.steps), -1)[row, :num]
                torch.testing.assert_close(scores[place, :num], expected, rtol=0, atol=1e-5)


def test_every_recorded_case_is_compared_or_a_known_difference(golden_v2):
    forwards = ["forward_b4", "forward_b8"]  # in test_golden_block_models.py
    expected = {
        "sdar": [*SDAR, REWRITES_PROMPT],
        "llada2": [*LLADA2, LEAVES_MASKS],
        "a2d_bd3lm": [*(name for name, _ in BD3LM), *OTHER_GRID, *forwards],
    }
    for name, names in expected.items():
        cases = json.loads((golden_v2 / f"decode_{name}.json").read_text())
        assert Counter(case for case in cases if not case.startswith("_")) == Counter(names)


def sdar(recording):
    strategy = recording.options.get("remasking_strategy", "low_confidence_dynamic")
    threshold = recording.options.get("confidence_threshold", 0.85) if strategy == "low_confidence_dynamic" else None
    score = "position" if strategy == "sequential" else "confidence"
    schedule = StepsPerBlock(recording.options["denoising_steps"], threshold)
    return recording.sampler(1.0, score=score, schedule=schedule)


@pytest.mark.parametrize("name", SDAR)
def test_sdar(name, recorded):
    recording = Recording(recorded("sdar", "sdar"), name)
    (end,) = recording.options.get("stopping_criteria_idx", [None])
    sampler = sdar(recording)
    decoded, scores = decode_with_scores(sampler, recording.backbone, recording.batch(), eos_token_id=end)
    recording.compare(decoded, scores if sampler.score == "confidence" else None, end=end)


def test_a_prompt_stays_where_the_quota_is_more_than_what_is_masked(recorded):
    """SDAR's static rule picks a prompt token as well, whose block has one mask and two tokens a step."""
    recording = Recording(recorded("sdar", "sdar"), REWRITES_PROMPT)
    assert recording.case["prompt_rewritten"]
    decoded, _ = decode_with_scores(sdar(recording), recording.backbone, recording.batch())
    assert decoded.unmask_step[0].bincount().tolist() == [1, 2, 2]
    assert decoded.unmask_step[0, 0] == 0


def llada2(recording):
    config = recording.options
    return recording.sampler(0.0, schedule=StepsPerBlock(config["steps_per_block"], config["threshold"]))


@pytest.mark.skipif("llada2_moe" not in FAMILIES, reason="LLaDA2 is not among the families")
@pytest.mark.parametrize("name", LLADA2)
def test_llada2(name, recorded):
    recording = Recording(recorded("llada2", "llada2_moe"), name)
    decoded, scores = decode_with_scores(llada2(recording), recording.backbone, recording.batch())
    recording.compare(decoded, scores)


@pytest.mark.skipif("llada2_moe" not in FAMILIES, reason="LLaDA2 is not among the families")
def test_what_is_before_the_end_is_decoded_as_by_the_models_own_function(recorded):
    """DLLM leaves masks in the block in which the end comes; LLaDA2's own ``generate`` goes on, as we do."""
    recording = Recording(recorded("llada2", "llada2_moe"), LEAVES_MASKS)
    assert recording.case["masks_left"] > 0
    end, text = recording.case["eos"], recording.tensors["model_generate_ids"][0].tolist()
    decoded, _ = decode_with_scores(llada2(recording), recording.backbone, recording.batch(), eos_token_id=end)
    assert decoded.response_ids[0, : len(text)].tolist() == text
    assert text[-1] == end


@pytest.mark.parametrize(("name", "row"), BD3LM)
def test_bd3lm(name, row, recorded):
    recording = Recording(recorded("a2d_bd3lm", "a2d-qwen3"), name)
    assert recording.case["prompt_lens"][row] % 4 == 0
    sampler = recording.sampler(0.0, score_distribution="model", schedule=RoundedTimesteps(recording.options["steps"]))
    draws = [recording.tensors[key] for key in sorted(recording.tensors) if key.startswith("uniforms_gumbel")]
    if draws:
        starts = recording.tensors["block_start_of_step"] - recording.prompt_ids.shape[1]
        uniforms = torch.zeros(len(draws), 1, recording.length, draws[0].shape[-1], dtype=torch.float64)
        for step, start in enumerate(starts.tolist()):
            uniforms[step, 0, start : start + 4] = draws[step][0]
        sampler.replay(uniforms)
    decoded, scores = decode_with_scores(sampler, recording.backbone, recording.batch([row]))
    recording.compare(decoded, scores, [row])


@pytest.mark.parametrize("name", OTHER_GRID)
def test_dllm_counts_the_blocks_of_a_response_from_its_start(name, recorded):
    """We count from the prompt's, as in training: where a prompt ends within a block, the first block is its rest."""
    recording = Recording(recorded("a2d_bd3lm", "a2d-qwen3"), name)
    (length,) = recording.case["prompt_lens"]
    num_left = 4 - length % 4
    assert num_left < 4
    decoded, _ = decode_with_scores(recording.sampler(0.0), recording.backbone, recording.batch())
    steps = decoded.unmask_step[0]
    assert sorted(steps[:num_left].tolist()) == list(range(num_left))
    assert sorted(steps[num_left : num_left + 4].tolist()) == list(range(num_left, num_left + 4))
    first = recording.steps[0, :4]
    assert sorted(first.unique().tolist()) == list(range(int(first.max()) + 1))
