"""LLaDA: GSAI-ML/LLaDA-8B-Base and -Instruct, LLaDA-1.5, and others of their layout."""

from typing import Any

from transformers import LlamaConfig

from tabom.backbones.checkpoint import Naming
from tabom.backbones.config_fields import UNTIED, ConfigFields
from tabom.backbones.decoder import DecoderBackbone

_BLOCK = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}
_FIELDS = ConfigFields(
    "LLaDA",
    required=(
        *("d_model", "n_heads", "n_layers", "mlp_hidden_size", "rms_norm_eps", "mask_token_id", "max_sequence_length"),
        "vocab_size",
    ),
    optional=("embedding_size", "n_kv_heads"),
    values={
        "activation_type": ("silu",),
        "alibi": (False,),
        "attention_dropout": (0.0,),
        "attention_layer_norm": (False,),
        "bias_for_layer_norm": (False, None),
        "block_group_size": (1,),
        "block_type": ("llama",),
        "clip_qkv": (None,),
        "embedding_dropout": (0.0,),
        "include_bias": (False,),
        "include_qkv_bias": (False, None),
        "input_emb_norm": (False,),
        "layer_norm_type": ("rms",),
        "layer_norm_with_affine": (True,),
        "multi_query_attention": (None, False),
        "residual_dropout": (0.0,),
        "rope": (True,),
        "scale_logits": (False,),
        "weight_tying": (False,),
        "partial_rotary_factor": (1.0, None),
    },
    without_effect=(
        *("alibi_bias_max", "attention_layer_norm_with_affine", "mlp_ratio"),  # of what is off, or given by its size
        *("flash_attention", "precision", "rope_full_precision"),  # how the same is computed
        *("init_cutoff_factor", "init_device", "init_fn", "init_std"),
    ),
)


class LladaBackbone(DecoderBackbone):
    """LLaDA on transformers' Llama modules: the same computation under other names.

    One difference: the original rotates queries and keys in float32 also in half precision (``rope_full_precision``),
    transformers in the model's dtype. In float32 both agree to the bit.
    """

    naming = Naming(
        {
            "model.transformer.wte": "model.embed_tokens",
            "model.transformer.ln_f": "model.norm",
            "model.transformer.ff_out": "lm_head",
            **{f"model.transformer.blocks.{{i}}.{old}": f"model.layers.{{i}}.{new}" for old, new in _BLOCK.items()},
        }
    )

    @property
    def max_length(self) -> int:
        """As ``config.json`` says."""
        return self.config["max_sequence_length"]

    @classmethod
    def native_config(cls, config: dict[str, Any]) -> LlamaConfig:
        """Translate the original fields; those that would change the computation have to be at LLaDA's values."""
        _FIELDS.check(config)
        return LlamaConfig(
            vocab_size=config.get("embedding_size") or config["vocab_size"],
            hidden_size=config["d_model"],
            intermediate_size=config["mlp_hidden_size"],
            num_hidden_layers=config["n_layers"],
            num_attention_heads=config["n_heads"],
            num_key_value_heads=config.get("n_kv_heads") or config["n_heads"],
            max_position_embeddings=config["max_sequence_length"],
            rms_norm_eps=config["rms_norm_eps"],
            rope_parameters={"rope_type": "default", "rope_theta": _FIELDS.rope_theta(config)},
            **UNTIED,
        )
