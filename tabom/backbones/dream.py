"""Dream: Dream-org/Dream-v0-Base-7B and -Instruct-7B, Dream-Coder, and others of their layout."""

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from tabom.backbones.transformer import FULL_ATTENTION, DecoderBackbone
from tabom.errors import require

_COMPUTED = {"rope_scaling": None, "tie_word_embeddings": False, "use_mrope": False, "use_sliding_window": False}
_TAKEN_OVER = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
)


class DreamBackbone(DecoderBackbone):
    """Dream on transformers' Qwen2 modules, whose names the original checkpoints have already.

    Dream's hidden state ``i`` predicts token ``i + 1``, since it was made from an autoregressive model; the shift is
    undone here and nowhere else.
    """

    model_class = Qwen2ForCausalLM

    @classmethod
    def native_config(cls, config: dict[str, Any]) -> Qwen2Config:
        """Take the original fields over; those that would change the computation have to be at Dream's values."""
        for key, expected in _COMPUTED.items():
            got = config.get(key, expected)
            require(got == expected, f"config.json: {key}: expected {expected!r}, as Dream has it, got {got!r}")
        missing = [key for key in (*_TAKEN_OVER, "rope_theta", "mask_token_id") if config.get(key) is None]
        require(not missing, f"config.json: expected the keys of a Dream model, found no {', '.join(missing)}")
        return Qwen2Config(
            **{key: config[key] for key in _TAKEN_OVER},
            rope_parameters={"rope_type": "default", "rope_theta": config["rope_theta"]},
            **FULL_ATTENTION,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states, each taken from its left neighbour; a row's first real token keeps its own."""
        hidden = super().forward(input_ids, attention_mask)
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        first = attention_mask.long().argmax(1, keepdim=True)
        source = torch.maximum(positions - 1, first)
        return hidden.gather(1, source[..., None].expand_as(hidden))
