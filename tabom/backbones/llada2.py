"""LLaDA2: inclusionAI/LLaDA2.0-mini and -flash, mixtures of experts."""

from collections.abc import Iterator
from typing import Any

from torch import Tensor
from transformers import Glm4MoeConfig

from tabom.backbones.checkpoint import Naming
from tabom.backbones.config_fields import ConfigFields
from tabom.backbones.decoder import DecoderBackbone

_TAKEN_OVER = (
    *("vocab_size", "hidden_size", "intermediate_size", "moe_intermediate_size", "num_hidden_layers"),
    *("num_attention_heads", "num_key_value_heads", "num_experts_per_tok", "n_group", "topk_group"),
    *("routed_scaling_factor", "first_k_dense_replace", "rms_norm_eps"),
)
_FIELDS = ConfigFields(
    "LLaDA2",
    required=(*_TAKEN_OVER, "num_experts", "num_shared_experts"),
    optional=("head_dim", "max_position_embeddings", "partial_rotary_factor", "rotary_dim"),
    values={
        "attention_dropout": (0.0,),
        "embedding_dropout": (0.0,),
        "hidden_act": ("silu",),
        "moe_router_enable_expert_bias": (True,),
        "norm_head": (False,),
        "norm_softmax": (False,),
        "norm_topk_prob": (True,),
        "output_dropout": (0.0,),
        "router_dtype": ("fp32", "float32"),
        "score_function": ("sigmoid",),
        "tie_word_embeddings": (False,),
        "use_bias": (False,),
        "use_qk_norm": (True,),
        "use_qkv_bias": (False,),
        "use_rmsnorm": (True,),
        "use_sliding_window": (False,),
        "using_split_qkv_in_self_attention": (False,),
    },
    without_effect=("max_window_layers", "sliding_window", "output_router_logits"),
)
_BLOCK = {
    "attention.query_key_value": "self_attn.query_key_value",
    "attention.query_layernorm": "self_attn.q_norm",
    "attention.key_layernorm": "self_attn.k_norm",
    "attention.dense": "self_attn.o_proj",
    "mlp.gate.expert_bias": "mlp.gate.e_score_correction_bias",
}
_EXPERT_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}


class Llada2Config(Glm4MoeConfig):
    """GLM-4's under a name of its own, by which peft does not take adapters of other layers for those of experts."""

    model_type = "llada2_moe"
    head_dim: int | None = None


class _ExpertNaming(Naming):
    """Transformers holds all experts of a layer in two tensors, the checkpoint each of them in three."""

    def original_tensors(self, name: str, tensor: Tensor) -> Iterator[tuple[str, Tensor]]:
        module, _, kind = name.rpartition(".")
        if not module.endswith(".experts"):
            yield from super().original_tensors(name, tensor)
            return
        for index, expert in enumerate(tensor):
            parts = _EXPERT_PARTS[kind]
            for part, weight in zip(parts, expert.chunk(len(parts)), strict=True):
                yield f"{module}.{index}.{part}.weight", weight


class Llada2Backbone(DecoderBackbone):
    """LLaDA2 on transformers' GLM-4 mixture of experts: the same computation under other names.

    Experts are chosen from the best groups by sigmoid scores plus a bias, and weighted by the scores alone; the router
    computes in float32 and keeps its bias in float32. Half of each head is rotated.
    """

    own_block_size = 32
    naming = _ExpertNaming(
        {
            "model.word_embeddings": "model.embed_tokens",
            **{f"model.layers.{{i}}.{old}": f"model.layers.{{i}}.{new}" for old, new in _BLOCK.items()},
        }
    )

    @classmethod
    def native_config(cls, config: dict[str, Any]) -> Llada2Config:
        """Translate the original fields; those that would change the computation have to be at LLaDA2's values."""
        _FIELDS.check(config)
        head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        rotated = config.get("partial_rotary_factor") or 0.5
        _FIELDS.expect("rotary_dim", config.get("rotary_dim"), (int(head_dim * rotated), None))
        return Llada2Config(
            **{key: config[key] for key in _TAKEN_OVER},
            n_routed_experts=config["num_experts"],
            n_shared_experts=config["num_shared_experts"],
            head_dim=head_dim,
            max_position_embeddings=config.get("max_position_embeddings") or 16384,
            use_qk_norm=True,
            norm_topk_prob=True,
            rope_parameters={
                "rope_type": "default",
                "rope_theta": _FIELDS.rope_theta(config),
                "partial_rotary_factor": rotated,
            },
            tie_word_embeddings=False,
            pad_token_id=config.get("pad_token_id"),
        )

    @classmethod
    def model_class(cls, native: Any) -> Any:
        """GLM-4's class with one matrix for queries, keys and values."""
        del native
        from tabom.backbones.llada2_modules import Llada2ForCausalLM

        return Llada2ForCausalLM
