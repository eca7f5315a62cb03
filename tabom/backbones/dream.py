"""Dream: Dream-org/Dream-v0-Base-7B and -Instruct-7B, Dream-Coder, and others of their layout."""

from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config
from transformers.activations import ACT2FN

from tabom.backbones.cache import CanvasCache
from tabom.backbones.config_fields import ConfigFields
from tabom.backbones.transformer import FULL_ATTENTION, DecoderBackbone

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
    """Dream on transformers' Qwen2 modules, whose names the original checkpoints have already.

    Dream's hidden state ``i`` predicts token ``i + 1``, since it was made from an autoregressive model; the shift is
    undone here and nowhere else.
    """

    model_class = "Qwen2ForCausalLM"

    @classmethod
    def native_config(cls, config: dict[str, Any]) -> Qwen2Config:
        """Take the original fields over; those that would change the computation have to be at Dream's values."""
        _FIELDS.check(config)
        _FIELDS.expect("hidden_act", config["hidden_act"], ("silu", *ACT2FN))
        return Qwen2Config(
            **{key: config[key] for key in (*_TAKEN_OVER, *_FIELDS.optional) if config.get(key) is not None},
            rope_parameters={"rope_type": "default", "rope_theta": _FIELDS.rope_theta(config)},
            **FULL_ATTENTION,
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states, each taken from its left neighbour; a row's first real token keeps its own."""
        return _shifted(super().forward(input_ids, attention_mask), attention_mask)

    def forward_with_cache(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, CanvasCache]:
        """Hidden states, each taken from its left neighbour, and keys and values, which are not shifted."""
        hidden, cache = super().forward_with_cache(input_ids, attention_mask)
        return _shifted(hidden, attention_mask), cache

    def forward_from_cache(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, cache: CanvasCache
    ) -> Tensor:
        """Hidden states of the left neighbours; computed are these and ``positions``: P + 1 columns if consecutive."""
        source = _left_neighbours(positions, attention_mask)
        is_computed = torch.zeros_like(attention_mask).scatter(1, positions, True).scatter(1, source, True)
        place = is_computed.long().cumsum(1) - 1
        last = place[:, -1:]
        order = is_computed.long().argsort(dim=1, descending=True, stable=True)
        columns = torch.arange(int(last.max()) + 1, device=order.device)
        computed = order.gather(1, torch.minimum(columns, last))
        hidden = super().forward_from_cache(input_ids, attention_mask, computed, cache)
        return _gathered(hidden, place.gather(1, source))


def _left_neighbours(positions: Tensor, attention_mask: Tensor) -> Tensor:
    """Where the hidden states lie that predict the tokens at ``positions`` (B, P) or (P,)."""
    first = attention_mask.long().argmax(1, keepdim=True)
    return torch.maximum(positions - 1, first)


def _shifted(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    return _gathered(hidden, _left_neighbours(positions, attention_mask))


def _gathered(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden.gather(1, index[..., None].expand(*index.shape, hidden.shape[-1]))
