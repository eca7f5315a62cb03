"""Any masked language model of transformers: BERT, RoBERTa, ModernBERT and their like."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import torch
import transformers
from torch import Tensor, nn

from tabom.backbones.checkpoint import read_json
from tabom.backbones.transformer import Attention, DType, TransformersBackbone, read_weights


class MaskedLMBackbone(TransformersBackbone):
    """An ``AutoModelForMaskedLM``; hidden states are what its last matrix, from width to vocabulary, is applied to.

    These models are small, and good for a laptop; their responses are bounded by their position embeddings.
    """

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

        Raises:
            TabomError: If a tensor is missing or misshapen, or the weights are no safetensors.
        """
        config = read_json(directory / "config.json", "the configuration of a saved model")
        model = read_weights(
            transformers.AutoModelForMaskedLM,
            directory,
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
        )
        return cls(model, config, directory)

    def check_tokenizer(self, tokenizer: "transformers.PreTrainedTokenizerBase") -> None:
        """The tokenizer alone knows the mask token of these models."""
        self.config = {**self.config, "mask_token_id": tokenizer.mask_token_id}
        super().check_tokenizer(tokenizer)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states; rows are moved to the left edge and back, so that positions count from a row's start."""
        length = input_ids.shape[1]
        first = attention_mask.long().argmax(1, keepdim=True)
        positions = torch.arange(length, device=input_ids.device)
        there, back = (positions + first) % length, (positions - first) % length
        with self._without_head():
            output: Any = self.transformer(
                input_ids=input_ids.gather(1, there), attention_mask=attention_mask.gather(1, there)
            )
        return output.logits.gather(1, back[..., None].expand_as(output.logits))

    def save_pretrained(self, path: Path) -> None:
        """Write transformers' own layout."""
        model = self.transformer
        if self.has_adapter:
            state = self._native_state()
            model = copy.copy(self.transformer)
            model._hf_peft_config_loaded = False  # it would write the adapter alone
            model.save_pretrained(path, state_dict=state)
        else:
            model.save_pretrained(path)

    @contextmanager
    def _without_head(self) -> Iterator[None]:
        head: Any = self.transformer.get_output_embeddings()
        self.transformer.set_output_embeddings(_NoHead())
        try:
            yield
        finally:
            self.transformer.set_output_embeddings(head)


class _NoHead(nn.Identity):
    """Stands where the last matrix was."""

    bias = None
