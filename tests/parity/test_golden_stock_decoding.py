"""Recorded decodings of A2D by dLLM's sampler and of iLLaDA by LLaDA's, step by step; and where we differ."""

import json
import re
from collections import Counter

import pytest
import torch
from helpers import decode_with_scores
from parity.recorded import RecordedSampler
from safetensors.torch import load_file

from tabom.backbones.stock import A2DQwen3Backbone, IlladaBackbone
from tabom.samplers import EvenSplit, RoundedTimesteps
from tabom.samplers.schedules import CountSchedule
from tabom.types import Example, PromptBatch

MASK = {"a2d": 127, "illada": 5}
A2D = [
    "full_block_t0",
    "blocks4_t0",
    "steps5_of12_rounding",
    "ragged_batch_blocks4",
    "last_block_short",
    "fewer_steps_than_blocks",
    "gumbel_t0.7",
    "remask_random",
    "cfg1.5",
    "suppress",
    "right_shift",
]
RECORDED_COUNTS = {"cosine": "no cosine schedule", "stochastic_transfer": "no binomial draws of how many"}
NOT_DONE = {"infill_blocks6": "responses without holes", "quirk_mask_in_prompt": "mask tokens of the prompt are filled"}
ILLADA = ["full_t0", "blocks4", "leftpad_batch", "gumbel0.8", "cfg1", "random"]


class RecordedCounts(CountSchedule):
    """As many tokens per step as were recorded for one row."""

    def __init__(self, counts):
        self.counts = counts

    def num_revealed(self, num_masked, step, num_blocks):
        return torch.tensor(self.counts)[step]


@pytest.fixture(scope="module")
def recorded(golden_v2):
    """(backbone, cases, tensors) of both."""
    found = {}
    for kind, family, name in (("a2d", A2DQwen3Backbone, "a2d_mdlm"), ("illada", IlladaBackbone, "illada")):
        cases = json.loads((golden_v2 / f"decode_{name}.json").read_text())
        backbone = family.from_pretrained(golden_v2 / cases["_model"]).eval()
        backbone.config["mask_token_id"] = MASK[kind]
        tensors = load_file(golden_v2 / f"decode_{name}.safetensors")
        found[kind] = backbone, cases, tensors
    return found


class Recording:
    """One case, its rows padded on the left as ours are."""

    def __init__(self, kind, name, recorded):
        self.backbone, cases, tensors = recorded[kind]
        self.kind, self.case = kind, cases[name]
        self.options = self.case["config"] if kind == "a2d" else self.case["params"]
        self.tensors = {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
        self.length = self.tensors["unmask_step"].shape[1]

    def rows(self):
        return range(len(self.case["prompt_lens"]))

    def first(self, row):
        """Column of the row's response in the recorded canvas."""
        width = max(self.case["prompt_lens"])
        return self.case["prompt_lens"][row] if self.kind == "a2d" else width

    def batch(self, rows=None):
        rows = list(self.rows() if rows is None else rows)
        lengths = [self.case["prompt_lens"][row] for row in rows]
        noisy = torch.full((len(rows), max(lengths) + self.length), MASK[self.kind])
        is_there = torch.ones_like(noisy, dtype=torch.bool)
        for place, row in enumerate(rows):
            prompt = self.tensors["prompt_ids"][row]
            prompt = prompt[: lengths[place]] if self.kind == "a2d" else prompt[len(prompt) - lengths[place] :]
            is_there[place, : max(lengths) - lengths[place]] = False
            noisy[place, max(lengths) - lengths[place] : max(lengths)] = prompt
        is_response = torch.zeros_like(is_there)
        is_response[:, -self.length :] = True
        examples = tuple(Example(f"{row}", "", "") for row in rows)
        return PromptBatch(noisy, is_there, is_response, examples)

    def sampler(self, **changes):
        random = self.options.get("remasking") == "random"
        settings = {
            "score": "random" if random else "confidence",
            "temperature": self.options.get("temperature") or 0.0,
            "cfg_scale": self.options.get("cfg_scale") or 0.0,
            "block_length": self.options.get("block_size") or self.options.get("block_length"),
            "forbidden_token_ids": tuple(self.options.get("suppress_tokens") or ()),
            "deferred_token_ids": tuple(self.options.get("begin_suppress_tokens") or ()),
            "schedule": (RoundedTimesteps if self.kind == "a2d" else EvenSplit)(self.options["steps"]),
        }
        sampler = RecordedSampler(**{**settings, **changes})
        draws = self.tensors.get("uniforms_random_scores" if random else "uniforms_gumbel")
        if draws is not None:
            columns = [draws[:, row, self.first(row) : self.first(row) + self.length] for row in self.rows()]
            sampler.replay(torch.stack(columns, 1))
        return sampler

    def compare(self, decoded, scores, rows=None):
        rows = list(self.rows() if rows is None else rows)
        for place, row in enumerate(rows):
            start = self.first(row)
            final = self.tensors["final_ids"][row, start : start + self.length]
            assert decoded.response_ids[place].tolist() == final.tolist()
            assert decoded.unmask_step[place].tolist() == self.tensors["unmask_step"][row].tolist()
            if not self.options.get("begin_suppress_tokens"):  # dLLM takes these out of the confidence's distribution
                expected = self.tensors["unmask_confidence"][row]
                torch.testing.assert_close(scores[place], expected, rtol=0, atol=1e-5)


def test_every_recorded_case_is_compared_or_a_known_difference(recorded):
    expected = {"a2d": [*A2D, *RECORDED_COUNTS, *NOT_DONE], "illada": ILLADA}
    for kind, (_, cases, _) in recorded.items():
        assert Counter(name for name in cases if not name.startswith("_")) == Counter(expected[kind])


@pytest.mark.parametrize(("kind", "name"), [("a2d", name) for name in A2D] + [("illada", name) for name in ILLADA])
def test_decoding(kind, name, recorded, monkeypatch):
    recording = Recording(kind, name, recorded)
    monkeypatch.setattr(recording.backbone, "shift", bool(recording.options.get("right_shift_logits")))
    decoded, scores = decode_with_scores(recording.sampler(), recording.backbone, recording.batch())
    recording.compare(decoded, scores)


@pytest.mark.parametrize("name", RECORDED_COUNTS)
def test_recorded_counts_as_the_schedule(name, recorded):
    recording = Recording("a2d", name, recorded)
    for row in recording.rows():
        counts = recording.tensors["num_transfer"][:, row].tolist()
        sampler = recording.sampler(schedule=RecordedCounts(counts))
        decoded, scores = decode_with_scores(sampler, recording.backbone, recording.batch([row]))
        recording.compare(decoded, scores, [row])


def test_counts(golden_v2):
    """Tokens revealed by the linear schedule, for a row of L masked positions."""
    schedules = json.loads((golden_v2 / "decode_a2d_mdlm.json").read_text())["_schedules"]
    linear = {key: counts for key, counts in schedules.items() if key.startswith("linear_")}
    assert len(linear) == 80
    for key, expected in linear.items():
        length, num_steps = map(int, re.findall(r"\d+", key))
        schedule, left, revealed = RoundedTimesteps(num_steps), torch.tensor([length]), []
        while left > 0:
            count = schedule.num_revealed(left, torch.tensor([len(revealed)]), num_blocks=1)
            left = left - count
            revealed.append(int(count))
        assert revealed == expected, key
        assert schedule.max_num_steps(length, num_blocks=1) == len(expected)


def test_mask_tokens_of_a_prompt_stay(recorded):
    """DLLM fills them as well and spends a block's tokens on them, so that masks are left in the response."""
    recording = Recording("a2d", "quirk_mask_in_prompt", recorded)
    (left,) = recording.case["masks_left"]
    assert left > 0
    decoded, _ = decode_with_scores(recording.sampler(), recording.backbone, recording.batch())
    assert (decoded.response_ids != MASK["a2d"]).all()
    assert sorted(decoded.unmask_step[0].tolist()) == list(range(8))
