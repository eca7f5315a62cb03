"""Decoders of transformers with full or block-causal instead of causal attention."""

import hashlib
from abc import abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
import transformers
from torch import Tensor

from tabom.backbones.block_attention import Tokens, ready_mask
from tabom.backbones.cache import CanvasCache, KeysAndValues, SlotCache
from tabom.backbones.checkpoint import check_tensors, read_json, weight_files
from tabom.backbones.config_fields import native_config
from tabom.backbones.transformer import Attention, DType, TransformersBackbone, read_weights
from tabom.errors import check_range, require
from tabom.functional.blocks import num_in_block

if TYPE_CHECKING:  # model classes take seconds to import, and are needed with a model only
    from transformers import BitsAndBytesConfig, Cache, PreTrainedConfig, PreTrainedModel

_PARTIAL_ATTENTION = ("sdpa", "eager", "flex_attention")  # flash: transformers takes the queries for the last columns


class DecoderBackbone(TransformersBackbone):
    """A decoder of transformers with full or block-causal attention; a checkpoint family is a subclass.

    Attributes:
        own_block_size: Of a family that is block-causal; ``block_size`` in ``config.json`` goes before it.
        shift: Whether hidden state ``i`` of the model predicts token ``i + 1``, as in a model that was made from an
            autoregressive one. The shift is undone here and nowhere else.
    """

    own_block_size: ClassVar[int | None] = None
    shift: bool = False

    def __init__(self, transformer: "PreTrainedModel", config: dict[str, Any], directory: Path | None = None) -> None:
        super().__init__(transformer, config, directory)
        self.block_size = config.get("block_size", self.own_block_size)

    @property
    def block_size(self) -> int | None:
        """Tokens in a block; None for full attention, or causal."""
        return self._block_size

    @block_size.setter
    def block_size(self, size: int | None) -> None:
        check_range("block_size", size, least=1)
        self._block_size = size

    @classmethod
    @abstractmethod
    def native_config(cls, config: dict[str, Any]) -> "PreTrainedConfig":
        """The transformers configuration that computes what the original one describes, apart from the attention.

        Raises:
            TabomError: If the original one asks for something else.
        """

    @classmethod
    def model_class(cls, native: "PreTrainedConfig") -> Any:
        """What computes a configuration; the causal language model of transformers unless the family has its own."""
        return model_class(native)

    @classmethod
    def read_config(cls, directory: Path) -> dict[str, Any]:
        """Content of ``config.json``.

        Raises:
            TabomError: If there is none.
        """
        return read_json(directory / "config.json", "the configuration of a saved model")

    @classmethod
    def from_config(cls, config: dict[str, Any], *, attn_implementation: Attention = "sdpa") -> Self:
        """A model with random weights, on torch's default device and in its default dtype."""
        native = cls._bidirectional(config)
        native._attn_implementation = attn_implementation
        return cls(cls.model_class(native)(native), config)

    @classmethod
    def from_pretrained(
        cls,
        directory: Path,
        *,
        dtype: DType = "auto",
        attn_implementation: Attention = "sdpa",
        quantization_config: "BitsAndBytesConfig | None" = None,
    ) -> Self:
        """Read a checkpoint in the original layout, one file or several; every tensor has to be there and no other.

        The file may leave out a tied head; if it has one, that has to equal the embeddings.

        Raises:
            TabomError: If the configuration is not supported, or a tensor is missing, surplus or misshapen.
        """
        config = cls.read_config(directory)
        with torch.device("meta"):
            skeleton = native_config(cls.from_config, config, directory).transformer
        original = cls.naming.original
        check_tensors(
            weight_files(directory),
            {name: tuple(t.shape) for name, t in cls.naming.original_state(skeleton.state_dict()).items()},
            {original(name): original(source) for name, source in skeleton.all_tied_weights_keys.items()},
        )
        merged = next((name for name, tensor in skeleton.named_parameters() if tensor.dim() > 2), None)
        require(
            quantization_config is None or merged is None,
            f"quantization: expected a model of linear layers alone, got {merged}, which would not be quantised",
        )
        model = read_weights(
            type(skeleton),
            directory,
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
            config=cls._bidirectional(config),
            key_mapping=cls.naming.key_mapping(),
        )
        backbone = cls(model, config, directory)
        backbone.check_computation(directory)
        return backbone

    def check_computation(self, directory: Path) -> None:
        """Raise ``TabomError`` if the model that was read does not compute what the family is known to compute."""
        del directory

    def fingerprint(self) -> str:
        """A hash of the weights and of whatever else makes it another model.

        That is a shift that is not the family's, causal attention, and the size of its blocks.
        """
        weights = super().fingerprint()
        changes = [f"shift {self.shift}"] if self.shift != type(self).shift else []
        changes += ["causal"] if self._is_causal else []
        changes += [f"block_size {self.block_size}"] if self.block_size is not None else []
        return hashlib.sha256(" ".join([weights, *changes]).encode()).hexdigest() if changes else weights

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Hidden states; positions count real tokens, so padding moves nothing.

        With a shift each is taken from its left neighbour; a row's first real token keeps its own.
        """
        hidden = self._run(input_ids, _position_ids(attention_mask), self._visible(attention_mask), None)
        return _shifted(hidden, attention_mask) if self.shift else hidden

    def denoise(
        self, noisy_ids: Tensor, clean_ids: Tensor, attention_mask: Tensor, is_target: Tensor | None = None
    ) -> Tensor:
        """Hidden states as the targets have them in decoding, in one pass.

        A row's last block with a target stands noisy behind the clean ones. Of the blocks before it, those that have a
        target and a token that differs go along as a noisy copy, which sees itself and the clean blocks before it.
        Where decoding left all before the last block final, nothing is copied.
        """
        block, length = self._several_blocks(attention_mask), noisy_ids.shape[1]
        if self.block_size is None:
            return super().denoise(noisy_ids, clean_ids, attention_mask)
        if block is None:
            return self.forward(noisy_ids, attention_mask)
        is_target = attention_mask if is_target is None else is_target
        last = block.masked_fill(~is_target, 0).amax(1, keepdim=True)
        width = int((attention_mask & (block <= last)).any(0).nonzero().max()) + 1
        noisy_ids, clean_ids, attention_mask, is_target, block = (
            each[:, :width] for each in (noisy_ids, clean_ids, attention_mask, is_target, block)
        )
        is_earlier = attention_mask & (block < last)
        is_copied = (
            is_earlier
            & (num_in_block(is_target, block) > 0)
            & (num_in_block(is_earlier & (noisy_ids != clean_ids), block) > 0)
        )
        order = is_copied.long().argsort(dim=1, descending=True, stable=True)
        copied = order[:, : int(is_copied.sum(1).max())]
        is_noisy = is_copied.gather(1, copied)
        stream = Tokens(block, torch.zeros_like(attention_mask), attention_mask)
        both = stream.and_also(Tokens(block.gather(1, copied), is_noisy, is_noisy))
        position_ids = _position_ids(attention_mask)
        hidden = self._run(
            torch.cat([clean_ids.where(is_earlier, noisy_ids), noisy_ids.gather(1, copied)], 1),
            torch.cat([position_ids, position_ids.gather(1, copied)], 1),
            self._mask(both, both),
            None,
        )
        before, noisy = hidden[:, :width], hidden[:, width:]
        index = copied[..., None].expand_as(noisy)
        within = before.scatter(1, index, noisy.where(is_noisy[..., None], before.gather(1, index)))
        if self.shift:
            source = _left_neighbours(torch.arange(width, device=block.device), attention_mask)
            is_first = (block.gather(1, source) < block)[..., None]
            within = _gathered(before, source).where(is_first, _gathered(within, source))
        return torch.nn.functional.pad(within, (0, 0, 0, length - width))

    def forward_with_cache(self, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, CanvasCache]:
        """Hidden states as from :meth:`forward`, and keys and values, which are never shifted.

        Raises:
            TabomError: If the attention is causal or its implementation cannot compute a part of the canvas, or in
                training with gradient checkpointing, where transformers keeps nothing.
        """
        self._check_cache()
        kept: Any = transformers.DynamicCache()
        hidden = self._run(input_ids, _position_ids(attention_mask), self._visible(attention_mask), kept)
        require(len(kept) > 0, "cache: expected a backbone in evaluation mode, got one in training")
        cache = CanvasCache([keys for keys, _, _ in kept], [values for _, values, _ in kept])
        return _shifted(hidden, attention_mask) if self.shift else hidden, cache

    def slot_cache(self, num_slots: int, length: int) -> SlotCache:
        """Room for the keys and values of rows.

        Raises:
            TabomError: As :meth:`forward_with_cache` does.
        """
        self._check_cache()
        is_kept = not (self.training and self.transformer.is_activation_checkpointing)
        require(is_kept, "cache: expected a backbone in evaluation mode, got one in training")
        return SlotCache(num_slots, length)

    def forward_from_cache(
        self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, cache: KeysAndValues
    ) -> Tensor:
        """Hidden states at ``positions``, which attend to the canvas as in :meth:`forward`.

        With a shift their left neighbours are computed as well: P + 1 columns if positions are consecutive.
        """
        if not self.shift:
            return self._run_part(input_ids, attention_mask, positions, cache)
        source = _left_neighbours(positions, attention_mask)
        is_computed = torch.zeros_like(attention_mask).scatter(1, positions, True).scatter(1, source, True)
        place = is_computed.long().cumsum(1) - 1
        last = place[:, -1:]
        order = is_computed.long().argsort(dim=1, descending=True, stable=True)
        columns = torch.arange(int(last.max()) + 1, device=order.device)
        computed = order.gather(1, torch.minimum(columns, last))
        return _gathered(self._run_part(input_ids, attention_mask, computed, cache), place.gather(1, source))

    @property
    def _is_causal(self) -> bool:
        return bool(self.transformer.config.is_causal)

    @classmethod
    def _bidirectional(cls, config: dict[str, Any]) -> "PreTrainedConfig":
        """The transformers configuration with full attention: by this field transformers builds every mask."""
        native = cls.native_config(config)
        native.is_causal = False
        return native

    def _check_cache(self) -> None:
        require(not self._is_causal, "cache: expected attention full of the backbone, got causal")
        attention = self.transformer.config._attn_implementation
        require(
            attention in _PARTIAL_ATTENTION,
            f"cache: expected attn_implementation to be one of {list(_PARTIAL_ATTENTION)}, got {attention}",
        )

    def _run_part(self, input_ids: Tensor, attention_mask: Tensor, positions: Tensor, cache: KeysAndValues) -> Tensor:
        """The model's own hidden states at ``positions`` (B, P), beside the cache of the whole canvas."""
        position_ids = _position_ids(attention_mask).gather(1, positions)
        visible = self._visible(attention_mask, positions)
        return self._run(input_ids.gather(1, positions), position_ids, visible, cache.partial(positions))

    def _config_with_dtype(self) -> dict[str, Any]:
        """With the block size, where it was chosen and the configuration has none or another."""
        config = super()._config_with_dtype()
        is_own = self.block_size == config.get("block_size", self.own_block_size)
        return config if is_own else {**config, "block_size": self.block_size}

    def _visible(self, attention_mask: Tensor, positions: Tensor | None = None) -> Any:
        """What tokens of a canvas see, those at ``positions`` (B, P) or all, as transformers takes it."""
        block = self._several_blocks(attention_mask)
        if block is None:
            return attention_mask
        keys = Tokens(block, is_noisy=torch.zeros_like(attention_mask), is_real=attention_mask)
        return self._mask(keys if positions is None else keys.at(positions), keys)

    def _several_blocks(self, attention_mask: Tensor) -> Tensor | None:
        """Blocks of the tokens (B, L); None where the canvas is no longer than one, and all see each other."""
        is_one = self.block_size is not None and self.block_size >= attention_mask.shape[1]
        return None if is_one else self.blocks(attention_mask)

    def _mask(self, queries: Tokens, keys: Tokens) -> Any:
        model = self.transformer
        return ready_mask(queries, keys, implementation=model.config._attn_implementation, dtype=model.dtype)

    def _run(self, input_ids: Tensor, position_ids: Tensor, visible: Any, cache: "Cache | None") -> Tensor:
        """The model's own hidden states (B, P, D) of ids (B, P).

        Args:
            input_ids: What is computed.
            position_ids: Place of each among the real tokens of its row.
            visible: True where there is a real token (B, L), for all to see; or what each sees, as
                :func:`tabom.backbones.block_attention.ready_mask` gives it.
            cache: Keys and values of the other tokens, if there are any.
        """
        output = self.transformer.base_model(
            input_ids=input_ids,
            attention_mask=visible,
            position_ids=position_ids,
            past_key_values=cache,
            use_cache=False,
        )
        return output.last_hidden_state


def model_class(native: "PreTrainedConfig") -> Any:
    """The causal language model of transformers that has this configuration."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    return MODEL_FOR_CAUSAL_LM_MAPPING[type(native)]


def _position_ids(attention_mask: Tensor) -> Tensor:
    return (attention_mask.long().cumsum(1) - 1).clamp(min=0)


def _left_neighbours(positions: Tensor, attention_mask: Tensor) -> Tensor:
    """Where the hidden states lie that predict the tokens at ``positions`` (B, P) or (P,)."""
    first = attention_mask.long().argmax(1, keepdim=True)
    return torch.maximum(positions - 1, first)


def _shifted(hidden: Tensor, attention_mask: Tensor) -> Tensor:
    positions = torch.arange(hidden.shape[1], device=hidden.device)
    return _gathered(hidden, _left_neighbours(positions, attention_mask))


def _gathered(hidden: Tensor, index: Tensor) -> Tensor:
    return hidden.gather(1, index[..., None].expand(*index.shape, hidden.shape[-1]))
