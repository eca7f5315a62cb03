"""Adapters: which layers they reach, what they train, and that plain peft and we read each other's files."""

import dataclasses
import json

import peft
import pytest
import torch
from backbones.original_llada import OriginalLlada
from backbones.test_pretrained import CONFIGS, ids_and_mask, load
from helpers import family_checkpoint
from safetensors.torch import load_file, save_file
from transformers import Qwen2Config, Qwen2ForCausalLM

from tabom.backbones import Lora
from tabom.errors import TabomError

LORA = Lora(r=4, alpha=8)
# peft 0.21 reads an attribute that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LLADA_HAS = "the model has attn_out, ff_out, ff_proj, k_proj, q_proj, up_proj, v_proj"
DREAM_HAS = "the model has down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.fixture(params=CONFIGS)
def saved(request, tmp_path):
    family, config = CONFIGS[request.param]
    return family_checkpoint(tmp_path / "model", family, config()), request.param


@pytest.fixture
def llada(tmp_path):
    family, config = CONFIGS["llada"]
    return family_checkpoint(tmp_path / "model", family, config())


def change(adapter, **fields):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def trained_names(backbone):
    return {backbone.naming.original(name) for name, p in backbone.transformer.named_parameters() if p.requires_grad}


def stirred(backbone, seed=1):
    """As after a training: all adapter weights random."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters():
        if parameter.requires_grad:
            parameter.data = 0.3 * torch.randn(parameter.shape, generator=generator)
    return backbone.eval()


def logits(backbone, ids, mask):
    with torch.no_grad():
        return backbone.logits(backbone(ids, mask))


def original_model(path, family):
    """The model under its original module names, not made by us."""
    config = json.loads((path / "config.json").read_text())
    weights = load_file(path / "model.safetensors")
    if family == "llada":
        model = OriginalLlada(config)
    else:
        shared = set(config) & set(Qwen2Config().to_dict()) - {"model_type", "torch_dtype"}
        rope = {"rope_type": "default", "rope_theta": config["rope_theta"]}
        fields = {key: config[key] for key in shared}
        model = Qwen2ForCausalLM(Qwen2Config(**{**fields, "rope_parameters": rope, "is_causal": False}))
    model.load_state_dict(weights)
    return model.eval()


def original_logits(model, ids, family):
    with torch.no_grad():
        if family == "llada":
            return model(ids)
        raw = model(ids).logits
        return torch.cat([raw[:, :1], raw[:, :-1]], 1)


class TestTargets:
    def test_the_papers_layers(self, saved):
        path, family = saved
        backbone = load(path, lora=LORA)
        block = {"llada": "model.transformer.blocks.{}.", "Dream": "model.layers.{}.self_attn."}[family]
        assert trained_names(backbone) == {
            f"{block.format(i)}{name}_proj.lora_{side}.default.weight" for i in (0, 1) for name in "qv" for side in "AB"
        }

    @pytest.mark.parametrize(
        ("family", "targets", "message"),
        [
            ("llada", ("q_proj", "o_proj"), f"target_modules: 'o_proj' matches no linear layer; {LLADA_HAS}"),
            ("llada", "q_proj", f"target_modules: 'q_proj' matches no linear layer; {LLADA_HAS}"),
            ("Dream", ("attn_out",), f"target_modules: 'attn_out' matches no linear layer; {DREAM_HAS}"),
            (
                "llada",
                ("ff_out",),
                "target_modules: 'ff_out' matches the language model head model.transformer.ff_out, which is never "
                f"adapted; {LLADA_HAS}; to adapt the other layers give the pattern "
                r"'model\.transformer\.blocks\.\d+\.ff_out'",
            ),
            (
                "Dream",
                ("lm_head",),
                "target_modules: 'lm_head' matches the language model head lm_head, which is never adapted; "
                f"{DREAM_HAS}",
            ),
        ],
    )
    def test_names_that_do_not_fit(self, tmp_path, family, targets, message):
        path = family_checkpoint(tmp_path / "model", CONFIGS[family][0], CONFIGS[family][1]())
        with pytest.raises(TabomError) as error:
            load(path, lora=Lora(target_modules=targets))
        assert str(error.value) == message

    def test_the_pattern_that_is_recommended(self, llada):
        backbone = load(llada, lora=Lora(target_modules=r"model\.transformer\.blocks\.\d+\.ff_out"))
        assert {name.rsplit(".lora_")[0] for name in trained_names(backbone)} == {
            "model.transformer.blocks.0.ff_out",
            "model.transformer.blocks.1.ff_out",
        }

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"r": 0}, "lora.r: expected at least 1, got 0"),
            ({"alpha": 0}, "lora.alpha: expected a number above 0, got 0"),
            ({"dropout": 1.0}, "lora.dropout: expected 0 to below 1, got 1.0"),
            ({"target_modules": ()}, "lora.target_modules: expected at least one name, got none"),
        ],
    )
    def test_bad_settings(self, settings, message):
        with pytest.raises(TabomError) as error:
            Lora(**settings)
        assert str(error.value) == message

    def test_a_new_adapter_beside_a_trained_one(self, llada):
        with pytest.raises(TabomError, match=r"^lora: expected no settings of a new adapter beside adapter, got both$"):
            load(llada, lora=LORA, adapter="somewhere")


class TestTraining:
    def test_a_new_adapter_changes_nothing(self, saved):
        ids, mask = ids_and_mask()
        assert torch.equal(
            logits(load(saved[0], lora=LORA).eval(), ids, mask), logits(load(saved[0]).eval(), ids, mask)
        )

    def test_gradients_reach_the_adapter_alone(self, saved):
        backbone = stirred(load(saved[0], lora=LORA, gradient_checkpointing=True)).train()
        ids, mask = ids_and_mask()
        backbone.logits(backbone(ids, mask)).square().mean().backward()
        for name, parameter in backbone.named_parameters():
            assert (parameter.grad is not None and bool(parameter.grad.any())) == ("lora_" in name), name

    def test_the_adapter_is_float32_on_weights_in_half_precision(self, saved):
        backbone = load(saved[0], lora=LORA, dtype="bfloat16")
        dtypes = {("lora_" in name, parameter.dtype) for name, parameter in backbone.named_parameters()}
        assert dtypes == {(True, torch.float32), (False, torch.bfloat16)}
        ids, mask = ids_and_mask()
        assert backbone(ids, mask).dtype == torch.bfloat16

    def test_the_reference_is_the_same_model_without_its_adapter(self, saved):
        backbone, plain = load(saved[0], lora=LORA), load(saved[0]).eval()
        reference = backbone.reference()
        ids, mask = ids_and_mask()
        stirred(backbone)
        assert torch.equal(logits(reference, ids, mask), logits(plain, ids, mask))
        assert not torch.allclose(logits(backbone, ids, mask), logits(plain, ids, mask))
        assert list(reference.parameters()) == []
        assert all(p.requires_grad == ("lora_" in name) for name, p in backbone.named_parameters())

    def test_the_reference_of_a_wholly_trained_model_is_a_copy(self, saved):
        backbone = load(saved[0])
        reference = backbone.reference()
        ids, mask = ids_and_mask()
        before = logits(backbone.eval(), ids, mask)
        stirred(backbone)
        assert torch.equal(logits(reference, ids, mask), before)


class TestFiles:
    def test_round_trip(self, saved, tmp_path):
        backbone = stirred(load(saved[0], lora=LORA))
        backbone.save_adapter(tmp_path / "adapter")
        config = json.loads((tmp_path / "adapter/adapter_config.json").read_text())
        assert (config["base_model_name_or_path"], config["target_modules"]) == (str(saved[0]), ["q_proj", "v_proj"])
        again = load(saved[0], adapter=str(tmp_path / "adapter"))
        assert again.fingerprint() == backbone.fingerprint()
        assert trained_names(again) == trained_names(backbone)
        again.save_adapter(tmp_path / "again")
        for file in (tmp_path / "adapter").iterdir():
            assert (tmp_path / "again" / file.name).read_bytes() == file.read_bytes()

    def test_plain_peft_reads_ours_on_the_original_model(self, saved, tmp_path):
        path, family = saved
        backbone = stirred(load(path, lora=LORA))
        backbone.save_adapter(tmp_path / "adapter")
        ids, mask = ids_and_mask()
        model = original_model(path, family)
        before = original_logits(model, ids, family)
        adapted = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
        after = original_logits(adapted, ids, family)
        assert (after - before).abs().max() > 1
        torch.testing.assert_close(after, logits(backbone, ids, mask), rtol=1e-4, atol=1e-4)

    def test_we_read_what_plain_peft_wrote_from_the_original_model(self, saved, tmp_path):
        """With the settings of the adapters that the paper's authors released."""
        path, family = saved
        task_type = {"llada": None, "Dream": "FEATURE_EXTRACTION"}[family]
        config = peft.LoraConfig(r=16, lora_alpha=16, target_modules=["q_proj", "v_proj"], task_type=task_type)
        adapted = stirred(peft.get_peft_model(original_model(path, family), config))
        adapted.save_pretrained(tmp_path / "adapter")
        prefix = {"llada": "model.transformer.blocks.0.", "Dream": "model.layers.0.self_attn."}[family]
        assert f"base_model.model.{prefix}q_proj.lora_A.weight" in load_file(
            tmp_path / "adapter/adapter_model.safetensors"
        )
        assert json.loads((tmp_path / "adapter/adapter_config.json").read_text())["inference_mode"] is True
        backbone = load(path, adapter=str(tmp_path / "adapter")).eval()
        assert len(trained_names(backbone)) == 8
        ids, mask = ids_and_mask()
        torch.testing.assert_close(
            logits(backbone, ids, mask), original_logits(adapted, ids, family), rtol=1e-4, atol=1e-4
        )

    def test_merged_weights_are_a_model_in_the_original_layout(self, saved, tmp_path):
        path, _ = saved
        backbone = stirred(load(path, lora=LORA))
        ids, mask = ids_and_mask()
        expected, fingerprint = logits(backbone, ids, mask), backbone.fingerprint()
        backbone.save_pretrained(tmp_path / "merged")
        merged = load(tmp_path / "merged").eval()
        assert not merged.has_adapter
        torch.testing.assert_close(logits(merged, ids, mask), expected, rtol=1e-4, atol=1e-4)
        assert backbone.fingerprint() == fingerprint
        merged.save_pretrained(tmp_path / "again")
        assert load(tmp_path / "again").fingerprint() == merged.fingerprint()

    def test_an_adapter_that_does_nothing_leaves_every_bit(self, saved, tmp_path):
        load(saved[0], lora=LORA).save_pretrained(tmp_path / "merged")
        assert load(tmp_path / "merged").fingerprint() == load(saved[0]).fingerprint()

    def test_no_adapter_to_write(self, saved, tmp_path):
        with pytest.raises(TabomError, match=r"^adapter: expected a model with an adapter, got one without$"):
            load(saved[0]).save_adapter(tmp_path / "adapter")


class TestTowardsTheBase:
    def test_the_adapter_is_scaled(self, saved):
        """The head has no adapter, and nothing else of the model changes."""
        backbone = stirred(load(saved[0], lora=LORA))
        base = load(saved[0]).state_dict()
        before = {name: weight.clone() for name, weight in backbone._adapter.merged_state().items()}
        backbone.interpolate(backbone.reference(), 0.25)
        for name, weight in backbone._adapter.merged_state().items():
            start = base[f"transformer.{name}"]
            torch.testing.assert_close(weight, start + 0.25 * (before[name] - start))
        assert any(not torch.equal(before[name], base[f"transformer.{name}"]) for name in before)

    def test_at_nought_it_is_the_base(self, saved):
        backbone, (ids, mask) = stirred(load(saved[0], lora=LORA)), ids_and_mask()
        backbone.interpolate(backbone.reference(), 0.0)
        assert torch.equal(logits(backbone, ids, mask), logits(load(saved[0]).eval(), ids, mask))

    def test_an_exported_adapter_is_the_scaled_one(self, llada, tmp_path):
        backbone = stirred(load(llada, lora=LORA))
        backbone.interpolate(backbone.reference(), 0.5)
        backbone.save_adapter(tmp_path / "adapter")
        again = load(llada, adapter=str(tmp_path / "adapter")).eval()
        ids, mask = ids_and_mask()
        torch.testing.assert_close(logits(again, ids, mask), logits(backbone, ids, mask))


class TestBadAdapters:
    @pytest.fixture
    def adapter(self, llada, tmp_path):
        stirred(load(llada, lora=LORA)).save_adapter(tmp_path / "adapter")
        return tmp_path / "adapter"

    def fails(self, path, adapter):
        with pytest.raises(TabomError) as error:
            load(path, adapter=str(adapter))
        return str(error.value)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"use_dora": True}, "use_dora: expected none, got True; adapters of this kind are not supported"),
            ({"bias": "all"}, "bias: expected 'none', got 'all'"),
            ({"peft_type": "IA3"}, "peft_type: expected 'LORA', got 'IA3'"),
            ({"r": "4"}, "r: expected int, got '4'"),
            ({"r": 0}, "lora.r: expected at least 1, got 0"),
            ({"lora_alpha": None}, "lora_alpha: expected int or float, got None"),
            ({"use_rslora": "yes"}, "use_rslora: expected bool, got 'yes'"),
        ],
    )
    def test_kinds_that_are_not_supported(self, llada, adapter, changes, message):
        file = adapter / "adapter_config.json"
        content = json.loads(file.read_text())
        if "peft_type" in changes:
            content = {"target_modules": ["q_proj"], "feedforward_modules": []}
        file.write_text(json.dumps({**content, **changes}))
        assert self.fails(llada, adapter) == f"{file}: {message}"

    @pytest.mark.parametrize(
        "kind", ["pissa", "pissa_niter_4", "olora", "OLoRA", "corda", "loftq", "mica", "lora_ga", "invented"]
    )
    def test_kinds_that_change_the_base(self, llada, adapter, kind):
        """Without the adapter the model would be another one than the base."""
        change(adapter, init_lora_weights=kind)
        assert self.fails(llada, adapter) == (
            f"{adapter}/adapter_config.json: init_lora_weights: expected True or False or 'gaussian' or 'orthogonal' "
            f"or 'eva', got {kind!r}"
        )

    @pytest.mark.parametrize("kind", [True, False, "gaussian", "orthogonal", "eva"])
    def test_kinds_that_leave_the_base_as_it_is(self, llada, adapter, kind):
        change(adapter, init_lora_weights=kind, inference_mode=True, peft_version="9", task_type="FEATURE_EXTRACTION")
        backbone, again = (load(llada, adapter=str(adapter)).eval() for _ in range(2))
        assert backbone.fingerprint() == again.fingerprint() == stirred(load(llada, lora=LORA)).fingerprint()
        ids, mask = ids_and_mask()
        assert torch.equal(logits(backbone.reference(), ids, mask), logits(load(llada).eval(), ids, mask))

    @pytest.mark.parametrize("field", sorted(field.name for field in dataclasses.fields(peft.LoraConfig)))
    def test_every_field_of_peft_is_known_or_has_to_be_off(self, llada, adapter, field):
        """A value that peft itself might give a meaning is taken over, without effect, or refused by its name."""
        expected = "base_model_name_or_path revision inference_mode auto_mapping peft_version fan_in_fan_out"
        harmless = set(expected.split()) | {"megatron_core", "qalora_group_size", "eva_config", "runtime_config"}
        change(adapter, **{field: {"something": 1}})
        if field in harmless | {"ensure_weight_tying"}:
            load(llada, adapter=str(adapter))
        else:
            assert self.fails(llada, adapter).startswith(f"{adapter}/adapter_config.json: {field}: expected ")

    @pytest.mark.parametrize("key", ["r", "lora_alpha", "target_modules"])
    def test_what_defines_an_adapter_has_to_be_there(self, llada, adapter, key):
        file = adapter / "adapter_config.json"
        file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != key}))
        assert self.fails(llada, adapter) == f"{file}: expected the configuration of an adapter, found no {key}"

    def test_names_of_another_model(self, llada, adapter):
        """A Dream adapter has the same target modules, but other names."""
        file = adapter / "adapter_model.safetensors"
        save_file({name.replace("transformer.blocks", "layers"): w for name, w in load_file(file).items()}, file)
        message = self.fails(llada, adapter)
        assert message.startswith(f"{file}: missing tensors: base_model.model.model.transformer.blocks.0.q_proj.lora_A")

    def test_another_rank(self, llada, adapter):
        file = adapter / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "r": 2}))
        assert self.fails(llada, adapter).endswith("expected shape [2, 32], got [4, 32]")

    def test_missing_files(self, llada, adapter):
        (adapter / "adapter_model.safetensors").unlink()
        assert self.fails(llada, adapter) == (
            f"{adapter}/adapter_model.safetensors: expected weights in the safetensors format, found no such file"
        )
        (adapter / "adapter_config.json").unlink()
        assert self.fails(llada, adapter) == (
            f"{adapter}/adapter_config.json: expected the configuration of an adapter, found no such file"
        )
