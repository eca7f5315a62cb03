"""Decoders of transformers that keep their names: causal models that were made masked diffusion models."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tabom.backbones.checkpoint import tensor_shapes, weight_files
from tabom.backbones.config_fields import ConfigFields, native_config
from tabom.backbones.decoder import DecoderBackbone, model_class
from tabom.backbones.masked_lm_checks import check_masked_lm, outer_bias
from tabom.errors import require

if TYPE_CHECKING:  # model classes take seconds to import
    from transformers import PreTrainedConfig

SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
ILLADA_MASK_ID = 5
_ROPE_TYPES = ("default", "linear", "llama3", "yarn")  # others depend on the length of the longest row
_VALUES: dict[str, tuple[Any, ...]] = {
    "is_causal": (False,),
    "is_encoder_decoder": (False,),
    "use_sliding_window": (False,),
}
_NOT_TAKEN_OVER = ("model_type", "dtype", "torch_dtype")


class StockDecoder(DecoderBackbone):
    """A decoder of transformers under its own tensor names and fields, with the same attention in every layer."""

    family: ClassVar[str]
    """Name for error messages."""
    parent: ClassVar[str]
    """The ``model_type`` of transformers whose computation this is."""
    required: ClassVar[tuple[str, ...]] = SIZES
    """Fields that have to be there."""
    values: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Of further fields; see :class:`tabom.backbones.config_fields.ConfigFields`."""
    rope_types: ClassVar[tuple[str, ...]] = _ROPE_TYPES
    ties_by_default: ClassVar[bool] = True
    """Whether the head is tied where neither ``config.json`` nor weights say so."""

    @classmethod
    def read_config(cls, directory: Path) -> dict[str, Any]:
        """Content of ``config.json``, completed by whether the head is tied: it is where the weights hold none.

        Releases of transformers differ in the value that they leave out.
        """
        config = super().read_config(directory)
        if config.get("tie_word_embeddings") is not None:
            return config
        heads = model_class(native_config(cls.native_config, config, directory))._tied_weights_keys or {}
        is_tied = bool(heads) and not heads.keys() & tensor_shapes(weight_files(directory)).keys()
        return {**config, "tie_word_embeddings": is_tied}

    @classmethod
    def native_config(cls, config: dict[str, Any]) -> "PreTrainedConfig":
        """The parent's own fields; those that would change the computation have to be at the family's values."""
        from transformers import CONFIG_MAPPING

        parent: Any = CONFIG_MAPPING[cls.parent]
        own = parent().to_dict().keys()
        fields = ConfigFields(cls.family, cls.required, optional=tuple(own), values={**_VALUES, **cls.values})
        fields.check(config)
        taken_over = {
            key: value
            for key, value in config.items()
            if (key in own or key.startswith("rope_")) and key not in _NOT_TAKEN_OVER
        }
        if config.get("tie_word_embeddings") is None:
            taken_over.pop("tie_word_embeddings", None)
            taken_over |= {"tie_word_embeddings": True} if cls.ties_by_default else {}
        native = parent(**taken_over)
        rope: dict[str, Any] = getattr(native, "rope_parameters", None) or {}
        fields.expect("rope_scaling.rope_type", rope.get("rope_type", "default"), cls.rope_types)
        for kind in getattr(native, "layer_types", None) or ():
            fields.expect("layer_types", kind, ("full_attention",))
        fields.expect("sliding_window", getattr(native, "sliding_window", None), (None,))
        return native


class A2DQwen3Backbone(StockDecoder):
    """A Qwen3 that was made a masked diffusion model, such as dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1."""

    family = "A2D"
    parent = "qwen3"


class A2DQwen2Backbone(StockDecoder):
    """A Qwen2 or Qwen2.5, such as dllm-hub/Qwen2.5-Coder-0.5B-Instruct-diffusion-mdlm-v0.1."""

    family = "A2D"
    parent = "qwen2"


class A2DLlamaBackbone(StockDecoder):
    """A Llama of any release."""

    family = "A2D"
    parent = "llama"


class IlladaBackbone(StockDecoder):
    """iLLaDA, LLaDA's successor: Llama's computation and names, tied embeddings, a mask token without a name."""

    family = "iLLaDA"
    parent = "llama"
    values: ClassVar[Mapping[str, tuple[Any, ...]]] = {"layer_norm_eps": (None,), "resid_pdrop": (0.0,)}
    rope_types = ("default",)

    @property
    def special_ids(self) -> dict[str, int]:
        """With the mask token, which the config does not name."""
        return {"mask": ILLADA_MASK_ID, **super().special_ids}


class SdarBackbone(StockDecoder):
    """SDAR: Qwen3's computation and names with block-causal attention, such as JetLM/SDAR-1.7B-Chat."""

    family = "SDAR"
    parent = "qwen3"
    required = (*SIZES, "block_size", "mask_token_id")
    values: ClassVar[Mapping[str, tuple[Any, ...]]] = {
        "ep_size": (1, None),
        "fuse_cross_entropy": (True, False, None),  # how the original computes its loss
    }


class OtherDecoder(StockDecoder):
    """Any decoder of transformers that the user says was trained as a masked diffusion model; see :func:`other`."""

    required = ()
    ties_by_default = False

    @property
    def max_length(self) -> int | None:
        """As transformers' configuration says, whatever the family calls it."""
        limit = getattr(self.transformer.config, "max_position_embeddings", None)
        return limit if isinstance(limit, int) else None

    def check_computation(self, directory: Path) -> None:
        """Try on a few tokens whether it computes what is expected of it, since nothing else is known of it.

        Raises:
            TabomError: If padding changes other tokens, tokens do not see what follows them, or the head is more than a
                matrix.
        """
        kind = f"{directory}: model_type {self.parent}"
        added = outer_bias(self.transformer, kind)
        require(added is None, f"{kind}: expected a head that is one layer, got one to which {added} is added")
        check_masked_lm(self, self.transformer, kind)


def other(model_type: str) -> type[OtherDecoder] | None:
    """The backbone of a causal language model of transformers; None if there is none of this type."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if model_type not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        return None
    return type("OtherDecoder", (OtherDecoder,), {"family": model_type, "parent": model_type})
