"""Backbones on transformers' own modules: weights, adapter, and the way back to the original layout."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from safetensors import SafetensorError
from torch import Tensor

from tabom.backbones.base import Backbone, Denoiser, without_dropout
from tabom.backbones.cache import CanvasCache, KeysAndValues, SlotCache
from tabom.backbones.checkpoint import Naming, save_checkpoint
from tabom.backbones.lora import Adapter, Lora, read_adapter_config
from tabom.errors import TabomError, require
from tabom.functional.head import Head

if TYPE_CHECKING:  # model classes take seconds to import, and are needed with a model only
    from transformers import PreTrainedModel

DType = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"]


class TransformersBackbone(Backbone):
    """A transformers model with an optional adapter.

    Args:
        transformer: The model; everything is trained until an adapter is added.
        config: ``config.json`` of the original checkpoint, written back unchanged but for the dtype.
        directory: Where that checkpoint lies; its tokenizer and code files go along when the model is saved. None for
            a new model.
    """

    naming: ClassVar[Naming] = Naming({})

    def __init__(self, transformer: "PreTrainedModel", config: dict[str, Any], directory: Path | None = None) -> None:
        super().__init__()
        self.transformer = transformer
        self.config = config
        self.directory = directory
        self._adapter: Adapter | None = None

    @property
    def mask_token_id(self) -> int:
        """Id of the absorbing mask token; known once :meth:`check_tokenizer` has run where the config names none."""
        return self.special_ids["mask"] if self._mask_token_id is None else self._mask_token_id

    @property
    def vocab_size(self) -> int:
        """Number of rows of the head."""
        head: Any = self.transformer.get_output_embeddings()
        return head.weight.shape[0]

    @property
    def max_length(self) -> int | None:
        """As ``config.json`` says."""
        return self.config.get("max_position_embeddings")

    @property
    def special_ids(self) -> dict[str, int]:
        """Those in ``config.json``."""
        ids = {kind: self.config.get(f"{kind}_token_id") for kind in ("mask", "pad", "eos")}
        return {kind: value for kind, value in ids.items() if isinstance(value, int)}

    @property
    def has_adapter(self) -> bool:
        """Whether only an adapter is trained."""
        return self._adapter is not None

    @property
    def adapter_settings(self) -> dict[str, Any]:
        """Rank and scale."""
        return {} if self._adapter is None else self._adapter.settings()

    @property
    def head(self) -> Head:
        """The language model head, which has no adapter."""
        layer: Any = self.transformer.get_output_embeddings()
        return Head(layer.weight, layer.bias)

    def add_adapter(self, lora: Lora, base_name: str) -> None:
        """Freeze everything and add a new adapter, which changes nothing before it is trained.

        Args:
            lora: Its settings.
            base_name: What the adapter's files call this model: a hub id or directory.

        Raises:
            TabomError: If a target module does not exist, or is the language model head.
        """
        self._adapter = Adapter(self.transformer, lora.peft_config(), self.naming, base_name)

    def load_adapter(self, directory: Path, base_name: str) -> None:
        """Freeze everything and add a trained adapter, by the original checkpoint's names.

        Args:
            directory: Where it lies.
            base_name: As for :meth:`add_adapter`.

        Raises:
            TabomError: If the adapter is missing, damaged, or of another model.
        """
        self._adapter = Adapter(self.transformer, read_adapter_config(directory), self.naming, base_name)
        self._adapter.load(directory)

    def save_adapter(self, path: Path) -> None:
        """Write the adapter alone; plain peft reads it onto the original model.

        Raises:
            TabomError: If there is none.
        """
        if self._adapter is None:
            raise TabomError("adapter: expected a model with an adapter, got one without")
        self._adapter.save(path)

    def save_pretrained(self, path: Path) -> None:
        """Write the original layout: names, ``config.json``, and the files beside it; tied weights once."""
        tied = self.transformer.all_tied_weights_keys
        state = {name: tensor for name, tensor in self._native_state().items() if name not in tied}
        save_checkpoint(path, self._config_with_dtype(), self.naming.original_state(state), self.directory)

    def reference(self) -> Denoiser:
        """With an adapter: the same weights with the adapter switched off, no copy."""
        return super().reference() if self._adapter is None else AdapterOff(self)

    def interpolate(self, reference: Denoiser, weight: float) -> None:
        """With an adapter: scale it, which leaves its settings as they are."""
        if self._adapter is None:
            super().interpolate(reference, weight)
        else:
            self._adapter.scale(weight)

    @contextmanager
    def adapter_off(self) -> Iterator[None]:
        """Switch the adapter off for a while."""
        self.transformer.disable_adapters()
        try:
            yield
        finally:
            self.transformer.enable_adapters()

    def _native_state(self) -> dict[str, Tensor]:
        return self.transformer.state_dict() if self._adapter is None else self._adapter.merged_state()

    def _config_with_dtype(self) -> dict[str, Any]:
        key = "dtype" if "dtype" in self.config else "torch_dtype"
        return {**self.config, key: str(self.transformer.dtype).removeprefix("torch.")}


class AdapterOff(Denoiser):
    """A backbone as it was before its adapter: shares all weights, and is never differentiated."""

    def __init__(self, backbone: TransformersBackbone) -> None:
        super().__init__()
        self._backbone = [backbone]  # in a list: not a part of this module

    @property
    def mask_token_id(self) -> int:
        """The backbone's."""
        return self._backbone[0].mask_token_id

    @property
    def unused_ids(self) -> tuple[int, ...]:
        """The backbone's."""
        return self._backbone[0].unused_ids

    @property
    def block_size(self) -> int | None:
        """The backbone's."""
        return self._backbone[0].block_size

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states without the adapter."""
        (backbone,) = self._backbone
        with backbone.adapter_off(), without_dropout(backbone):
            return backbone(input_ids, attention_mask)

    @torch.no_grad()
    def denoise(
        self, noisy_ids: Tensor, clean_ids: Tensor, attention_mask: Tensor, is_target: Tensor | None = None
    ) -> Tensor:
        """Hidden states without the adapter."""
        (backbone,) = self._backbone
        with backbone.adapter_off(), without_dropout(backbone):
            return backbone.denoise(noisy_ids, clean_ids, attention_mask, is_target)

    @torch.no_grad()
    def forward_with_cache(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, CanvasCache]:
        """Hidden states, keys and values without the adapter."""
        (backbone,) = self._backbone
        with backbone.adapter_off(), without_dropout(backbone):
            return backbone.forward_with_cache(input_ids, attention_mask)

    @torch.no_grad()
    def forward_from_cache(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, cache: KeysAndValues
    ) -> Tensor:
        """Hidden states without the adapter."""
        (backbone,) = self._backbone
        with backbone.adapter_off(), without_dropout(backbone):
            return backbone.forward_from_cache(input_ids, attention_mask, positions, cache)

    def slot_cache(self, num_slots: int, length: int) -> SlotCache:
        """The backbone's."""
        with without_dropout(self._backbone[0]):
            return self._backbone[0].slot_cache(num_slots, length)

    @property
    def head(self) -> Head:
        """The backbone's, which has no adapter."""
        return self._backbone[0].head


def read_weights(
    model_class: Any, directory: Path, *, dtype: DType, attn_implementation: Attention, **options: Any
) -> "PreTrainedModel":
    """``from_pretrained`` of a transformers class; a missing or misshapen tensor is an error that names it.

    Raises:
        TabomError: If a file is damaged or no safetensors, or a tensor is missing or misshapen.
    """
    try:
        model, report = model_class.from_pretrained(
            directory,
            dtype=dtype,
            attn_implementation=attn_implementation,
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # reported below
            output_loading_info=True,
            **options,
        )
    except (SafetensorError, OSError) as error:
        raise TabomError(f"{directory}: expected a complete model.safetensors ({error})") from error
    for kind in ("missing_keys", "mismatched_keys"):
        require(not report[kind], f"{directory}: {kind.replace('_', ' ')}: {sorted(map(str, report[kind]))}")
    return model
