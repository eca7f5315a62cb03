"""Dream: Dream-org/Dream-v0-Base-7B and -Instruct-7B, Dream-Coder, and others of their layout."""

from typing import Any

from transformers import Qwen2Config
from transformers.activations import ACT2FN

from tabom.backbones.config_fields import UNTIED, ConfigFields
from tabom.backbones.decoder import DecoderBackbone

_TAKEN_OVER = (
    *("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    *("num_key_value_heads", "max_position_embeddings", "rms_norm_eps", "hidden_act"),
)
_FIELDS = ConfigFields(
    "Dream",
    required=(*_TAKEN_OVER, "mask_token_id"),
    optional=("attention_dropout", "head_dim"),
    values={
        "attention_bias": (True,),
        "is_causal": (False,),
        "partial_rotary_factor": (1.0, None),
        "tie_word_embeddings": (False,),
        "use_mrope": (False,),
        "use_sliding_window": (False,),
    },
    without_effect=("max_window_layers", "sliding_window"),  # of the sliding window
)


class DreamBackbone(DecoderBackbone):
    """Dream on transformers' Qwen2 modules, whose names the original checkpoints have already."""

    shift = True

    @classmethod
    def native_config(cls, config: dict[str, Any]) -> Qwen2Config:
        """Take the original fields over; those that would change the computation have to be at Dream's values."""
        _FIELDS.check(config)
        _FIELDS.expect("hidden_act", config["hidden_act"], ("silu", *ACT2FN))
        return Qwen2Config(
            **{key: config[key] for key in (*_TAKEN_OVER, *_FIELDS.optional) if config.get(key) is not None},
            rope_parameters={"rope_type": "default", "rope_theta": _FIELDS.rope_theta(config)},
            **UNTIED,
        )
