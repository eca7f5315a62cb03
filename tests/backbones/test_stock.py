"""Families under transformers' own names: tied heads, what their files leave out, and decoders of no known family."""

import json

import peft
import pytest
import torch
import transformers
from backbones.test_lora import stirred
from backbones.test_pretrained import fails, ids_and_mask, load, rewrite, tokenizer_of
from helpers import a2d_config, family_checkpoint, illada_config
from safetensors.torch import load_file

from tabom.backbones import Lora, PretrainedBackbone
from tabom.backbones.decoder import DecoderBackbone
from tabom.backbones.families import FAMILIES, defaults
from tabom.backbones.snapshot import Snapshot
from tabom.backbones.stock import other
from tabom.errors import TabomError

# peft 0.21 reads an attribute that transformers 5.23 renamed
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
CONFIGS = {
    "a2d-qwen3": a2d_config(),
    "a2d-qwen2": a2d_config("qwen2"),
    "a2d-llama": a2d_config("llama"),
    "illada": illada_config(),
}
TOKENIZERS = {"illada": {"mask": 5, "pad": 0, "eos": 2}}
CLASSES = {
    "a2d-qwen3": ("Qwen3Config", "Qwen3ForCausalLM"),
    "a2d-qwen2": ("Qwen2Config", "Qwen2ForCausalLM"),
    "a2d-llama": ("LlamaConfig", "LlamaForCausalLM"),
    "illada": ("LlamaConfig", "LlamaForCausalLM"),
}
TIED = [name for name, config in CONFIGS.items() if config["tie_word_embeddings"]]
HEAD, EMBEDDINGS = "lm_head.weight", "model.embed_tokens.weight"
LORA = Lora(r=4, alpha=8)
KEYS = {"attention": "full", "shift": False, "mask_token": "127"}


def write(path, name, **changes):
    config = {**CONFIGS[name], **changes}
    return family_checkpoint(path, FAMILIES[name].backbone, config)


def change_config(path, **changes):
    file = path / "config.json"
    config = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in config.items() if value != "absent"}))


def read(path, name="a2d-qwen3", **settings):
    return load(path, tokenizer_of(**TOKENIZERS.get(name, {})), **settings)


def stock(path, name):
    """The model under transformers' own class, which is causal unless it gets a mask."""
    kind, model = (getattr(transformers, each) for each in CLASSES[name])
    config = json.loads((path / "config.json").read_text())
    known = {key: config[key] for key in set(config) & {*kind().to_dict(), "rope_theta", "rope_scaling"}}
    made = model(kind(**{**known, "model_type": kind.model_type}))
    weights = load_file(path / "model.safetensors")
    made.load_state_dict(weights, strict=not config["tie_word_embeddings"])
    return made.eval()


def stock_logits(model, ids):
    everything = torch.zeros(len(ids), 1, ids.shape[1], ids.shape[1])
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=everything).logits


def logits(backbone, ids, mask):
    with torch.no_grad():
        return backbone.eval().logits(backbone(ids, mask))


@pytest.fixture(params=CONFIGS)
def saved(request, tmp_path):
    """(directory, family name)."""
    return write(tmp_path / "model", request.param), request.param


@pytest.fixture(params=TIED)
def tied(request, tmp_path):
    return write(tmp_path / "model", request.param), request.param


@pytest.fixture
def qwen(tmp_path):
    return write(tmp_path / "model", "a2d-qwen3")


class TestComputation:
    def test_equals_transformers_own_class_with_full_attention(self, saved):
        path, name = saved
        ids, mask = ids_and_mask()
        assert torch.equal(logits(read(path, name), ids, mask), stock_logits(stock(path, name), ids))

    @pytest.mark.parametrize("shift", [False, True])
    def test_padding_on_either_side_changes_nothing(self, saved, shift):
        path, name = saved
        backbone = read(path, name, shift=shift).eval()
        ids, mask = ids_and_mask(1)
        alone = backbone(ids, mask)[0]
        for left, right in ((4, 0), (0, 3), (2, 5)):
            padded = torch.nn.functional.pad(ids, (left, right), value=3)
            got = backbone(padded, torch.nn.functional.pad(mask, (left, right)))[0, left : left + 9]
            torch.testing.assert_close(got, alone, rtol=1e-5, atol=1e-5)

    def test_causal_attention_is_that_of_the_parent(self, saved):
        path, name = saved
        backbone = read(path, name, attention="causal")
        ids, mask = ids_and_mask()
        expected = stock(path, name)(input_ids=ids).logits.detach()
        torch.testing.assert_close(logits(backbone, ids, mask), expected, rtol=1e-5, atol=1e-5)
        padded = torch.nn.functional.pad(ids, (3, 0), value=3), torch.nn.functional.pad(mask, (3, 0))
        torch.testing.assert_close(logits(backbone, *padded)[:, 3:], expected, rtol=1e-5, atol=1e-5)
        assert backbone.fingerprint() != read(path, name).fingerprint()
        with pytest.raises(TabomError, match=r"^cache: expected attention full of the backbone, got causal$"):
            backbone.forward_with_cache(ids, mask)

    def test_a_shift_takes_each_prediction_from_the_left_neighbour(self, qwen):
        ids, mask = ids_and_mask()
        backbone, shifting = read(qwen).eval(), read(qwen, shift=True).eval()
        plain = backbone(ids, mask)
        assert torch.equal(shifting(ids, mask), torch.cat([plain[:, :1], plain[:, :-1]], 1))
        assert shifting.fingerprint() != backbone.fingerprint() == read(qwen, shift=False).fingerprint()

    @pytest.mark.parametrize("shift", [False, True])
    def test_from_the_cache_of_the_same_canvas_it_is_exact(self, qwen, shift):
        backbone = read(qwen, shift=shift).eval()
        ids, mask = ids_and_mask()
        positions = torch.tensor([[3, 4, 5], [0, 1, 8]])
        hidden, cache = backbone.forward_with_cache(ids, mask)
        got = backbone.forward_from_cache(ids, mask, positions, cache)
        expected = hidden.gather(1, positions[..., None].expand_as(got))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)

    def test_scaled_rotary_embedding(self, tmp_path):
        """As Llama 3.1 has it; transformers 5 keeps these fields under another name."""
        scaling = {
            **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
            "original_max_position_embeddings": 16,
        }
        path = write(tmp_path / "model", "a2d-llama", rope_scaling=scaling, rope_theta=500.0)
        ids, mask = ids_and_mask(length=40)
        scaled = logits(read(path), ids, mask)
        parameters = {**scaling, "rope_theta": 500.0}
        change_config(path, rope_scaling="absent", rope_theta="absent", rope_parameters=parameters)
        assert torch.equal(logits(read(path), ids, mask), scaled)
        model = stock(path, "a2d-llama")
        config = transformers.LlamaConfig(rope_parameters=parameters, hidden_size=32, num_attention_heads=4)
        model.model.rotary_emb = type(model.model.rotary_emb)(config)
        assert torch.equal(stock_logits(model, ids), scaled)
        change_config(path, rope_parameters={"rope_type": "default", "rope_theta": 500.0})
        assert (logits(read(path), ids, mask) - scaled).abs().max() > 0.1

    def test_the_embedding_of_illadas_padding_learns_from_the_head_alone(self, tmp_path):
        backbone = read(write(tmp_path / "model", "illada"), "illada")
        ids = torch.zeros(1, 6, dtype=torch.long)
        backbone(ids, torch.ones_like(ids, dtype=torch.bool)).sum().backward()
        assert not backbone.transformer.get_input_embeddings().weight.grad.any()


class TestTiedHeads:
    def test_files_hold_one_tensor_and_come_back_bit_for_bit(self, tied, tmp_path):
        path, name = tied
        backbone = read(path, name)
        backbone.save_pretrained(tmp_path / "again")
        before, after = (load_file(each / "model.safetensors") for each in (path, tmp_path / "again"))
        assert HEAD not in before
        assert before.keys() == after.keys()
        assert all(torch.equal(before[key], after[key]) for key in before)
        assert json.loads((path / "config.json").read_text()) == json.loads(
            (tmp_path / "again/config.json").read_text()
        )
        assert read(tmp_path / "again", name).fingerprint() == backbone.fingerprint()

    def test_counted_once_and_trained_as_both(self, tied):
        path, name = tied
        backbone = read(path, name)
        stored = load_file(path / "model.safetensors").values()
        assert sum(p.numel() for p in backbone.parameters()) == sum(tensor.numel() for tensor in stored)
        assert backbone.head.weight is backbone.transformer.get_input_embeddings().weight
        assert backbone.reference().head.weight is not backbone.head.weight
        ids, mask = ids_and_mask()
        before = logits(backbone, ids, mask)
        snapshot, reference = Snapshot(backbone), backbone.reference()
        torch.nn.init.normal_(backbone.head.weight)
        for earlier in (snapshot, reference):
            torch.testing.assert_close(earlier.head.logits(earlier(ids, mask)), before)
        assert torch.equal(backbone.head.weight, backbone.transformer.get_input_embeddings().weight)

    def test_a_stored_copy_is_taken_if_it_is_equal(self, tied, tmp_path):
        path, name = tied
        expected = read(path, name)
        rewrite(path, lambda weights: weights.update({HEAD: weights[EMBEDDINGS].clone()}))
        backbone = read(path, name)
        assert backbone.fingerprint() == expected.fingerprint()
        assert backbone.head.weight is backbone.transformer.get_input_embeddings().weight
        backbone.save_pretrained(tmp_path / "again")
        assert HEAD not in load_file(tmp_path / "again/model.safetensors")

    def test_another_head_is_refused(self, tied):
        path, name = tied
        rewrite(path, lambda weights: weights.update({HEAD: weights[EMBEDDINGS] + 1e-6 * torch.eye(128)[:, :32]}))
        with pytest.raises(TabomError) as error:
            read(path, name)
        assert str(error.value) == (
            f"{path}/model.safetensors: tensor lm_head.weight: expected a copy of model.embed_tokens.weight, as "
            "config.json has tie_word_embeddings, got other values"
        )

    @pytest.mark.parametrize(("name", "value"), [("a2d-qwen3", "absent"), ("a2d-llama", None), ("illada", "absent")])
    def test_where_the_config_is_silent_the_weights_decide(self, tmp_path, name, value):
        """Releases of transformers leave out true, or false."""
        path = write(tmp_path / "model", name, tie_word_embeddings=True)
        expected = read(path, name).fingerprint()
        change_config(path, tie_word_embeddings=value)
        assert read(path, name).fingerprint() == expected
        rewrite(path, lambda weights: weights.update({HEAD: torch.randn(128, 32)}))
        untied = read(path, name)
        assert untied.head.weight is not untied.transformer.get_input_embeddings().weight
        untied.save_pretrained(tmp_path / "again")
        assert read(tmp_path / "again", name).fingerprint() == untied.fingerprint()

    def test_an_untied_head_has_to_be_there(self, tmp_path):
        path = write(tmp_path / "model", "a2d-llama")
        rewrite(path, lambda weights: weights.pop(HEAD))
        assert fails(path) == f"{path}/model.safetensors: missing tensors: lm_head.weight"

    def test_interpolated_weights_stay_tied(self, tied):
        path, name = tied
        backbone = read(path, name)
        reference = backbone.reference()
        start = backbone.head.weight.detach().clone()
        torch.nn.init.normal_(backbone.head.weight)
        end = backbone.head.weight.detach().clone()
        backbone.interpolate(reference, 0.25)
        torch.testing.assert_close(backbone.head.weight.detach(), start + 0.25 * (end - start))
        assert backbone.head.weight is backbone.transformer.get_input_embeddings().weight


class TestAdapters:
    def test_the_head_has_none(self, saved):
        path, name = saved
        for targets, message in (
            (("q_proj", "lm_head"), "target_modules: 'lm_head' matches the language model head lm_head, which is nev"),
            (r".*", "target_modules: '.*' matches the language model head lm_head, which is never adapted; the model"),
            (("embed_tokens",), "target_modules: 'embed_tokens' matches no linear layer; the model has "),
        ):
            with pytest.raises(TabomError) as error:
                read(path, name, lora=Lora(target_modules=targets))
            assert str(error.value).startswith(message)
        backbone = read(path, name, lora=LORA)
        trained = {key for key, p in backbone.transformer.named_parameters() if p.requires_grad}
        assert len(trained) == 8
        assert all(".self_attn." in key and ".lora_" in key for key in trained)
        ids, mask = ids_and_mask()
        backbone.logits(backbone(ids, mask)).square().mean().backward()
        assert backbone.head.weight.grad is None

    def test_plain_peft_reads_ours_on_the_original_names(self, saved, tmp_path):
        path, name = saved
        backbone = stirred(read(path, name, lora=LORA))
        backbone.save_adapter(tmp_path / "adapter")
        ids, mask = ids_and_mask()
        model = stock(path, name)
        before = stock_logits(model, ids)
        adapted = peft.PeftModel.from_pretrained(model, tmp_path / "adapter").eval()
        after = stock_logits(adapted, ids)
        assert (after - before).abs().max() > 1
        torch.testing.assert_close(after, logits(backbone, ids, mask), rtol=1e-4, atol=1e-4)

    def test_a_merged_model_is_tied_again(self, tied, tmp_path):
        path, name = tied
        backbone = stirred(read(path, name, lora=LORA))
        ids, mask = ids_and_mask()
        expected = logits(backbone, ids, mask)
        backbone.save_pretrained(tmp_path / "merged")
        before, after = (load_file(each / "model.safetensors") for each in (path, tmp_path / "merged"))
        assert before.keys() == after.keys()
        assert torch.equal(before[EMBEDDINGS], after[EMBEDDINGS])
        merged = read(tmp_path / "merged", name)
        torch.testing.assert_close(logits(merged, ids, mask), expected, rtol=1e-4, atol=1e-4)
        assert merged.head.weight is merged.transformer.get_input_embeddings().weight
        torch.testing.assert_close(stock_logits(stock(tmp_path / "merged", name), ids), expected, rtol=1e-4, atol=1e-4)

    def test_an_adapter_is_scaled_and_the_head_stays(self, tied):
        path, name = tied
        backbone = stirred(read(path, name, lora=LORA))
        before = backbone.head.weight.detach().clone()
        backbone.interpolate(backbone.reference(), 0.0)
        ids, mask = ids_and_mask()
        assert torch.equal(backbone.head.weight, before)
        assert torch.equal(logits(backbone, ids, mask), logits(read(path, name), ids, mask))

    @pytest.mark.filterwarnings("ignore")  # of bitsandbytes and what it calls
    @pytest.mark.parametrize("quantization", ["8bit", "4bit"])
    def test_a_tied_head_is_not_quantised(self, tied, quantization):
        path, name = tied
        backbone = read(path, name, quantization=quantization, lora=LORA, dtype="float32")
        kind = {"8bit": "Linear8bitLt", "4bit": "Linear4bit"}[quantization]
        assert type(backbone.transformer.model.layers[0].mlp.down_proj).__name__ == kind
        assert type(backbone.transformer.lm_head) is torch.nn.Linear
        assert backbone.head.weight is backbone.transformer.get_input_embeddings().weight
        assert torch.equal(backbone.head.weight, load_file(path / "model.safetensors")[EMBEDDINGS])
        ids, mask = ids_and_mask()
        backbone.logits(backbone(ids, mask)).square().mean().backward()
        assert all((p.grad is not None) == (".lora_" in key) for key, p in backbone.named_parameters())


class TestFields:
    @pytest.mark.parametrize(
        ("name", "change", "message"),
        [
            ("a2d-qwen3", {"use_sliding_window": True}, "use_sliding_window: expected False, as A2D has it, got True"),
            ("a2d-qwen2", {"layer_types": ["sliding_attention"] * 2}, "layer_types: expected 'full_attention', as A2D"),
            ("a2d-qwen3", {"is_causal": True}, "is_causal: expected False, as A2D has it, got True"),
            ("a2d-qwen3", {"num_hidden_layers": None}, "expected the keys of an A2D model, found no num_hidden_layers"),
            ("a2d-llama", {"logit_scale": 2.0}, "logit_scale: expected no such field in an A2D model, got 2.0"),
            (
                "a2d-llama",
                {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}},
                "rope_scaling.rope_type: expected 'default', as A2D has it, got 'dynamic'",
            ),
            ("illada", {"layer_norm_eps": 1e-5}, "layer_norm_eps: expected None, as iLLaDA has it, got 1e-05"),
            ("illada", {"resid_pdrop": 0.1}, "resid_pdrop: expected 0.0, as iLLaDA has it, got 0.1"),
            (
                "illada",
                {"rope_scaling": {"rope_type": "linear", "factor": 2.0}},
                "rope_scaling.rope_type: expected 'default', as iLLaDA has it, got 'linear'",
            ),
        ],
    )
    def test_fields_that_would_change_the_computation(self, tmp_path, name, change, message):
        path = write(tmp_path / "model", name)
        change_config(path, **change)
        with pytest.raises(TabomError) as error:
            read(path, name)
        assert str(error.value).startswith(f"{path}/config.json: ")
        assert message in str(error.value)

    @pytest.mark.parametrize("name", ["a2d_qwen3_tiny", "a2d_qwen2_tiny", "a2d_llama_tiny", "illada_tiny"])
    def test_the_official_files_come_back_as_they_are(self, golden_v2, tmp_path, name):
        path = golden_v2 / name
        family = FAMILIES[json.loads((path / "config.json").read_text())["model_type"]].backbone
        family.from_pretrained(path).save_pretrained(tmp_path / "again")
        before, after = (load_file(each / "model.safetensors") for each in (path, tmp_path / "again"))
        copies = {HEAD} if name == "a2d_qwen2_tiny" else set()
        assert before.keys() - after.keys() == copies
        assert all(torch.equal(before[key], after[key]) for key in after)
        assert json.loads((path / "config.json").read_text()) == json.loads(
            (tmp_path / "again/config.json").read_text()
        )

    def test_the_mask_token_is_the_tokenizers(self, tmp_path):
        backbone = load(write(tmp_path / "model", "a2d-qwen3"), tokenizer_of(mask=9))
        assert backbone.mask_token_id == backbone.reference().mask_token_id == 9

    def test_illadas_mask_token_is_known(self, tmp_path):
        path = write(tmp_path / "model", "illada")
        assert read(path, "illada").mask_token_id == 5
        with pytest.raises(TabomError, match=r"^tokenizer: expected mask token id 5, which the model has, got 3$"):
            load(path, tokenizer_of(mask=3, pad=0, eos=2))


def decoder(path, model_type, **settings):
    """A random causal language model of transformers, as it saves itself."""
    torch.manual_seed(0)
    sizes = {"vocab_size": 128, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "num_key_value_heads": 2}
    sizes |= {"pad_token_id": None, "bos_token_id": 124, "eos_token_id": 125}
    kind = transformers.CONFIG_MAPPING[model_type]
    config = kind(**{key: value for key, value in {**sizes, **settings}.items() if key in kind().to_dict()})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
    change_config(path, _name_or_path="absent")
    return path


class TestAnyOtherDecoder:
    def test_is_computed_as_the_family_that_was_made_from_it(self, qwen, tmp_path):
        ids, mask = ids_and_mask()
        expected = logits(read(qwen), ids, mask)
        change_config(qwen, model_type="qwen3")
        backbone = load(qwen, **KEYS)
        assert torch.equal(logits(backbone, ids, mask), expected)
        backbone.save_pretrained(tmp_path / "again")
        assert load(tmp_path / "again", **KEYS).fingerprint() == backbone.fingerprint()

    @pytest.mark.parametrize("model_type", ["mistral", "olmo2", "smollm3", "ernie4_5"])
    def test_other_types(self, tmp_path, model_type):
        none = {"mistral": {"sliding_window": None}, "smollm3": {"use_sliding_window": False}}.get(model_type, {})
        path = decoder(tmp_path / "model", model_type, **none)
        backbone = load(path, **KEYS).eval()
        ids, mask = ids_and_mask()
        last = ids.clone()
        last[:, -1] = (ids[:, -1] + 1) % 100
        assert not torch.allclose(backbone(ids, mask)[:, 0], backbone(last, mask)[:, 0], atol=1e-6)
        assert backbone.max_length == backbone.transformer.config.max_position_embeddings

    @pytest.mark.parametrize("missing", KEYS)
    def test_all_three_keys_are_needed(self, qwen, missing):
        change_config(qwen, model_type="qwen3")
        message = fails(qwen, **{key: value for key, value in KEYS.items() if key != missing})
        assert (
            "got 'qwen3'; of any other decoder of transformers that was trained as a masked diffusion model" in message
        )
        assert message.endswith("by the backbone's keys attention: full, shift (true or false) and mask_token")

    def test_a_type_that_transformers_does_not_know(self, qwen):
        change_config(qwen, model_type="invented")
        assert "got 'invented'; of any other decoder of transformers" in fails(qwen, **KEYS)
        assert other("invented") is None

    def test_names_and_shapes_are_checked(self, qwen):
        change_config(qwen, model_type="qwen3")
        name = "model.layers.1.self_attn.q_norm.weight"
        rewrite(qwen, lambda weights: weights.pop(name))
        assert fails(qwen, **KEYS) == f"{qwen}/model.safetensors: missing tensors: {name}"

    @pytest.mark.parametrize(
        ("model_type", "settings", "message"),
        [
            ("mistral", {"sliding_window": 4}, "config.json: sliding_window: expected None, as mistral has it, got 4"),
            (
                "gemma2",
                {"head_dim": 8},
                "config.json: layer_types: expected 'full_attention', as gemma2 has it",
            ),
            ("granite", {"logits_scaling": 8.0}, "a head that ends with a matrix and a bias, got one that computes so"),
            ("cohere", {}, "a head that ends with a matrix and a bias, got one that computes something else"),
            (
                "mamba",
                {},
                "config.json: layer_types: expected 'full_attention', as mamba has it, got 'linear_attention'",
            ),
        ],
    )
    def test_what_would_be_computed_otherwise_is_refused(self, tmp_path, model_type, settings, message):
        path = decoder(tmp_path / "model", model_type, **settings)
        assert message in fails(path, **KEYS)

    def test_a_model_that_stays_causal_is_refused(self, qwen, monkeypatch):
        """As a family would that builds its masks by itself."""
        change_config(qwen, model_type="qwen3")
        causal = classmethod(lambda cls, config: cls.native_config(config))
        monkeypatch.setattr(DecoderBackbone, "_bidirectional", causal)
        assert fails(qwen, **KEYS).startswith(
            f"{qwen}: model_type qwen3: expected a model in which tokens see what follows them, got one in which "
        )

    def test_the_mask_token_has_to_be_the_tokenizers(self, qwen):
        change_config(qwen, model_type="qwen3")
        assert fails(qwen, **{**KEYS, "mask_token": "9"}) == "mask_token: expected 127, which the tokenizer has, got 9"

    def test_a_masked_language_model_has_no_shift(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "bert"}')
        assert fails(tmp_path, shift=True) == (
            "shift: expected false for a masked language model of type bert, got true"
        )
        assert fails(tmp_path, attention="causal") == (
            "attention: expected full for a masked language model of type bert, got causal"
        )


class TestDefaults:
    def test_of_every_family(self, tmp_path):
        """The sampler's arguments are ones that it takes."""
        from tabom.samplers import Sampler

        for name, family in FAMILIES.items():
            Sampler(**family.sampler)
            assert family.backbone.shift == (name == "Dream")

    def test_of_a_checkpoint(self, qwen):
        tokenizer = tokenizer_of()
        tokenizer.chat_template = "{{ messages }}"
        tokenizer.add_tokens(["<|im_end|>"])
        (qwen / "generation_config.json").write_text('{"eos_token_id": [125, 124]}')
        found = defaults(qwen, tokenizer)
        assert found._asdict() == {
            "special_ids": (125, 127, 125),
            "end_of_turn_ids": (124, 125, 128),
            "chat_template": True,
            "shift": False,
            "sampler": {"score": "confidence"},
        }

    def test_of_no_family(self, qwen):
        change_config(qwen, model_type="qwen3")
        found = defaults(qwen, tokenizer_of())
        assert (found.end_of_turn_ids, found.chat_template, found.shift, found.sampler) == ((125,), False, False, {})


FULL_SIZE = {
    "a2d-qwen3": (
        a2d_config(
            hidden_size=1024, num_attention_heads=16, num_key_value_heads=8, head_dim=128, num_hidden_layers=28,
            intermediate_size=3072, vocab_size=151936, max_position_embeddings=40960,
        ),
        596_049_920,
    ),
    "illada": (
        illada_config(
            hidden_size=4096, num_attention_heads=32, num_key_value_heads=8, num_hidden_layers=32,
            intermediate_size=14336, vocab_size=155136, max_position_embeddings=8192,
            tie_word_embeddings=None,
        ),
        7_615_025_152,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FULL_SIZE)
def test_sizes_of_the_real_models(tmp_path, name):
    """Qwen3-0.6B, whose head is counted once, and iLLaDA-8B (7.62 B), on the meta device."""
    config, num_parameters = FULL_SIZE[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    with torch.device("meta"):
        backbone = PretrainedBackbone(str(tmp_path), lora=LORA).untrained()
    frozen = sum(parameter.numel() for parameter in backbone.parameters() if not parameter.requires_grad)
    assert frozen == num_parameters
    assert backbone.head.weight is backbone.transformer.get_input_embeddings().weight
    assert {parameter.device.type for parameter in backbone.parameters()} == {"meta"}
