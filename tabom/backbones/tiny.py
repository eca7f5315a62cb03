"""A small bidirectional transformer for laptops and tests, on transformers' own Llama modules."""

from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerBase

from tabom.backbones.base import Backbone, BackboneSource
from tabom.errors import TabomError, require
from tabom.types import SpecialIds


class TinyDLMConfig(LlamaConfig):
    """Llama's configuration with bidirectional attention and a mask token."""

    model_type = "tabom_tiny"

    mask_token_id: int = 0
    is_causal: bool = False


AutoConfig.register(TinyDLMConfig.model_type, TinyDLMConfig)


class TinyDLMModel(LlamaForCausalLM):
    """The transformers model inside a :class:`TinyDLM`."""

    config_class = TinyDLMConfig


class TinyDLM(Backbone):
    """A Llama with full attention that predicts every masked token at once."""

    def __init__(self, model: TinyDLMModel) -> None:
        super().__init__()
        self._model = model

    @property
    def mask_token_id(self) -> int:
        """Id of the absorbing mask token."""
        return self._model.config.mask_token_id

    @property
    def vocab_size(self) -> int:
        """Number of rows of the head."""
        return self._model.config.vocab_size

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states; padding neither is seen nor moves positions, so it never changes a real token's result."""
        position_ids = (attention_mask.long().cumsum(1) - 1).clamp(min=0)
        output = self._model.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, use_cache=False
        )
        return output.last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head."""
        return self._model.lm_head(hidden)

    def save_pretrained(self, path: Path) -> None:
        """Write ``config.json`` and ``model.safetensors``."""
        self._model.save_pretrained(path)

    @classmethod
    def from_pretrained(cls, path: Path) -> "TinyDLM":
        """Read what :meth:`save_pretrained` wrote; a missing, surplus or misshapen tensor is an error."""
        try:
            config = TinyDLMConfig.from_pretrained(path)
            loaded: Any = TinyDLMModel.from_pretrained(path, config=config, output_loading_info=True)
        except (OSError, SafetensorError) as error:
            raise TabomError(f"{path}: expected a complete model.safetensors ({error})") from error
        model, report = loaded
        for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
            require(not report[kind], f"{path}: {kind.replace('_', ' ')}: {sorted(map(str, report[kind]))}")
        return cls(model.train())


class NewTinyDLM(BackboneSource):
    """A :class:`TinyDLM` from scratch; vocabulary and mask token come from the tokenizer.

    Args:
        hidden_size: Width, divisible by ``num_heads``.
        num_layers: Transformer blocks.
        num_heads: Attention heads.
        intermediate_size: Width of the gated feed-forward layer.
        rope_theta: Base of the rotary embedding; short canvases learn positions sooner with a small one.
        initializer_range: Standard deviation of the initial weights.

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
        self._sizes = sizes
        self._rope_theta = rope_theta
        self._initializer_range = initializer_range

    def load(self, tokenizer: PreTrainedTokenizerBase) -> TinyDLM:
        """Make the model with weights drawn from torch's global generator."""
        ids = SpecialIds.of(tokenizer)
        config = TinyDLMConfig(
            vocab_size=len(tokenizer),
            mask_token_id=ids.mask,
            pad_token_id=ids.pad,
            bos_token_id=None,
            eos_token_id=ids.eos,
            hidden_size=self._sizes["hidden_size"],
            intermediate_size=self._sizes["intermediate_size"],
            num_hidden_layers=self._sizes["num_layers"],
            num_attention_heads=self._sizes["num_heads"],
            num_key_value_heads=self._sizes["num_heads"],
            rope_parameters={"rope_type": "default", "rope_theta": self._rope_theta},
            initializer_range=self._initializer_range,
        )
        return TinyDLM(TinyDLMModel(config))
