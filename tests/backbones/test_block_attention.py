"""Block-causal attention: each block equals a pass over itself and the clean blocks before it, one by one."""

import itertools
import json

import pytest
import torch
from backbones.test_pretrained import load, tiny_config
from helpers import a2d_config, family_checkpoint, tiny_checkpoint

from tabom.backbones import Lora, NewTinyDLM, PretrainedBackbone
from tabom.backbones.families import FAMILIES
from tabom.backbones.snapshot import Snapshot
from tabom.backbones.tiny import TinyDLM
from tabom.errors import TabomError

# torch warns of what it cannot compile of flex attention
COMPILED = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
# peft 0.21 reads an attribute that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LENGTH = 11
PADDING = {"none": ((0, 0, 0), (0, 0, 0)), "left": ((0, 3, 4), (0, 0, 0)), "both": ((2, 0, 4), (0, 3, 1))}


def make(block_size=None, *, shift=False, dtype=torch.float64, **settings):
    """A model with weights large enough that every position matters to every other."""
    torch.manual_seed(0)
    backbone = TinyDLM.from_config(tiny_config(), **settings)
    for parameter in backbone.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 1.0)
    backbone.block_size, backbone.shift = block_size, shift
    return backbone.to(dtype).eval()


def canvas(padding="none", seed=1):
    """Noisy and clean ids of three rows, and where they are real; noise may fall anywhere."""
    generator = torch.Generator().manual_seed(seed)
    clean = torch.randint(0, 120, (3, LENGTH), generator=generator)
    noisy = torch.where(torch.rand(clean.shape, generator=generator) < 0.4, 127, clean)
    columns = torch.arange(LENGTH)
    left, right = (torch.tensor(widths)[:, None] for widths in PADDING[padding])
    return noisy, clean, (columns >= left) & (columns < LENGTH - right)


def by_loop(backbone, noisy, clean, mask, size):
    """Hidden states (B, L, D) by stock transformers, one pass a block, with a mask over what lies before its end.

    Inside of the pass the rows of earlier blocks see what they see in the block-causal model.
    """
    rows = []
    for row in range(len(clean)):
        real = mask[row].nonzero().flatten()
        hidden = torch.zeros(LENGTH, backbone.head.weight.shape[1], dtype=torch.float64)
        previous = None
        for start in range(0, len(real), size):
            here = real[start : start + size]
            ids = torch.cat([clean[row, real[:start]], noisy[row, here]])[None]
            number = torch.arange(len(ids[0])) // size
            may_see = torch.zeros(len(ids[0]), len(ids[0]), dtype=torch.float64)
            for query in range(len(ids[0])):
                for key in range(len(ids[0])):
                    if number[key] > number[query]:
                        may_see[query, key] = -torch.inf
            states = backbone.transformer.model(input_ids=ids, attention_mask=may_see[None, None]).last_hidden_state[0]
            own = states[start:]
            if backbone.shift:
                own = torch.cat([own[:1] if previous is None else previous[None], own[:-1]])
                before = real[: start + size]
                previous = by_clean(backbone, clean[row, before][None], size)[-1]
            hidden = hidden.index_copy(0, here, own)
        rows.append(hidden)
    return torch.stack(rows)


def by_clean(backbone, ids, size):
    number = torch.arange(ids.shape[1]) // size
    may_see = torch.zeros(1, 1, ids.shape[1], ids.shape[1], dtype=torch.float64)
    may_see = may_see.masked_fill(number[:, None] < number, -torch.inf)
    return backbone.transformer.model(input_ids=ids, attention_mask=may_see).last_hidden_state[0]


def close(got, expected, mask, tolerance=1e-9):
    torch.testing.assert_close(got[mask], expected[mask], rtol=tolerance, atol=tolerance)


CANVASES = pytest.mark.parametrize(
    ("size", "padding", "shift"), list(itertools.product([1, 3, 4], PADDING, [False, True]))
)


class TestForward:
    @CANVASES
    def test_equals_a_loop_over_blocks(self, size, padding, shift):
        backbone = make(size, shift=shift)
        noisy, _, mask = canvas(padding)
        with torch.inference_mode():
            close(backbone(noisy, mask), by_loop(backbone, noisy, noisy, mask, size), mask)


class TestDenoise:
    @CANVASES
    def test_equals_a_loop_over_blocks(self, size, padding, shift):
        """In value and gradient; Llama's norms compute in float32."""
        backbone = make(size, shift=shift)
        noisy, clean, mask = canvas(padding)
        weights = torch.randn(3, LENGTH, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
        gradients = []
        for hidden in (backbone.denoise(noisy, clean, mask), by_loop(backbone, noisy, clean, mask, size)):
            loss = (hidden.tanh() * weights)[mask].sum()
            gradients.append(torch.autograd.grad(loss, list(backbone.transformer.model.parameters())))
            gradients[-1] += (hidden.detach(),)
        close(gradients[0][-1], gradients[1][-1], mask)
        for got, expected in zip(gradients[0][:-1], gradients[1][:-1], strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("shift", [False, True])
    def test_targets_alone_are_right_where_targets_are_given(self, shift):
        backbone = make(3, shift=shift)
        noisy, clean, mask = canvas("both")
        is_target = mask & (torch.rand(mask.shape, generator=torch.Generator().manual_seed(5)) < 0.3)
        with torch.inference_mode():
            expected = by_loop(backbone, noisy, clean, mask, 3)
            close(backbone.denoise(noisy, clean, mask, is_target), expected, is_target)

    def test_states_of_decoding_need_no_copy(self, monkeypatch):
        backbone = make(4)
        noisy, clean, mask = canvas("left")
        block = (mask.long().cumsum(1) - 1) // 4
        current = torch.tensor([[1], [0], [1]])
        noisy = torch.where(block < current, clean, 127)
        seen = []
        run = TinyDLM._run
        monkeypatch.setattr(TinyDLM, "_run", lambda self, ids, *rest: seen.append(ids.shape) or run(self, ids, *rest))
        with torch.inference_mode():
            hidden = backbone.denoise(noisy, clean, mask, mask & (block == current))
            expected = backbone(noisy, mask)
        assert seen == [(3, 11), (3, 11)]
        close(hidden, expected, mask & (block == current))

    def test_one_block_is_the_masked_model_to_the_bit(self):
        noisy, clean, mask = canvas("both")
        full, blocks = make(dtype=torch.float32), make(LENGTH, dtype=torch.float32)
        assert torch.equal(blocks.denoise(noisy, clean, mask), full(noisy, mask))
        assert torch.equal(blocks(noisy, mask), full(noisy, mask))

    def test_blocks_of_one_with_shift_are_the_causal_model(self):
        noisy, clean, mask = canvas("both")
        blocks, causal = make(1, shift=True), make(shift=True)
        causal.transformer.config.is_causal = True
        after_first = mask & (mask.long().cumsum(1) > 1)
        with torch.inference_mode():
            close(blocks.denoise(noisy, clean, mask), causal(clean, mask), after_first)


@pytest.mark.parametrize("kind", ["adapter off", "adapter on", "snapshot"])
def test_other_views_of_a_backbone_have_its_blocks(kind):
    noisy, clean, mask = canvas("both")
    plain = make(3, dtype=torch.float32)
    backbone = make(3, dtype=torch.float32)
    if kind == "snapshot":
        view = Snapshot(backbone)
        with torch.no_grad():
            backbone.head.weight.add_(1)
            next(backbone.transformer.model.parameters()).add_(1)
    else:
        backbone.add_adapter(Lora(r=2), "base")
        view = backbone.reference() if kind == "adapter off" else backbone
        for name, parameter in backbone.named_parameters():
            if ".lora_B." in name:
                torch.nn.init.normal_(parameter)
    assert view.block_size == 3
    assert torch.equal(view.blocks(mask), plain.blocks(mask))
    got, expected = view.denoise(noisy, clean, mask)[mask], plain.denoise(noisy, clean, mask)[mask]
    assert got.requires_grad == (kind == "adapter on")
    if kind == "adapter on":
        assert (got - expected).abs().max() > 0.1
        assert got.requires_grad
    else:
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("attention", ["eager", pytest.param("flex_attention", marks=COMPILED)])
def test_other_implementations_of_attention(attention):
    noisy, clean, mask = canvas("both")
    usual, other = (make(3, dtype=torch.float32, attn_implementation=name) for name in ("sdpa", attention))
    positions = torch.tensor([[3, 4, 5]]).expand(3, -1)
    with torch.inference_mode():
        for got, expected in zip(*(each.forward_with_cache(noisy, mask) for each in (other, usual)), strict=True):
            if torch.is_tensor(got):
                close(got, expected, mask, 1e-5)
        close(other.denoise(noisy, clean, mask), usual.denoise(noisy, clean, mask), mask, 1e-5)
        parts = [
            each.forward_from_cache(noisy, mask, positions, usual.forward_with_cache(noisy, mask)[1])
            for each in (usual, other)
        ]
    torch.testing.assert_close(*parts, rtol=1e-5, atol=1e-5)


class TestCache:
    @pytest.mark.parametrize("shift", [False, True])
    def test_earlier_blocks_are_exact(self, shift):
        """The cache was filled when the later blocks were masks."""
        backbone = make(3, shift=shift)
        clean, _, mask = canvas("left")
        positions = torch.tensor([[6, 7, 8]]).expand(3, -1) + torch.tensor([[0], [3], [4]]) - 3
        block = (mask.long().cumsum(1) - 1) // 3
        with torch.inference_mode():
            _, cache = backbone.forward_with_cache(torch.where(block < 1, clean, 127), mask)
            got = backbone.forward_from_cache(clean, mask, positions, cache)
            expected = backbone(clean, mask)
        torch.testing.assert_close(got, expected.gather(1, positions[..., None].expand_as(got)))


class TestOptions:
    def test_a_new_model_keeps_its_blocks(self, tokenizer, tmp_path):
        backbone = NewTinyDLM(hidden_size=16, num_layers=1, num_heads=2, intermediate_size=16, block_size=3)
        model = backbone.load(tokenizer)
        model.save_pretrained(tmp_path)
        again = PretrainedBackbone(str(tmp_path)).load(tokenizer)
        assert (model.block_size, again.block_size) == (3, 3)
        assert model.fingerprint() == again.fingerprint()
        again.block_size = 4
        assert model.fingerprint() != again.fingerprint()

    def test_blocks_that_were_chosen_are_saved(self, tokenizer, tmp_path):
        source = str(tiny_checkpoint(tmp_path / "full", tokenizer))
        backbone = PretrainedBackbone(source, attention="block_causal", block_size=5).load(tokenizer)
        backbone.save_pretrained(tmp_path / "blocks")
        assert json.loads((tmp_path / "blocks" / "config.json").read_text())["block_size"] == 5
        read = {
            attention: PretrainedBackbone(str(tmp_path / "blocks"), attention=attention).load(tokenizer).block_size
            for attention in (None, "block_causal", "full", "causal")
        }
        assert read == {None: 5, "block_causal": 5, "full": None, "causal": None}
        with pytest.raises(TabomError, match="block_size: expected the tokens in a block"):
            PretrainedBackbone(source, attention="block_causal").load(tokenizer)

    def test_sdar_is_block_causal_by_its_configuration(self, tmp_path):
        config = a2d_config(model_type="sdar", block_size=4, mask_token_id=127, fuse_cross_entropy=True, ep_size=1)
        path = family_checkpoint(tmp_path / "model", FAMILIES["sdar"].backbone, config)
        backbone = load(path, lora=Lora(r=2)).eval()
        assert backbone.block_size == 4
        backbone.save_pretrained(tmp_path / "again")
        assert json.loads((tmp_path / "again" / "config.json").read_text())["block_size"] == 4
        noisy, _, mask = canvas("both")
        again = load(tmp_path / "again").eval()
        assert torch.equal(again(noisy, mask), backbone(noisy, mask))
        assert not torch.equal(load(path, attention="full").eval()(noisy, mask), backbone(noisy, mask))
        file = path / "config.json"
        file.write_text(json.dumps({key: value for key, value in config.items() if key != "block_size"}))
        with pytest.raises(TabomError, match="found no block_size"):
            load(path)

    def test_bad_values_are_errors(self):
        with pytest.raises(TabomError, match="block_size: expected attention: block_causal beside it, got none"):
            PretrainedBackbone("anything", block_size=4)
        with pytest.raises(TabomError, match="block_size: expected at least 1, got 0"):
            NewTinyDLM(block_size=0)
        backbone = make(3)
        backbone.transformer.config._attn_implementation = "flash_attention_2"
        with pytest.raises(TabomError, match="attn_implementation: expected sdpa, eager or flex_attention"):
            backbone(*canvas()[::2])
