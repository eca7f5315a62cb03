"""dLLM's loss on masked diffusion models: logits, weighted tokens, loss and gradients, under its recorded masks."""

import json

import pytest
import torch
from safetensors.torch import load_file

from tabom.backbones.stock import A2DQwen3Backbone
from tabom.functional.token_statistics import linear_token_statistics
from tabom.functional.weighting import inverse_ratio_weights
from tabom.objectives import NelboObjective
from tabom.types import CorruptedBatch

MASK = 127
CASES = ["mdlm_cosine", "mdlm_mask", "mdlm_right_shift_pretrain", "mdlm_sft_nomask", "mdlm_uniform_batch"]
EPSILON = 1e-6  # added to the time in dLLM's weight
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}


@pytest.fixture
def recorded(golden_v2):
    """(settings, tensors by case, backbone)."""
    cases = json.loads((golden_v2 / "loss_a2d.json").read_text())
    assert {name for name in cases if name.startswith("mdlm_")} == set(CASES)
    backbone = A2DQwen3Backbone.from_pretrained(golden_v2 / cases["_model"])
    return cases, load_file(golden_v2 / "loss_a2d.safetensors"), backbone


class Case:
    """Ids, labels and mask as the network gets them; dLLM may put a first token before the row."""

    def __init__(self, name, recorded):
        cases, tensors, self.backbone = recorded
        self.settings = cases[name]
        self.tensors = {key.removeprefix(f"{name}/"): t for key, t in tensors.items() if key.startswith(f"{name}/")}
        self.backbone.shift = self.settings["right_shift_logits"]
        self.noisy_ids = self.tensors["network_input_ids"]
        num_new = self.noisy_ids.shape[1] - self.tensors["labels"].shape[1]
        self.labels = torch.nn.functional.pad(self.tensors["labels"], (num_new, 0), value=-100)
        everything = torch.ones_like(self.tensors["labels"])
        mask = self.tensors["attention_mask"] if self.settings["style"] == "mask" else everything
        self.mask = torch.nn.functional.pad(mask, (num_new, 0), value=1).bool()
        self.is_learnable = self.labels != -100
        self.is_masked = (self.noisy_ids == MASK) & self.is_learnable

    def statistics(self):
        hidden = self.backbone(self.noisy_ids, self.mask)
        clean_ids = torch.where(self.is_learnable, self.labels, 0)
        return linear_token_statistics(hidden, self.backbone.head, clean_ids)

    def compare_gradients(self, loss):
        loss.backward()
        gradients = {name: p.grad for name, p in self.backbone.transformer.named_parameters()}
        names = [key for key in self.tensors if key.startswith("grad.")]
        assert len(names) == 6
        for name in names:
            scale = self.tensors[name].abs().max()
            torch.testing.assert_close(
                gradients[name.removeprefix("grad.")] / scale, self.tensors[name] / scale, **TOLERANCE
            )


@pytest.mark.parametrize("name", CASES)
def test_weighted_tokens_and_their_gradients(name, recorded):
    """With dLLM's weights and normalisation."""
    case = Case(name, recorded)
    logits = case.backbone.logits(case.backbone(case.noisy_ids, case.mask))
    expected = case.tensors["logits"]
    if case.backbone.shift:  # recorded before the shift
        expected = torch.cat([expected[:, :1], expected[:, :-1]], 1)
    torch.testing.assert_close(logits[case.mask], expected[case.mask], **TOLERANCE)
    num_learnable = case.is_learnable.sum(1, keepdim=True)
    divisor = {
        "token": num_learnable.sum(),
        "sequence": num_learnable * len(num_learnable),
        "batch": torch.tensor(len(num_learnable)),
    }[case.settings["loss_norm_type"]]
    parts = (case.tensors["weights"] * case.statistics().nll / divisor).where(case.is_masked, 0.0)
    torch.testing.assert_close(parts, case.tensors["token_nll_weighted"], **TOLERANCE)
    loss = parts.sum()
    torch.testing.assert_close(loss, case.tensors["loss"], **TOLERANCE)
    case.compare_gradients(loss)


def test_our_objective_is_its_loss_by_sequence(recorded):
    """``weighting: inverse_ratio``: per row over the learnable tokens, then over rows."""
    case = Case("mdlm_mask", recorded)
    ratio = case.tensors["t"] + EPSILON
    corrupted = CorruptedBatch(
        clean_ids=torch.where(case.is_learnable, case.labels, 0),
        noisy_ids=case.noisy_ids,
        attention_mask=case.mask,
        is_masked=case.is_masked,
        is_target=case.is_masked,
        order=torch.zeros_like(case.labels),
        recorded_entropy=torch.full(case.labels.shape, torch.nan),
        query_ids=("a", "b", "c"),
        mask_ratio=ratio,
        token_weight=inverse_ratio_weights(case.is_learnable, ratio),
    )
    loss = NelboObjective(weighting="inverse_ratio").terms(case.statistics(), corrupted)["loss"]
    torch.testing.assert_close(loss, case.tensors["loss"], **TOLERANCE)
    case.compare_gradients(loss)
