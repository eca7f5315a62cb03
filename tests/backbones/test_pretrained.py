"""Loading, checking and writing checkpoints of every family."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from backbones.original_llada import OriginalLlada
from helpers import a2d_config, dream_config, family_checkpoint, llada_config
from safetensors.torch import load_file, save_file
from transformers import AttentionInterface, PreTrainedTokenizerFast

from tabom.backbones import Lora, PretrainedBackbone, config_fields, dream, llada
from tabom.backbones.dream import DreamBackbone
from tabom.backbones.families import FAMILIES
from tabom.backbones.llada import LladaBackbone
from tabom.backbones.snapshot import Snapshot
from tabom.backbones.tiny import TinyDLM
from tabom.errors import TabomError

CONFIGS = {"llada": (LladaBackbone, llada_config), "Dream": (DreamBackbone, dream_config)}
KNOWN = "['Dream', 'a2d-llama', 'a2d-qwen2', 'a2d-qwen3', 'illada', 'llada', 'llada2_moe', 'sdar', 'tabom_tiny']"
YARN = {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e6}
BLOCK_WEIGHT = {"llada": "model.transformer.blocks.1.q_proj.weight", "Dream": "model.layers.1.self_attn.q_proj.weight"}


def tiny_config(**changes):
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    ids = {"mask_token_id": 127, "pad_token_id": 125, "eos_token_id": 125, "bos_token_id": None}
    return {"model_type": "tabom_tiny", "vocab_size": 128, "is_causal": False, **sizes, **ids, **changes}


def tokenizer_of(mask=127, pad=125, eos=125, size=128):
    """A tokenizer of ``size`` words with the given special tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    backend = Tokenizer(models.WordLevel({str(i): i for i in range(size)}))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, mask_token=str(mask), pad_token=str(pad), eos_token=str(eos)
    )


@pytest.fixture(params=CONFIGS)
def saved(request, tmp_path):
    """(directory, family name) of a checkpoint in its original layout."""
    family, config = CONFIGS[request.param]
    return family_checkpoint(tmp_path / "model", family, config()), request.param


def load(path, tokenizer=None, **settings):
    return PretrainedBackbone(str(path), **settings).load(tokenizer or tokenizer_of())


def fails(path, **settings):
    with pytest.raises(TabomError) as error:
        load(path, **settings)
    return str(error.value)


def rewrite(path, change):
    weights = load_file(path / "model.safetensors")
    change(weights)
    save_file(weights, path / "model.safetensors", metadata={"format": "pt"})


def ids_and_mask(num_rows=2, length=9):
    return torch.randint(0, 120, (num_rows, length)), torch.ones(num_rows, length, dtype=torch.bool)


class TestRoundTrip:
    def test_weights_and_config_survive_to_the_bit(self, saved, tmp_path):
        path, _ = saved
        first = load(path)
        first.save_pretrained(tmp_path / "again")
        before, after = load_file(path / "model.safetensors"), load_file(tmp_path / "again/model.safetensors")
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert json.loads((path / "config.json").read_text()) == json.loads(
            (tmp_path / "again/config.json").read_text()
        )
        assert load(tmp_path / "again").fingerprint() == first.fingerprint()

    def test_original_names(self, saved):
        path, family = saved
        names = set(load_file(path / "model.safetensors"))
        assert BLOCK_WEIGHT[family] in names
        assert len(names) == {"llada": 3 + 9 * 2, "Dream": 3 + 12 * 2}[family]

    def test_several_files(self, saved, tmp_path):
        path, _ = saved
        (tmp_path / "parts").mkdir()
        weights, index = load_file(path / "model.safetensors"), {}
        for number, names in enumerate((sorted(weights)[::2], sorted(weights)[1::2])):
            file = f"model-{number + 1:05d}-of-00002.safetensors"
            save_file({name: weights[name] for name in names}, tmp_path / "parts" / file, metadata={"format": "pt"})
            index |= dict.fromkeys(names, file)
        (tmp_path / "parts/model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
        shutil.copy(path / "config.json", tmp_path / "parts")
        assert load(tmp_path / "parts").fingerprint() == load(path).fingerprint()
        (tmp_path / "parts/model-00002-of-00002.safetensors").unlink()
        assert fails(tmp_path / "parts") == (
            f"{tmp_path}/parts/model-00002-of-00002.safetensors: expected weights in the safetensors format, "
            "found no such file"
        )

    def test_files_beside_the_weights_go_along_and_are_not_run(self, saved, tmp_path):
        path, _ = saved
        for name in ("tokenizer.json", "generation_config.json", "chat_template.jinja", "merges.txt"):
            (path / name).write_text('{"a": 1}')
        (path / "modeling_llada.py").write_text("raise SystemExit('remote code was run')")
        load(path).save_pretrained(tmp_path / "again")
        expected = {file.name: file.read_bytes() for file in path.iterdir() if file.suffix != ".safetensors"}
        expected["config.json"] = (tmp_path / "again/config.json").read_bytes()
        assert expected == {
            file.name: file.read_bytes() for file in (tmp_path / "again").iterdir() if file.suffix != ".safetensors"
        }

    @pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
    def test_any_dtype(self, saved, tmp_path, dtype):
        path, _ = saved
        backbone = load(path, dtype=dtype)
        assert {parameter.dtype for parameter in backbone.parameters()} == {getattr(torch, dtype)}
        backbone.save_pretrained(tmp_path / "again")
        assert json.loads((tmp_path / "again/config.json").read_text())["torch_dtype"] == dtype
        again = load(tmp_path / "again")
        assert again.fingerprint() == backbone.fingerprint()


class TestStrictness:
    def test_missing(self, saved):
        path, family = saved
        rewrite(path, lambda weights: weights.pop(BLOCK_WEIGHT[family]))
        assert fails(path) == f"{path}/model.safetensors: missing tensors: {BLOCK_WEIGHT[family]}"

    def test_surplus(self, saved):
        path, _ = saved
        rewrite(path, lambda weights: weights.update(extra=torch.zeros(1)))
        assert fails(path) == f"{path}/model.safetensors: surplus tensors: extra"

    def test_misshapen(self, saved):
        path, family = saved
        rewrite(path, lambda weights: weights.update({BLOCK_WEIGHT[family]: torch.zeros(32, 31)}))
        assert fails(path) == (
            f"{path}/model.safetensors: tensor {BLOCK_WEIGHT[family]}: expected shape [32, 32], got [32, 31]"
        )

    def test_truncated(self, saved):
        path, _ = saved
        weights = path / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        assert fails(path).startswith(f"{weights}: expected a complete safetensors file (")

    def test_no_weights(self, saved):
        path, _ = saved
        (path / "model.safetensors").unlink()
        assert fails(path) == (
            f"{path}/model.safetensors: expected weights in the safetensors format, found no such file"
        )

    @pytest.mark.parametrize(
        ("index", "message"),
        [
            ({"metadata": {}}, "expected a JSON object under the key weight_map, found none"),
            ({"weight_map": {"a": "b"}}, "expected a JSON object under the key metadata, found none"),
            ({"metadata": {}, "weight_map": {}}, "expected at least one tensor in weight_map, found none"),
        ],
    )
    def test_an_index_that_is_none(self, saved, index, message):
        file = saved[0] / "model.safetensors.index.json"
        file.write_text(json.dumps(index))
        assert fails(saved[0]) == f"{file}: {message}"

    @pytest.mark.parametrize(
        ("family", "change", "message"),
        [
            ("llada", {"alibi": True}, "config.json: alibi: expected False, as LLaDA has it, got True"),
            ("llada", {"block_type": "sequential"}, "block_type: expected 'llama', as LLaDA has it, got 'sequential'"),
            ("llada", {"n_heads": None}, "config.json: expected the keys of a LLaDA model, found no n_heads"),
            ("Dream", {"use_sliding_window": True}, "use_sliding_window: expected False, as Dream has it, got True"),
            (
                "Dream",
                {"mask_token_id": None},
                "expected the keys of a Dream model, found no mask_token_id",
            ),
        ],
    )
    def test_variants_that_would_compute_something_else(self, tmp_path, family, change, message):
        (tmp_path / "config.json").write_text(json.dumps(CONFIGS[family][1](**change)))
        assert message in fails(tmp_path)

    @pytest.mark.parametrize(
        ("family", "change", "message"),
        [
            (
                "Dream",
                {"rope_parameters": YARN},
                "rope_parameters.rope_type: expected 'default', as Dream has it, got 'y",
            ),
            (
                "Dream",
                {"rope_scaling": {"type": "linear", "factor": 4}},
                "rope_scaling.type: expected 'default', as Dream",
            ),
            (
                "llada",
                {"rope_scaling": {"rope_type": "llama3"}},
                "rope_scaling.rope_type: expected 'default', as LLaDA",
            ),
            (
                "llada",
                {"rope_scaling": {"factor": 2.0}},
                "rope_scaling.factor: expected None, as LLaDA has it, got 2.0",
            ),
            (
                "llada",
                {"rope_parameters": {"rope_theta": 1e4}},
                "rope_theta: expected 500000.0, as rope_theta has it, g",
            ),
            (
                "Dream",
                {"rope_parameters": {"partial_rotary_factor": 0.5}},
                "partial_rotary_factor: expected None, as D",
            ),
            ("Dream", {"rope_theta": None}, "expected the keys of a Dream model, found no rope_theta"),
            ("Dream", {"rope_theta": "x"}, "config.json: expected the configuration of a model (could not convert"),
            ("Dream", {"rope_scaling": [1]}, "config.json: expected the configuration of a model ("),
            ("Dream", {"partial_rotary_factor": 0.5}, "partial_rotary_factor: expected 1.0, as Dream has it, got 0.5"),
            (
                "Dream",
                {"layer_types": ["full_attention", "sliding_attention"]},
                "layer_types: expected 'full_attention'",
            ),
            ("Dream", {"attention_bias": False}, "attention_bias: expected True, as Dream has it, got False"),
            ("Dream", {"is_causal": True}, "is_causal: expected False, as Dream has it, got True"),
            (
                "Dream",
                {"embedding_multiplier": 12.0},
                "embedding_multiplier: expected no such field in a Dream model, got",
            ),
            ("Dream", {"final_logit_softcapping": 30.0}, "final_logit_softcapping: expected no such field in a Dream"),
            ("Dream", {"quantization_config": {"bits": 4}}, "quantization_config: expected no such field in a Dream"),
            ("Dream", {"hidden_act": "none"}, "hidden_act: expected 'silu', as Dream has it, got 'none'"),
            ("Dream", {"hidden_size": "wide"}, "config.json: expected the configuration of a model (Validation error"),
            ("Dream", {"num_attention_heads": 0}, "config.json: expected the configuration of a model ("),
            (
                "llada",
                {"layer_norm_type": "default"},
                "layer_norm_type: expected 'rms', as LLaDA has it, got 'default'",
            ),
            ("llada", {"scale_emb_init": True}, "scale_emb_init: expected no such field in a LLaDA model, got True"),
            (
                "llada",
                {"layer_types": ["sliding_attention"]},
                "layer_types: expected 'full_attention', as LLaDA has it, g",
            ),
            ("tiny", {"is_causal": True}, "is_causal: expected False, as tiny has it, got True"),
            ("tiny", {"sliding_window": 4}, "sliding_window: expected no such field in a tiny model, got 4"),
            ("tiny", {"num_hidden_layers": None}, "expected the keys of a tiny model, found no num_hidden_layers"),
        ],
    )
    def test_fields_that_would_change_the_computation(self, tmp_path, family, change, message):
        config = {"tiny": tiny_config, "llada": llada_config, "Dream": dream_config}[family](**change)
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert fails(tmp_path).startswith(f"{tmp_path}/config.json: ")
        assert message in fails(tmp_path)

    @pytest.mark.parametrize(
        ("family", "change"),
        [
            ("Dream", {"rope_theta": None, "rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
            ("Dream", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "partial_rotary_factor": 1.0}}),
            ("Dream", {"layer_types": ["full_attention"] * 2, "sliding_window": 4096, "max_window_layers": 1}),
            ("Dream", {"attention_bias": True, "head_dim": 8, "attention_dropout": 0.1, "use_new_thing": False}),
            ("llada", {"rope_theta": None, "rope_scaling": {"type": "default", "rope_theta": 5e5}}),
            ("llada", {"rope_full_precision": True, "mlp_ratio": 4, "init_fn": "mitchell", "precision": "amp_bf16"}),
            ("llada", {"transformers_version": "5.0", "dtype": "float32", "_name_or_path": "x", "new_thing": None}),
        ],
    )
    def test_fields_that_change_nothing(self, tmp_path, family, change):
        make, config = CONFIGS[family]
        path = family_checkpoint(tmp_path / "model", make, config())
        ids, mask = ids_and_mask()
        before = load(path).eval()(ids, mask)
        (path / "config.json").write_text(json.dumps(config(**change)))
        assert torch.equal(load(path).eval()(ids, mask), before)

    @pytest.mark.parametrize("name", ["llada_tiny", "dream_tiny"])
    def test_every_field_of_the_official_files_is_known(self, golden, name):
        config = json.loads((golden / name / "config.json").read_text())
        fields = {"llada_tiny": llada._FIELDS, "dream_tiny": dream._FIELDS}[name]
        known = {*fields.required, *fields.optional, *fields.values, *fields.without_effect}
        assert config.keys() <= known | {*config_fields._ROPE, *config_fields._WITHOUT_EFFECT}

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ({"mask": 1}, "tokenizer: expected mask token id 127, which the model has, got 1"),
            ({"pad": 1}, "tokenizer: expected pad token id 125, which the model has, got 1"),
            ({"eos": 1}, "tokenizer: expected eos token id 125, which the model has, got 1"),
            ({"size": 129}, "tokenizer: expected at most 128 tokens, which the model has, got 129"),
        ],
    )
    def test_tokenizer_of_another_model(self, saved, ids, message):
        assert fails(saved[0], tokenizer=tokenizer_of(**ids)) == message


class TestIdsWithoutAToken:
    """Dream has 152,064 rows in its head, and 151,667 tokens."""

    def test_rows_behind_the_last_token(self, tmp_path):
        config = dream_config(mask_token_id=99, pad_token_id=98, eos_token_id=98)
        path = family_checkpoint(tmp_path / "model", DreamBackbone, config)
        backbone = load(path, tokenizer_of(mask=99, pad=98, eos=98, size=100), lora=Lora(r=2))
        assert backbone.unused_ids == backbone.reference().unused_ids == tuple(range(100, 128))
        assert Snapshot(backbone).unused_ids == backbone.unused_ids

    def test_gaps_in_the_vocabulary(self, tmp_path, saved):
        tokenizer = tokenizer_of()
        vocabulary = {word: i for word, i in tokenizer.get_vocab().items() if i not in (7, 11)}
        tokenizer.get_vocab = lambda: vocabulary
        assert load(saved[0], tokenizer).unused_ids == (7, 11)

    def test_none(self, saved):
        assert load(saved[0]).unused_ids == ()


class TestWhere:
    def test_no_checkpoint(self, tmp_path):
        assert fails(tmp_path) == (
            f"{tmp_path}/config.json: expected the configuration of a saved model, found no such file"
        )
        assert fails(tmp_path / "none").startswith(
            f"{tmp_path}/none: expected the directory of a checkpoint or a hub id ("
        )

    def test_unknown_family(self, tmp_path):
        (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
        assert fails(tmp_path) == (
            f"{tmp_path}/config.json: expected model_type to be one of {KNOWN} or a masked language model of "
            "transformers, got 'gpt2'; of any other decoder of transformers that was trained as a masked diffusion "
            "model, say so by the backbone's keys attention: full, shift (true or false) and mask_token"
        )

    def test_config_that_is_no_json(self, tmp_path):
        (tmp_path / "config.json").write_text("{")
        assert fails(tmp_path).startswith(
            f"{tmp_path}/config.json: expected the configuration of a saved model as a JSON object ("
        )

    def test_hub_id(self, saved, tmp_path, monkeypatch):
        """From a cache in the hub's layout, which is all that a machine without a network has."""
        path, _ = saved
        repository = tmp_path / "hub/models--some--dlm"
        shutil.copytree(path, repository / "snapshots/0123abcd")
        (repository / "refs").mkdir()
        (repository / "refs/main").write_text("0123abcd")
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
        assert load("some/dlm").fingerprint() == load(path).fingerprint()
        assert load("some/dlm", revision="main").fingerprint() == load(path).fingerprint()
        assert fails("some/other").startswith("some/other: expected the directory of a checkpoint or a hub id (")
        assert "revision" in fails("some/dlm", revision="v2") or "v2" in fails("some/dlm", revision="v2")


class TestComputation:
    def test_llada_equals_an_independent_model_with_the_original_names(self, tmp_path):
        config = llada_config()
        path = family_checkpoint(tmp_path / "model", LladaBackbone, config)
        original = OriginalLlada(config)
        original.load_state_dict(load_file(path / "model.safetensors"))
        ids, mask = ids_and_mask()
        backbone = load(path)
        torch.testing.assert_close(backbone.logits(backbone(ids, mask)), original(ids), rtol=1e-4, atol=1e-4)

    @pytest.mark.parametrize("family", CONFIGS)
    def test_padding_on_either_side_changes_nothing(self, tmp_path, family):
        backbone = load(family_checkpoint(tmp_path / "model", *CONFIGS[family][:1], CONFIGS[family][1]())).eval()
        ids, mask = ids_and_mask(1)
        alone = backbone(ids, mask)[0]
        for left, right in ((4, 0), (0, 3), (2, 5)):
            for filler in (125, 3):
                padded = torch.nn.functional.pad(ids, (left, right), value=filler)
                got = backbone(padded, torch.nn.functional.pad(mask, (left, right)))[0, left : left + 9]
                torch.testing.assert_close(got, alone, rtol=1e-5, atol=1e-5)

    def test_every_position_sees_every_other(self, saved):
        backbone = load(saved[0]).eval()
        ids, mask = ids_and_mask(1)
        changed = ids.clone()
        changed[0, -1] = (ids[0, -1] + 1) % 100
        assert ((backbone(ids, mask) - backbone(changed, mask)).abs().amax(-1) > 1e-4).all()

    def test_any_attention_is_asked_for_full_attention(self, saved):
        """Flash attention gets no mask where nothing is padded: this argument alone makes it bidirectional."""
        asked = []

        def attention(module, query, key, value, attention_mask, **kwargs):
            asked.append(kwargs["is_causal"])
            repeats = query.shape[1] // key.shape[1]
            key, value = (states.repeat_interleave(repeats, 1) for states in (key, value))
            output = torch.nn.functional.scaled_dot_product_attention(query, key, value)
            return output.transpose(1, 2).contiguous(), None

        AttentionInterface.register("recorded", attention)
        ids, mask = ids_and_mask()
        recorded, plain = load(saved[0], attn_implementation="recorded").eval(), load(saved[0]).eval()
        torch.testing.assert_close(recorded(ids, mask), plain(ids, mask))
        assert asked == [False, False]

    def test_attention_that_is_not_installed(self, saved):
        assert fails(saved[0], attn_implementation="flash_attention_2").startswith(
            "attn_implementation: flash_attention_2 cannot be used here ("
        )

    def test_gradient_checkpointing_changes_no_gradient(self, saved):
        gradients = []
        ids, mask = ids_and_mask()
        for gradient_checkpointing in (False, True):
            backbone = load(saved[0], gradient_checkpointing=gradient_checkpointing)
            assert backbone.transformer.is_activation_checkpointing == gradient_checkpointing
            backbone.logits(backbone(ids, mask)).square().mean().backward()
            gradients.append({name: parameter.grad for name, parameter in backbone.named_parameters()})
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradients[1][name], gradient)

    def test_the_embedding_of_the_padding_token_is_learnt(self, saved):
        """It is the end of sequence as well."""
        backbone = load(saved[0])
        ids = torch.full((1, 6), 125)
        backbone.logits(backbone(ids, torch.ones_like(ids, dtype=torch.bool))).square().mean().backward()
        assert backbone.transformer.get_input_embeddings().weight.grad[125].abs().sum() > 0


FULL_SIZE = {
    "llada": (
        llada_config(
            d_model=4096, n_heads=32, n_kv_heads=32, n_layers=32, mlp_hidden_size=12288, embedding_size=126464,
            vocab_size=126464, max_sequence_length=4096, mask_token_id=126336, eos_token_id=126081, pad_token_id=126081,
        ),
        8_015_581_184,
        8_388_608,
    ),
    "dream": (
        dream_config(
            hidden_size=3584, num_attention_heads=28, num_hidden_layers=28, num_key_value_heads=4,
            intermediate_size=18944, vocab_size=152064, max_position_embeddings=131072,
            mask_token_id=151666, eos_token_id=151643, pad_token_id=151643,
        ),
        7_615_616_512,
        5_046_272,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", FULL_SIZE)
def test_sizes_of_the_real_models(tmp_path, repository, family):
    """With the adapter of the shipped configurations, on the meta device: nothing is allocated or downloaded."""
    config, num_parameters, num_trained = FULL_SIZE[family]
    (tmp_path / "config.json").write_text(json.dumps(config))
    shipped = repository / "configs" / "parts" / f"{family}_backbone.yaml"
    settings = yaml.safe_load(shipped.read_text())["init_args"]
    source = PretrainedBackbone(**{**settings, "path": str(tmp_path), "lora": Lora(**settings["lora"])})
    with torch.device("meta"):
        backbone = source.untrained()
    trained = sum(parameter.numel() for parameter in backbone.parameters() if parameter.requires_grad)
    frozen = sum(parameter.numel() for parameter in backbone.parameters() if not parameter.requires_grad)
    assert (frozen, trained) == (num_parameters, num_trained)
    assert {parameter.device.type for parameter in backbone.parameters()} == {"meta"}


def test_a_model_that_cannot_be_made_anew(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(TabomError, match=rf"expected one of the families {re.escape(KNOWN)}, got bert$"):
        PretrainedBackbone(str(tmp_path)).untrained()


def test_tiny_models_written_by_save_backbone_are_a_family_like_any_other(tmp_path):
    path = family_checkpoint(tmp_path / "model", TinyDLM, tiny_config())
    backbone = load(path)
    assert isinstance(backbone, TinyDLM)
    backbone.save_pretrained(tmp_path / "again")
    assert load(tmp_path / "again").fingerprint() == backbone.fingerprint()


LOAD = """
import re, sys
from pathlib import Path
from tabom.backbones.families import FAMILIES
path = Path(sys.argv[1])
def peak_kib():  # not ru_maxrss, which a child inherits
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1])
before = peak_kib()
backbone = FAMILIES[sys.argv[2]].backbone.from_pretrained(path)
total = sum(float(parameter.sum()) for parameter in backbone.parameters())  # touch every page
size = sum(file.stat().st_size for file in path.glob("*.safetensors"))
print(size, (peak_kib() - before) * 1024 / size, total)
"""


LARGE = {
    "llada": llada_config(
        d_model=2048, n_heads=16, n_kv_heads=16, n_layers=18, mlp_hidden_size=5504, embedding_size=32000
    ),
    "a2d-qwen3": a2d_config(
        hidden_size=1024, num_attention_heads=16, num_key_value_heads=8, head_dim=128, num_hidden_layers=28,
        intermediate_size=3072, vocab_size=151936,
    ),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")
@pytest.mark.parametrize("family", LARGE)
def test_loading_takes_little_more_memory_than_the_weights(tmp_path, family):
    """One or two gigabytes in several files, a tied head with a stored copy; `pytest -s` shows the ratio."""
    with torch.device("meta"):
        backbone = FAMILIES[family].backbone.from_config(LARGE[family])
    backbone.to(torch.bfloat16).to_empty(device="cpu").requires_grad_(False)
    backbone.transformer.tie_weights()
    for number, parameter in enumerate(backbone.parameters()):
        parameter.fill_(number)
    backbone.save_pretrained(tmp_path)
    if LARGE[family].get("tie_word_embeddings"):
        rewrite(tmp_path, lambda weights: weights.update({"lm_head.weight": backbone.head.weight.clone()}))
    printed = subprocess.run(
        [sys.executable, "-c", LOAD, str(tmp_path), family], check=True, capture_output=True, text=True
    ).stdout.split()
    expected = sum(number * parameter.numel() for number, parameter in enumerate(backbone.parameters()))
    assert float(printed[2]) == pytest.approx(expected, rel=0.01)  # summed in bfloat16
    print(f"{int(printed[0]) / 1e9:.2f} GB of weights, peak {float(printed[1]):.3f} times that")
    assert int(printed[0]) > 1e9
    assert 0.9 < float(printed[1]) < 1.05
