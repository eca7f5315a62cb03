"""LLaDA2: its computation, its files, and adapters by its own names."""

import functools
import json

import huggingface_hub
import peft
import pytest
import torch
from backbones.original_llada2 import OriginalLlada2
from backbones.test_lora import logits, stirred, trained_names
from backbones.test_pretrained import fails, ids_and_mask, load, rewrite
from helpers import llada2_config
from safetensors.torch import load_file, save_file

from tabom.backbones import Lora, PretrainedBackbone, checkpoint

# peft 0.21 reads an attribute that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
ATTENTION = ("query_key_value", "dense")
LORA = Lora(r=4, alpha=8, target_modules=ATTENTION)
EXPERT = "model.layers.1.mlp.experts.{}.{}_proj.weight"
CLOSE = {"rtol": 1e-4, "atol": 1e-4}


@pytest.fixture
def original():
    torch.manual_seed(0)
    model = OriginalLlada2(llada2_config())
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2 if parameter.dim() > 1 else 1.0)
    return model.eval()


@pytest.fixture
def saved(tmp_path, original):
    """A checkpoint that no code of ours wrote."""
    path = tmp_path / "model"
    path.mkdir()
    (path / "config.json").write_text(json.dumps(llada2_config()))
    save_file(original.state_dict(), path / "model.safetensors", metadata={"format": "pt"})
    return path


def change_config(path, **changes):
    (path / "config.json").write_text(json.dumps(llada2_config(**changes)))


def original_logits(model, ids):
    with torch.no_grad():
        return model(ids)


class TestComputation:
    def test_equals_the_description(self, saved, original):
        ids, mask = ids_and_mask()
        got = logits(load(saved).eval(), ids, mask)
        torch.testing.assert_close(got, original_logits(original, ids), rtol=1e-5, atol=1e-5)

    def test_blocks_are_of_32_tokens_unless_the_configuration_says_otherwise(self, saved):
        ids, mask = ids_and_mask()
        whole = load(saved).eval()
        change_config(saved, block_size=4)
        blocks = load(saved).eval()
        assert (whole.block_size, blocks.block_size) == (32, 4)
        changed = ids.clone()
        changed[:, 4:] = 5
        before, after = (logits(blocks, each, mask)[:, :4] for each in (ids, changed))
        torch.testing.assert_close(before, after, rtol=1e-5, atol=1e-5)
        assert not torch.allclose(logits(whole, ids, mask)[:, :4], before, atol=1e-2)

    @pytest.mark.parametrize(("left", "right"), [(4, 0), (0, 3)])
    def test_padding_on_either_side_changes_nothing(self, saved, left, right):
        backbone = load(saved).eval()
        ids, mask = ids_and_mask()
        padded = torch.nn.functional.pad(ids, (left, right), value=3), torch.nn.functional.pad(mask, (left, right))
        got = logits(backbone, *padded)[:, left : left + 9]
        torch.testing.assert_close(got, logits(backbone, ids, mask), rtol=1e-5, atol=1e-5)

    def test_the_router_computes_in_float32_under_autocast(self, saved):
        gate = load(saved).transformer.model.layers[1].mlp.gate
        hidden = torch.randn(5, 32)
        expected = gate(hidden)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            got = gate(hidden)
        for ours, theirs in zip(got, expected, strict=True):
            assert torch.equal(ours, theirs)


class TestFiles:
    def test_round_trip(self, saved, tmp_path):
        backbone = load(saved)
        backbone.save_pretrained(tmp_path / "again")
        before, after = (load_file(each / "model.safetensors") for each in (saved, tmp_path / "again"))
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert json.loads((tmp_path / "again/config.json").read_text()) == llada2_config()
        assert load(tmp_path / "again").fingerprint() == backbone.fingerprint()

    def test_several_files(self, saved, tmp_path, monkeypatch):
        small = functools.partial(huggingface_hub.split_torch_state_dict_into_shards, max_shard_size=40_000)
        monkeypatch.setattr(checkpoint, "split_torch_state_dict_into_shards", small)
        backbone = load(saved)
        backbone.save_pretrained(tmp_path / "again")
        files = sorted((tmp_path / "again").glob("*.safetensors"))
        assert len(files) > 2
        stored = {name for file in files for name in load_file(file)}
        assert stored == load_file(saved / "model.safetensors").keys()
        assert load(tmp_path / "again").fingerprint() == backbone.fingerprint()

    def test_the_bias_of_the_experts_stays_in_float32(self, saved, tmp_path):
        change_config(saved, dtype="bfloat16")
        rewrite(
            saved, lambda state: state.update({n: t.bfloat16() for n, t in state.items() if "expert_bias" not in n})
        )
        load(saved).save_pretrained(tmp_path / "again")
        before, after = (load_file(each / "model.safetensors") for each in (saved, tmp_path / "again"))
        assert {t.dtype for t in after.values()} == {torch.bfloat16, torch.float32}
        assert all(
            torch.equal(before[name], after[name]) and before[name].dtype == after[name].dtype for name in before
        )

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda state: state.pop(EXPERT.format(7, "up")), f"missing tensors: {EXPERT.format(7, 'up')}"),
            (
                lambda state: state.update({EXPERT.format(8, "up"): state[EXPERT.format(7, "up")].clone()}),
                f"surplus tensors: {EXPERT.format(8, 'up')}",
            ),
            (
                lambda state: state.update({EXPERT.format(2, "down"): torch.zeros(32, 23)}),
                f"tensor {EXPERT.format(2, 'down')}: expected shape [32, 24], got [32, 23]",
            ),
            (
                lambda state: state.pop("model.layers.1.mlp.gate.expert_bias"),
                "missing tensors: model.layers.1.mlp.gate.expert_bias",
            ),
        ],
    )
    def test_tensors_that_do_not_fit(self, saved, change, message):
        rewrite(saved, change)
        assert fails(saved) == f"{saved}/model.safetensors: {message}"

    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("num_experts", None, "expected the keys of a LLaDA2 model, found no num_experts"),
            ("use_qkv_bias", True, "use_qkv_bias: expected False, as LLaDA2 has it, got True"),
            (
                "score_function",
                "softmax",
                "score_function: expected 'sigmoid', as LLaDA2 has it, got 'softmax'",
            ),
            ("rotary_dim", 16, "rotary_dim: expected 8, as LLaDA2 has it, got 16"),
            (
                "rope_scaling",
                {"type": "yarn"},
                "rope_scaling.type: expected 'default', as LLaDA2 has it, got 'yarn'",
            ),
        ],
    )
    def test_fields(self, saved, field, value, message):
        change_config(saved, **{field: value})
        assert fails(saved) == f"{saved}/config.json: {message}"

    def test_experts_are_not_quantised(self, saved):
        assert fails(saved, quantization="4bit", lora=LORA) == (
            "quantization: expected a model of linear layers alone, got model.layers.1.mlp.experts.gate_up_proj, which "
            "would not be quantised"
        )


class TestAdapters:
    def test_names_are_the_originals(self, saved):
        backbone = load(saved, lora=LORA)
        assert {name.rsplit(".lora_")[0] for name in trained_names(backbone)} == {
            f"model.layers.{i}.attention.{name}" for i in (0, 1) for name in ATTENTION
        }

    def test_an_expert_has_none(self, saved, tmp_path):
        message = (
            "target_modules: 'up_proj' matches an expert model.layers.1.mlp.experts.0.up_proj, which is never adapted; "
            "the model has dense, down_proj, gate_proj, query_key_value, up_proj; to adapt the other layers give the "
            r"pattern 'model\.layers\.\d+\.mlp\.shared_experts\.up_proj|model\.layers\.\d+\.mlp\.up_proj'"
        )
        assert fails(saved, lora=Lora(target_modules=("up_proj",))) == message
        backbone = stirred(load(saved, lora=Lora(target_modules=message.split("'")[-2])))
        assert {name.rsplit(".lora_")[0] for name in trained_names(backbone)} == {
            "model.layers.0.mlp.up_proj",
            "model.layers.1.mlp.shared_experts.up_proj",
        }
        backbone.save_adapter(tmp_path / "adapter")
        assert load(saved, adapter=str(tmp_path / "adapter")).fingerprint() == backbone.fingerprint()

    def test_plain_peft_reads_ours_on_the_original_model(self, saved, original, tmp_path):
        backbone = stirred(load(saved, lora=LORA))
        backbone.save_adapter(tmp_path / "adapter")
        ids, mask = ids_and_mask()
        before = original_logits(original, ids)
        after = original_logits(peft.PeftModel.from_pretrained(original, tmp_path / "adapter").eval(), ids)
        assert (after - before).abs().max() > 1
        torch.testing.assert_close(after, logits(backbone, ids, mask), **CLOSE)

    def test_we_read_what_plain_peft_wrote_from_the_original_model(self, saved, original, tmp_path):
        config = peft.LoraConfig(r=4, lora_alpha=8, target_modules=list(ATTENTION))
        adapted = stirred(peft.get_peft_model(original, config))
        adapted.save_pretrained(tmp_path / "adapter")
        ids, mask = ids_and_mask()
        got = logits(load(saved, adapter=str(tmp_path / "adapter")).eval(), ids, mask)
        torch.testing.assert_close(got, original_logits(adapted, ids), **CLOSE)

    def test_merged_and_switched_off(self, saved, original, tmp_path):
        backbone = stirred(load(saved, lora=LORA))
        ids, mask = ids_and_mask()
        expected, reference = logits(backbone, ids, mask), logits(backbone.reference(), ids, mask)
        torch.testing.assert_close(reference, original_logits(original, ids), rtol=1e-5, atol=1e-5)
        backbone.save_pretrained(tmp_path / "merged")
        assert load_file(tmp_path / "merged/model.safetensors").keys() == original.state_dict().keys()
        torch.testing.assert_close(logits(load(tmp_path / "merged").eval(), ids, mask), expected, **CLOSE)
        assert (expected - reference).abs().max() > 1


def test_size_of_the_mini_model(tmp_path):
    """16.26 B on the meta device: nothing is allocated."""
    sizes = {
        "hidden_size": 2048,
        "num_hidden_layers": 20,
        "intermediate_size": 5120,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 128,
        "rotary_dim": 64,
        "num_experts": 256,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 512,
        "n_group": 8,
        "topk_group": 4,
        "vocab_size": 157184,
    }
    (tmp_path / "config.json").write_text(json.dumps(llada2_config(**sizes)))
    with torch.device("meta"):
        backbone = PretrainedBackbone(str(tmp_path)).untrained()
    per_layer = 256 * 3 * 2048 * 512 + 3 * 2048 * 512 + 256 * 2048 + (24 + 16) * 128 * 2048 + 2 * 128 + 2 * 2048
    dense = 3 * 2048 * 5120 + (24 + 16) * 128 * 2048 + 2 * 128 + 2 * 2048
    assert sum(p.numel() for p in backbone.parameters()) == 2 * 157184 * 2048 + 19 * per_layer + dense + 2048
