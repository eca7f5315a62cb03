"""A checkpoint from a GGUF file of a tiny Llama, which the tests write as llama.cpp's converter does."""

import json
import sys

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file

from tabom.backbones import PretrainedBackbone
from tabom.backbones.gguf import convert_gguf
from tabom.cli.main import main
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import TabomError

LAYERS, WIDTH, HEADS, KV_HEADS, INNER = 2, 32, 4, 2, 64
MASK = "<empty>"
SPECIAL = ["<|endoftext|>", "<|start|>", "<|stop|>", MASK]
LETTERS = [chr(code) for code in range(33, 127)]
MERGES = ["a b", "c d"]
TOKENS = [*SPECIAL, *LETTERS, "ab", "cd"]
NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(TOKENS),
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=64,
        tie_word_embeddings=True,
    )
    return transformers.LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def file(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(LAYERS)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(10_000.0)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(TOKENS)
    writer.add_token_merges(MERGES)
    kinds = [gguf.TokenType.CONTROL] * len(SPECIAL) + [gguf.TokenType.NORMAL] * (len(TOKENS) - len(SPECIAL))
    writer.add_token_types(kinds)
    for kind, number in {"bos": 1, "eos": 2, "unk": 0, "pad": 2}.items():
        getattr(writer, f"add_{kind}_token_id")(number)
    for name, tensor in model.model.state_dict().items():
        writer.add_tensor(*exported(name, tensor))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def exported(name, tensor):
    """Name and values in the file: llama.cpp pairs the halves of queries and keys differently."""
    outer = {"embed_tokens.weight": "token_embd.weight", "norm.weight": "output_norm.weight"}
    if name in outer:
        return outer[name], tensor.numpy()
    _, number, part = name.removesuffix(".weight").split(".", 2)
    heads = {"self_attn.q_proj": HEADS, "self_attn.k_proj": KV_HEADS}.get(part)
    if heads is not None:
        tensor = tensor.reshape(heads, 2, -1, WIDTH).transpose(1, 2).reshape(tensor.shape)
    return f"blk.{number}.{NAMES[part]}.weight", tensor.contiguous().numpy()


@pytest.fixture(scope="module")
def checkpoint(file, tmp_path_factory):
    path = tmp_path_factory.mktemp("made") / "causal"
    assert convert_gguf(file, path, mask_token=MASK) == 3
    return path


def test_it_computes_what_the_file_does_but_for_the_mask_token(checkpoint, model):
    ids = torch.tensor([[4, 60, 98, 7, 99, 20]])
    again = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    others = [number for number in range(len(TOKENS)) if number != 3]
    with torch.no_grad():
        got, expected = again(input_ids=ids).logits, model(input_ids=ids).logits
    torch.testing.assert_close(got[..., others], expected[..., others], rtol=1e-5, atol=1e-5)
    weights = load_file(checkpoint / "model.safetensors")
    assert "lm_head.weight" not in weights  # tied
    mean = model.model.embed_tokens.weight.data.mean(0)
    torch.testing.assert_close(weights["model.embed_tokens.weight"][3], mean, rtol=1e-5, atol=1e-6)


def test_the_same_as_a_masked_diffusion_model(checkpoint, model):
    tokenizer = load_tokenizer(str(checkpoint), MASK)
    assert (tokenizer.mask_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (3, 2, 2)
    assert tokenizer("abcd", add_special_tokens=False)["input_ids"] == [98, 99]
    settings = {"shift": True, "mask_token": MASK}
    backbone = PretrainedBackbone(str(checkpoint), attention="causal", **settings).load(tokenizer).eval()
    ids = torch.tensor([[4, 60, 98, 7, 99, 20]])
    with torch.no_grad():
        got = backbone.logits(backbone(ids, torch.ones_like(ids).bool()))[:, 1:]
        expected = model(input_ids=ids).logits[:, :-1]
    kept = [number for number in range(len(TOKENS)) if number != 3]
    torch.testing.assert_close(got[..., kept], expected[..., kept], rtol=1e-5, atol=1e-5)
    config = json.loads((checkpoint / "config.json").read_text())
    assert config["mask_token_id"] == 3
    assert "quantization_config" not in config


def test_the_verb(file, tmp_path, capsys):
    words = ["convert", str(file), f"--output_dir={tmp_path / 'out'}", f"--mask_token={MASK}"]
    main(words)
    assert f"{tmp_path / 'out'}: model written, mask token {MASK} (id 3)" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(words)
    assert "expected no model yet, found model.safetensors" in capsys.readouterr().err


def test_bad_input(file, tmp_path, monkeypatch):
    def message(path, mask_token=MASK):
        with pytest.raises(TabomError) as error:
            convert_gguf(path, tmp_path / "none", mask_token=mask_token)
        assert not (tmp_path / "none").exists()
        return str(error.value)

    assert message(tmp_path / "no.gguf") == f"{tmp_path / 'no.gguf'}: expected a GGUF file, found no such file"
    (tmp_path / "bad.gguf").write_bytes(b"not a model")
    assert message(tmp_path / "bad.gguf").startswith(f"{tmp_path / 'bad.gguf'}: expected a GGUF file with a tokenizer")
    assert message(file, "<|mask|>").startswith("mask_token: expected a token of the vocabulary, such as ")
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.setattr("tabom.backbones.gguf.find_spec", lambda name: None)
    assert message(file).endswith("expected the package gguf to read it, found none; pip install 'tabom[gguf]'")
