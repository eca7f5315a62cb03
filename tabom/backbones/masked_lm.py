"""Any masked language model of transformers: BERT, RoBERTa, ModernBERT and their like."""

import copy
import types
from pathlib import Path
from typing import Any, Self, cast

import torch
import transformers
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from tabom.backbones.checkpoint import read_json
from tabom.backbones.config_fields import native_config
from tabom.backbones.masked_lm_checks import check_masked_lm, outer_bias
from tabom.backbones.transformer import Attention, DType, TransformersBackbone, read_weights
from tabom.errors import TabomError, require
from tabom.functional.head import Head


class MaskedLMBackbone(TransformersBackbone):
    """An ``AutoModelForMaskedLM``; hidden states are what its last matrix, from width to vocabulary, is applied to.

    These models are small, and good for a laptop; their responses are bounded by their position embeddings.
    """

    _outer_bias: str | None = None

    @classmethod
    def from_pretrained(
        cls,
        directory: Path,
        *,
        dtype: DType = "auto",
        attn_implementation: Attention = "sdpa",
        quantization_config: "transformers.BitsAndBytesConfig | None" = None,
    ) -> Self:
        """Read a checkpoint; tensors of other heads (next sentence, pooler) are left aside.

        A family without the attention that torch fuses (``sdpa``) computes it step by step (``eager``).

        Raises:
            TabomError: If a tensor is missing or misshapen, the weights are no safetensors, or the model cannot be
                decoded as a diffusion model: see :func:`tabom.backbones.masked_lm_checks.check_masked_lm`.
        """
        config = read_json(directory / "config.json", "the configuration of a saved model")

        def read(attention: Attention) -> Any:
            return read_weights(
                transformers.AutoModelForMaskedLM,
                directory,
                dtype=dtype,
                attn_implementation=attention,
                quantization_config=quantization_config,
                trust_remote_code=False,  # transformers would ask on a terminal
            )

        try:
            model = read(attn_implementation)
        except TabomError:
            raise
        except (ValueError, StrictDataclassError) as error:
            reason = " ".join(str(error).split())
            require(attn_implementation == "sdpa", f"attn_implementation: {attn_implementation}: {reason}")
            model = native_config(lambda _: read("eager"), config, directory)
        head = model.get_output_embeddings()
        kind = f"{directory}: model_type {model.config.model_type}"
        require(
            not model.config.is_encoder_decoder,
            f"{kind}: expected a masked language model of one stack, got an encoder with a decoder",
        )
        require(isinstance(head, nn.Linear), f"{kind}: expected a head that ends with a matrix, got another one")
        bias = outer_bias(model, kind)
        backbone = cls(model, config, directory)
        backbone._outer_bias = bias
        head.forward = types.MethodType(_keep_hidden, head)
        check_masked_lm(backbone, model, kind)
        return backbone

    @property
    def head(self) -> Head:
        """The last matrix, with the bias that is added to it or behind it."""
        inner = super().head
        if self._outer_bias is None:
            return inner
        outer = cast("Tensor", _attribute(self.transformer, self._outer_bias)).flatten()
        return Head(inner.weight, outer if inner.bias is None else inner.bias + outer)

    @property
    def max_length(self) -> int | None:
        """Position embeddings, without those that RoBERTa and its like leave unused before the first position."""
        limit = getattr(self.transformer.config, "max_position_embeddings", None)
        if not isinstance(limit, int) or limit <= 0:
            return None
        offsets = [
            part.padding_idx + 1
            for name, part in self.transformer.named_modules()
            if name.endswith("position_embeddings") and isinstance(part, nn.Embedding) and part.padding_idx is not None
        ]
        return limit - max(offsets, default=0)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states; rows are moved to the left edge and back, so that positions count from a row's start."""
        length = input_ids.shape[1]
        first = attention_mask.long().argmax(1, keepdim=True)
        positions = torch.arange(length, device=input_ids.device)
        there, back = (positions + first) % length, (positions - first) % length
        width = min(length, self.max_length or length)  # no row is longer, though canvases may be
        head: Any = self.transformer.get_output_embeddings()
        self.transformer(
            input_ids=input_ids.gather(1, there)[:, :width],
            attention_mask=attention_mask.gather(1, there)[:, :width],
        )
        hidden = nn.functional.pad(head.__dict__.pop("hidden"), (0, 0, 0, length - width))
        return hidden.gather(1, back[..., None].expand_as(hidden))

    def save_pretrained(self, path: Path) -> None:
        """Write transformers' own layout: every weight but those that are tied to another one when they are read."""
        state = self._native_state()
        tied = {
            name
            for name, source in self.transformer.all_tied_weights_keys.items()
            if name in state and source in state and torch.equal(state[name], state[source])
        }
        model = copy.copy(self.transformer)
        model._hf_peft_config_loaded = False  # it would write the adapter alone
        model.save_pretrained(path, state_dict={name: state[name].clone() for name in state.keys() - tied})


def _keep_hidden(head: nn.Module, hidden: Tensor) -> Tensor:
    """In place of the last matrix: what it would be applied to is kept, and the head gets something to work on."""
    head.__dict__["hidden"] = hidden
    return hidden.new_zeros(1)


def _attribute(module: nn.Module, name: str) -> Any:
    path, _, last = name.rpartition(".")
    return getattr(module.get_submodule(path), last)
