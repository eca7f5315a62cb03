"""What LLaDA2 computes under other names than transformers' GLM-4 mixture of experts; imports its model class."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Glm4MoeConfig
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.glm4_moe.modeling_glm4_moe import (
    Glm4MoeAttention,
    Glm4MoeForCausalLM,
    Glm4MoeMoE,
    Glm4MoeTopkRouter,
    apply_rotary_pos_emb,
    eager_attention_forward,
)


class FusedAttention(Glm4MoeAttention):
    """Attention whose queries, keys and values come from one matrix, so that adapters fit the original's."""

    def __init__(self, config: Glm4MoeConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        del self.q_proj, self.k_proj, self.v_proj
        self._num_heads = (config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads)
        self.query_key_value = nn.Linear(config.hidden_size, sum(self._num_heads) * self.head_dim, bias=False)

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Any,
        past_key_values: Any = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """As the parent's: hidden states (B, L, D) to (B, L, D), and the attention's weights where they are kept."""
        heads = self.query_key_value(hidden_states).unflatten(-1, (-1, self.head_dim))
        query, key, value = heads.split(self._num_heads, dim=-2)
        query, key, value = (each.transpose(1, 2) for each in (self.q_norm(query), self.k_norm(key), value))
        query, key = apply_rotary_pos_emb(query, key, *position_embeddings)
        if past_key_values is not None:
            key, value = past_key_values.update(key, value, self.layer_idx)
        config: Any = self.config
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(config._attn_implementation, eager_attention_forward)
        attended, weights = attend(self, query, key, value, attention_mask, dropout=0.0, scaling=self.scaling, **kwargs)
        return self.o_proj(attended.flatten(2)), weights


class Float32Router(Glm4MoeTopkRouter):
    """Scores in float32 under autocast too, which would round them to bfloat16 and choose other experts."""

    def forward(self, hidden_states: Tensor) -> Any:
        """As the parent's."""
        with torch.autocast(hidden_states.device.type, enabled=False):
            return super().forward(hidden_states)


class Llada2ForCausalLM(Glm4MoeForCausalLM):
    """GLM-4's mixture of experts with the parts above."""

    def __init__(self, config: Glm4MoeConfig) -> None:
        super().__init__(config)
        layers: Any = self.model.layers
        for index, layer in enumerate(layers):
            layer.self_attn = FusedAttention(config, index)
            if isinstance(layer.mlp, Glm4MoeMoE):
                layer.mlp.gate = Float32Router(config)
        self.post_init()


_merging_experts: Any = get_checkpoint_conversion_mapping("glm4_moe")
register_checkpoint_conversion_mapping(Llada2ForCausalLM.__name__, _merging_experts, overwrite=True)
