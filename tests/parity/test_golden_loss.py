"""Loss and gradient against recorded numbers: of the paper's equations in float64, and of the released code.

The golden folder's README, section D, says how they were made. Its variants, and the settings that reproduce them:

* ``paper_strict``: the window counts steps, tokens of one step form no pair;
* ``paper_entropytie``: the window counts steps, tokens of one step stand by recorded entropy;
* ``paper_tokenwin``: the window counts tokens, tokens of one step stand by recorded entropy (our default);
* ``hand_triu``: the window counts steps, tokens of one step stand by position; ``released`` is the same in float32 and
  with an epsilon in the entropy, and its reconstruction is the mean over the tokens of the batch.

One case supervises another window than it ranks (``M6_W10``): 6 and 10 steps. The released code ranks supervised
positions alone, so that its 10 acts as 6 and one objective with a window of 6 steps gives both terms.
"""

import json

import pytest
import torch
from safetensors.torch import load_file

from tabom.corruption import TrajectorySegments
from tabom.functional.head import Head
from tabom.functional.token_statistics import linear_token_statistics
from tabom.objectives import TabomObjective
from tabom.types import NEVER, TrajectoryBatch

MISSING_ORDER = -2
DROPPED_ROW = -1
MASK = 38
MARGINS = ("0.0", "0.1", "0.3")
QUIRK = "tied2_quirk_unstable_sort"
CASES = {
    "perm": MARGINS,
    "tied2": MARGINS,
    "never_decoded": MARGINS,
    "short_and_default_order": MARGINS,
    "pads_included": MARGINS,
    "M6_W10": MARGINS,
    "mixed": MARGINS,
    QUIRK: ("0.1",),
}
VARIANTS = {
    "paper_strict": {"window_unit": "steps", "ties": "unordered"},
    "paper_entropytie": {"window_unit": "steps", "ties": "entropy"},
    "paper_tokenwin": {"window_unit": "tokens", "ties": "entropy"},
    "hand_triu": {"window_unit": "steps", "ties": "positional"},
}
LOSSES = [(case, margin) for case, margins in CASES.items() for margin in margins]
GRADIENTS = [(case, margin) for case, margin in LOSSES if margin == "0.1" or case in ("perm", "tied2")]
GRADIENT_VARIANTS = ("paper_strict", "paper_tokenwin")
BY_POSITION = VARIANTS["hand_triu"]


@pytest.fixture(scope="module")
def losses(golden):
    cases = json.loads((golden / "loss.json").read_text(encoding="utf-8"))
    return {name: case for name, case in cases.items() if name != "_notes"}


@pytest.fixture(scope="module")
def tensors(golden):
    return load_file(golden / "loss.safetensors")


class Case:
    """A recorded batch, without the rows that the released code dropped."""

    def __init__(self, name, losses, tensors):
        self.settings = losses[name]
        self.tensors = {key.removeprefix(f"{name}/"): value for key, value in tensors.items()}
        self.is_kept = self.tensors["cut"] != DROPPED_ROW
        self.prompt_length = self.settings["prompt_len"]
        steps = self.kept("decoding_order")
        left_to_right = torch.arange(steps.shape[1]).expand_as(steps)
        self.steps = torch.where(steps == MISSING_ORDER, left_to_right, steps)
        self.logits = self.kept("logits").double().requires_grad_()

    def kept(self, name):
        return self.tensors[name][self.is_kept]

    def window(self, variant):
        """Of the ranking; by steps it is limited to supervised positions."""
        supervised, ranked = self.settings["M"], self.settings["W"]
        return ranked if variant == "paper_tokenwin" else min(supervised, ranked)

    def batch(self):
        labels, prompt = self.kept("labels"), self.kept("prompt_ids")
        is_prompt = self.kept("prompt_attention_mask").bool()
        everywhere = torch.ones_like(labels, dtype=torch.bool)
        nowhere = torch.zeros_like(is_prompt)
        no_entropy = torch.full(prompt.shape, torch.nan, dtype=torch.float64)
        return TrajectoryBatch(
            clean_ids=torch.cat([prompt, labels], 1),
            attention_mask=torch.cat([is_prompt, everywhere], 1),
            is_response=torch.cat([nowhere, everywhere], 1),
            is_filler=torch.cat([nowhere, ~everywhere], 1),
            unmask_step=torch.cat([torch.full_like(prompt, NEVER), self.steps], 1),
            unmask_entropy=torch.cat([no_entropy, self.kept("decode_entropy")], 1),
            query_ids=tuple(f"row {row}" for row in self.is_kept.nonzero().flatten().tolist()),
        )

    def segment(self, window, options):
        start = self.kept("cut")
        if options["window_unit"] == "tokens":
            start = ((self.steps != NEVER) & (self.steps < start[:, None])).sum(1)
        return TrajectorySegments(window, **options).cut(self.batch(), start, MASK)

    def terms(self, window, margin, options, **changes):
        objective = TabomObjective(window=window, margin=float(margin), **options, **changes)
        corrupted = self.segment(window, options)
        identity = Head(torch.eye(self.logits.shape[-1], dtype=torch.float64))  # the recorded logits as hidden states
        return objective.terms(linear_token_statistics(self.logits, identity, corrupted.clean_ids), corrupted)

    def gradient(self, window, margin, options, rank_weight):
        """Of the loss with respect to all logits, zero in dropped rows; all tokens of the batch weigh alike."""
        loss = self.terms(window, margin, options, rank_weight=rank_weight, reduction="batch_tokens")["loss"]
        gradient = torch.zeros(len(self.is_kept), *self.logits.shape[1:], dtype=torch.float64)
        (gradient[self.is_kept],) = torch.autograd.grad(loss, self.logits)
        return gradient

    def reconstruction_gradient(self, options):
        return self.gradient(self.settings["M"], 0.0, options, rank_weight=0.0)

    def ranking_gradient(self, window, margin, options):
        both = self.gradient(window, margin, options, rank_weight=1.0)
        return both - self.gradient(window, margin, options, rank_weight=0.0)


def test_every_recorded_number_is_compared(losses, tensors):
    assert {(case, margin) for case in losses for margin in losses[case]["losses"]} == set(LOSSES)
    assert len(LOSSES) * len(VARIANTS) == (7 * 3 + 1) * 4
    recorded_variants = {frozenset(losses[case]["losses"][margin]) for case, margin in LOSSES}
    assert recorded_variants == {frozenset([*VARIANTS, "released", "hand_triu_eps", "check_released_vs_hand_triu_eps"])}
    for variant in GRADIENT_VARIANTS:
        suffix = f"/{variant}_grad_rank"
        recorded = {tuple(key.removesuffix(suffix).split("/m")) for key in tensors if key.endswith(suffix)}
        assert recorded == set(GRADIENTS)
        assert {key.split("/")[0] for key in tensors if key.endswith(f"/{variant}_grad_ce")} == set(CASES)
    assert len(GRADIENTS) == 6 * 1 + 2 * 3


def test_no_case_needs_shifted_logits_or_another_mask(losses):
    assert {(case["backend"], case["mask_id"]) for case in losses.values()} == {("llada", MASK)}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("name", "margin"), LOSSES)
def test_values(losses, tensors, name, margin, variant):
    case, options = Case(name, losses, tensors), VARIANTS[variant]
    expected = losses[name]["losses"][margin][variant]
    supervised = case.terms(case.settings["M"], margin, options)
    ranked = case.terms(case.window(variant), margin, options)
    by_token = case.terms(case.settings["M"], margin, options, reduction="batch_tokens")
    assert supervised["reconstruction"].item() == pytest.approx(expected["loss_ce_persample"], abs=1e-9)
    assert by_token["reconstruction"].item() == pytest.approx(expected["loss_ce_batchmean"], abs=1e-9)
    assert ranked["ranking"].item() == pytest.approx(expected["loss_rank"], abs=1e-9)
    if case.settings["M"] == case.window(variant):
        total = expected["loss_ce_persample"] + 1.0 * expected["loss_rank"]
        assert ranked["loss"].item() == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_number_of_targets_and_pairs(losses, tensors, name, variant):
    case = Case(name, losses, tensors)
    expected = losses[name]["losses"]["0.1"][variant]
    corrupted = case.segment(case.window(variant), VARIANTS[variant])
    num_targets, num_pairs = [0] * len(case.is_kept), [0] * len(case.is_kept)
    for index, row in enumerate(case.is_kept.nonzero().flatten().tolist()):
        order = corrupted.order[index, corrupted.is_target[index]]
        num_targets[row], num_pairs[row] = len(order), int((order[:, None] < order[None, :]).sum())
    assert (num_targets, num_pairs) == (expected["n_window"], expected["n_pairs"])


@pytest.mark.parametrize("variant", GRADIENT_VARIANTS)
@pytest.mark.parametrize("name", CASES)
def test_gradient_of_the_reconstruction(losses, tensors, name, variant):
    case = Case(name, losses, tensors)
    gradient = case.reconstruction_gradient(VARIANTS[variant])
    expected = case.tensors[f"{variant}_grad_ce"]
    torch.testing.assert_close(gradient[:, case.prompt_length :], expected, rtol=0, atol=1e-12)
    assert not gradient[:, : case.prompt_length].any()


@pytest.mark.parametrize("variant", GRADIENT_VARIANTS)
@pytest.mark.parametrize(("name", "margin"), GRADIENTS)
def test_gradient_of_the_ranking(losses, tensors, name, margin, variant):
    case = Case(name, losses, tensors)
    gradient = case.ranking_gradient(case.window(variant), margin, VARIANTS[variant])
    expected = case.tensors[f"m{margin}/{variant}_grad_rank"]
    torch.testing.assert_close(gradient[:, case.prompt_length :], expected, rtol=0, atol=1e-12)
    assert not gradient[:, : case.prompt_length].any()


@pytest.mark.parametrize("name", CASES)
def test_network_input_and_supervised_positions_of_the_released_code(losses, tensors, name):
    case = Case(name, losses, tensors)
    corrupted = case.segment(case.settings["M"], BY_POSITION)
    assert torch.equal(corrupted.noisy_ids, case.kept("x_in"))
    assert torch.equal(corrupted.attention_mask, case.kept("attention_mask").bool())
    assert torch.equal(corrupted.is_target[:, case.prompt_length :], case.kept("ce_mask"))
    assert not corrupted.is_target[:, : case.prompt_length].any()


@pytest.mark.parametrize("rank_weight", [1, 2])
@pytest.mark.parametrize(("name", "margin"), [loss for loss in LOSSES if loss[0] != QUIRK])
def test_losses_of_the_released_code(losses, tensors, name, margin, rank_weight):
    """Its float32 and its epsilon change them by up to 1.3e-6. The quirk's ties are in arbitrary order."""
    case = Case(name, losses, tensors)
    expected = losses[name]["losses"][margin]["released"]
    window = case.window("hand_triu")
    assert window == case.settings["M"]
    result = case.terms(window, margin, BY_POSITION, rank_weight=float(rank_weight), reduction="batch_tokens")
    assert result["reconstruction"].item() == pytest.approx(expected["loss_ce"], abs=2e-6)
    assert result["ranking"].item() == pytest.approx(expected["loss_rank"], abs=2e-6)
    assert result["loss"].item() == pytest.approx(expected[f"loss_total_lambda{rank_weight}"], abs=2e-6)


@pytest.mark.parametrize(("name", "margin"), [gradient for gradient in GRADIENTS if gradient[0] != QUIRK])
def test_gradients_of_the_released_code(losses, tensors, name, margin):
    """Its float32 and its epsilon change them by up to 1.5e-8, of 0.08."""
    case = Case(name, losses, tensors)
    window = case.settings["M"]
    reconstruction = case.gradient(window, margin, BY_POSITION, rank_weight=0.0)
    total = case.gradient(window, margin, BY_POSITION, rank_weight=1.0)
    torch.testing.assert_close(reconstruction.float(), case.tensors["grad_ce"], rtol=0, atol=1e-7)
    torch.testing.assert_close(total.float(), case.tensors[f"m{margin}/grad_total_lambda1"], rtol=0, atol=1e-7)
