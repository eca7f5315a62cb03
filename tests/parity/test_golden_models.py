"""LLaDA and Dream against numbers recorded from the official models on tiny checkpoints.

The golden folder's README, sections A and B, says how they were made.
"""

import pytest
import torch
from safetensors.torch import load_file

from tabom.backbones.dream import DreamBackbone
from tabom.backbones.llada import LladaBackbone

FAMILIES = {"llada_tiny": LladaBackbone, "dream_tiny": DreamBackbone}
MASK = 127
TOLERANCE = {"rtol": 1e-5, "atol": 1e-5}
"""Processors add up in different orders: some differ in the sixth digit of a logit of 2."""


@pytest.fixture(params=FAMILIES)
def recorded(request, golden):
    """(backbone, recorded tensors) of one family."""
    folder = golden / request.param
    return FAMILIES[request.param].from_pretrained(folder).eval(), load_file(folder / "golden.safetensors")


def expected_logits(backbone, tensors, case=""):
    """Entry ``i`` predicts token ``i``: Dream's raw logits stand one to the left of the token they predict."""
    logits = tensors[f"{case}logits"]
    return logits if isinstance(backbone, LladaBackbone) else torch.cat([logits[:, :1], logits[:, :-1]], 1)


def logits(backbone, ids, mask=None):
    mask = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask
    return backbone.logits(backbone(ids, mask))


def test_logits(recorded):
    backbone, tensors = recorded
    expected = expected_logits(backbone, tensors)
    if "logits_shifted" in tensors:
        assert torch.equal(expected, tensors["logits_shifted"])
    torch.testing.assert_close(logits(backbone, tensors["input_ids"]), expected, **TOLERANCE)


def test_hidden_states(recorded):
    backbone, tensors = recorded
    states = backbone.transformer.base_model(tensors["input_ids"], output_hidden_states=True).hidden_states
    assert len(states) == 3
    for index, state in enumerate(states):
        torch.testing.assert_close(state, tensors[f"hidden_states.{index}"], **TOLERANCE)


@pytest.mark.parametrize("side", ["leftpad", "rightpad"])
def test_padding_is_not_seen(recorded, side):
    backbone, tensors = recorded
    is_llada = isinstance(backbone, LladaBackbone)
    mask = tensors[f"{side}.attention_mask" if is_llada else f"{side}.attention_mask_2d"].bool()
    ids = tensors[f"{side}.input_ids"] if f"{side}.input_ids" in tensors else tensors["input_ids"]
    got = logits(backbone, ids, mask)
    expected = expected_logits(backbone, tensors, f"{side}.")
    first = mask.long().argmax(1)
    is_compared = mask.clone()
    if not is_llada:  # the first token after padding keeps its own state here, the padding's in the original
        is_compared[torch.arange(len(first)), first] = first == 0
    assert is_compared.sum() >= mask.sum() - len(mask)
    torch.testing.assert_close(got[is_compared], expected[is_compared], **TOLERANCE)
    row = int(mask.sum(1).argmin())
    solo = expected_logits(backbone, tensors, "solo.")[0]
    torch.testing.assert_close(got[row][mask[row]], solo, **TOLERANCE)


def test_gradients(recorded):
    backbone, tensors = recorded
    ids = tensors["input_ids"]
    is_masked = ids == MASK
    loss = torch.nn.functional.cross_entropy(logits(backbone, ids)[is_masked], tensors["backward.labels"][is_masked])
    torch.testing.assert_close(loss, tensors["backward.loss"].reshape(()), **TOLERANCE)
    loss.backward()
    gradients = {backbone.naming.original(name): p.grad for name, p in backbone.transformer.named_parameters()}
    names = [key.removeprefix("backward.grad.") for key in tensors if key.startswith("backward.grad.")]
    assert len(names) >= 6
    for name in names:
        torch.testing.assert_close(gradients[name], tensors[f"backward.grad.{name}"], **TOLERANCE)


def test_bfloat16(recorded, request, golden):
    """Two kernels in bfloat16 differ by up to 0.4 here, as the official model itself does from its float32."""
    backbone, tensors = recorded
    folder = golden / request.node.callspec.params["recorded"]
    half = FAMILIES[folder.name].from_pretrained(folder, dtype="bfloat16").eval()
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    got = logits(half, tensors["input_ids"])
    assert got.dtype == torch.bfloat16
    official = expected_logits(backbone, {"logits": tensors["logits_bf16"]}).float()
    torch.testing.assert_close(got.float(), official, rtol=0, atol=0.4)
    exact = expected_logits(backbone, tensors)
    assert (got.float() - exact).abs().mean() < 1.2 * (official - exact).abs().mean()
