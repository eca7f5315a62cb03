"""A small transformer for laptops and tests, on transformers' own Llama modules."""

from transformers import PreTrainedTokenizerBase

from tabom.backbones.base import BackboneSource
from tabom.backbones.stock import SIZES, StockDecoder
from tabom.errors import check_range, require
from tabom.types import SpecialIds

MODEL_TYPE = "tabom_tiny"


class TinyDLM(StockDecoder):
    """A Llama with full or block-causal attention that predicts every masked token at once."""

    family = "tiny"
    parent = "llama"
    required = (*SIZES, "mask_token_id")
    ties_by_default = False


class NewTinyDLM(BackboneSource):
    """A :class:`TinyDLM` from scratch; vocabulary and mask token come from the tokenizer.

    Args:
        hidden_size: Width, divisible by ``num_heads``.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        intermediate_size: Width of the gated feed-forward layer.
        rope_theta: Base of the rotary embedding; short canvases learn positions sooner with a small one.
        initializer_range: Standard deviation of the initial weights.
        block_size: Tokens in a block of a block-causal model; None for full attention.

    Raises:
        TabomError: If the width is not divisible by the number of heads, or a size is below 1.
    """

    is_pretrained = False

    def __init__(
        self,
        hidden_size: int = 128,
        num_layers: int = 3,
        num_heads: int = 4,
        intermediate_size: int = 256,
        rope_theta: float = 100.0,
        initializer_range: float = 0.06,
        block_size: int | None = None,
    ) -> None:
        sizes = {
            "hidden_size": hidden_size,
            "num_layers": num_layers,
            "num_heads": num_heads,
            "intermediate_size": intermediate_size,
        }
        for name, size in sizes.items():
            require(size >= 1, f"{name}: expected at least 1, got {size}")
        require(
            hidden_size % (2 * num_heads) == 0,
            f"hidden_size: expected a multiple of 2 * num_heads = {2 * num_heads}, got {hidden_size}",
        )
        for name, value in {"rope_theta": rope_theta, "initializer_range": initializer_range}.items():
            require(value > 0, f"{name}: expected a number above 0, got {value}")
        check_range("block_size", block_size, least=1)
        self._sizes = sizes
        self._rope_theta = rope_theta
        self._initializer_range = initializer_range
        self._block_size = block_size

    def load(self, tokenizer: PreTrainedTokenizerBase) -> TinyDLM:
        """Make the model with weights drawn from torch's global generator."""
        ids = SpecialIds.of(tokenizer)
        config = {
            "model_type": MODEL_TYPE,
            "vocab_size": len(tokenizer),
            "mask_token_id": ids.mask,
            "pad_token_id": ids.pad,
            "bos_token_id": None,
            "eos_token_id": ids.eos,
            "hidden_size": self._sizes["hidden_size"],
            "intermediate_size": self._sizes["intermediate_size"],
            "num_hidden_layers": self._sizes["num_layers"],
            "num_attention_heads": self._sizes["num_heads"],
            "num_key_value_heads": self._sizes["num_heads"],
            "rope_parameters": {"rope_type": "default", "rope_theta": self._rope_theta},
            "initializer_range": self._initializer_range,
            "is_causal": False,
            "tie_word_embeddings": False,
        }
        if self._block_size is not None:
            config["block_size"] = self._block_size
        backbone = TinyDLM.from_config(config)
        backbone.check_tokenizer(tokenizer)
        return backbone
