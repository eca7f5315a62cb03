"""Checkpoints on disk and on the hub."""

import functools
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from transformers import PreTrainedTokenizerBase

from tabom.backbones.base import BackboneSource
from tabom.backbones.checkpoint import checkpoint_dir, read_json
from tabom.backbones.config_fields import native_config
from tabom.backbones.decoder import DecoderBackbone
from tabom.backbones.families import FAMILIES
from tabom.backbones.lora import Lora
from tabom.backbones.masked_lm import MaskedLMBackbone
from tabom.backbones.stock import other
from tabom.backbones.transformer import Attention, DType, TransformersBackbone
from tabom.errors import TabomError, check_range, require

_PACKED = (32, 64)
"""Outputs and inputs of a 4-bit layer of which bitsandbytes packs multiples on a CPU that multiplies in bfloat16."""


class PretrainedBackbone(BackboneSource):
    """A saved model: LLaDA, iLLaDA, Dream, A2D, SDAR, any masked language model of transformers, what tabom wrote.

    Any other decoder of transformers is read if ``attention``, ``shift`` and ``mask_token`` are all given: by them you
    say that it was trained as a masked diffusion model.

    No code from the checkpoint is run. Weights are safetensors, in one file or several.

    Args:
        path: Directory, or hub id such as ``Dream-org/Dream-v0-Instruct-7B``.
        revision: Branch, tag or commit on the hub.
        dtype: Of the weights; ``auto`` is as stored. An adapter is always float32.
        attn_implementation: Of transformers; the flash ones need a GPU and their package.
        gradient_checkpointing: Compute activations again in the backward pass instead of keeping them.
        lora: Train a new adapter and keep the weights frozen; None trains everything.
        adapter: Directory or hub id of a trained adapter to start from, by the original checkpoint's names.
        quantization: Keep the frozen matrices of the blocks in 8 (LLM.int8) or 4 bits (NF4); embeddings and head stay
            as they are. Needs the package bitsandbytes. 4-bit matrices are multiplied in ``dtype``, in bfloat16 if that
            is ``auto``.
        attention: ``full``: tokens see what follows them. ``causal``: they see what precedes them alone, as in a causal
            model that has not been adapted; with ``block_length: 1`` of the sampler it is decoded from left to right.
            ``block_causal``: they see their own block and those before it, as in block diffusion. None is block-causal
            where ``config.json`` has a block size, and full everywhere else.
        block_size: Tokens in a block, with ``block_causal``; counted from a row's first token. None is that of
            ``config.json``.
        shift: Whether hidden state ``i`` of the model predicts token ``i + 1`` (``right_shift_logits``). None is the
            family's: true for Dream, false for all others.
        mask_token: Mask token, by its text; where the tokenizer has no such token, it is added. None is that of the
            tokenizer, of ``config.json``, or of the family.

    Raises:
        TabomError: If both ``lora`` and ``adapter`` are given, or neither with ``quantization``.

    References:
        Dettmers et al. 2022, arXiv:2208.07339; Dettmers et al. 2023, arXiv:2305.14314.
    """

    is_pretrained = True

    def __init__(
        self,
        path: str,
        revision: str | None = None,
        dtype: DType = "auto",
        attn_implementation: Attention = "sdpa",
        gradient_checkpointing: bool = False,
        lora: Lora | None = None,
        adapter: str | None = None,
        quantization: Literal["8bit", "4bit"] | None = None,
        attention: Literal["full", "causal", "block_causal"] | None = None,
        block_size: int | None = None,
        shift: bool | None = None,
        mask_token: str | None = None,
    ) -> None:
        require(lora is None or adapter is None, "lora: expected no settings of a new adapter beside adapter, got both")
        require(
            quantization is None or lora is not None or adapter is not None,
            f"quantization: expected lora or adapter beside {quantization}, since quantised weights are not trained, "
            "got neither",
        )
        check_range("block_size", block_size, least=1)
        require(
            block_size is None or attention == "block_causal",
            f"block_size: expected attention: block_causal beside it, got {attention or 'none'}",
        )
        self.path = path
        self.revision = revision
        self.dtype: DType = dtype
        self.attn_implementation: Attention = attn_implementation
        self.gradient_checkpointing = gradient_checkpointing
        self.lora = lora
        self.adapter = adapter
        self.quantization: Literal["8bit", "4bit"] | None = quantization
        self.attention: Literal["full", "causal", "block_causal"] | None = attention
        self.block_size = block_size
        self.shift = shift
        self.mask_token = mask_token

    def load(self, tokenizer: PreTrainedTokenizerBase) -> TransformersBackbone:
        """Read the weights.

        Raises:
            TabomError: If there is no such checkpoint, its family is unknown, it is incomplete, or of another
                tokenizer; likewise for the adapter. If the package for ``quantization`` is missing.
        """
        if self.mask_token is not None:
            require(
                self.mask_token == tokenizer.mask_token,
                f"mask_token: expected {tokenizer.mask_token}, which the tokenizer has, got {self.mask_token}",
            )
        directory = checkpoint_dir(self.path, self.revision)
        family = self._family(directory)
        try:
            backbone = family.from_pretrained(
                directory,
                dtype=self.dtype,
                attn_implementation=self.attn_implementation,
                quantization_config=None if self.quantization is None else self._bits(),
            )
        except ImportError as error:
            raise TabomError(
                f"attn_implementation: {self.attn_implementation} cannot be used here ({error})"
            ) from error
        backbone.check_tokenizer(tokenizer)
        return self._prepared(backbone)

    def untrained(self) -> TransformersBackbone:
        """The same architecture and adapter with random weights, on torch's default device: sizes without weights.

        Raises:
            TabomError: If the checkpoint has no configuration, or is of a family that cannot be made anew.
        """
        directory = checkpoint_dir(self.path, self.revision, with_weights=False)
        family = self._family(directory)
        config = read_json(directory / "config.json", "the configuration of a saved model")
        if not issubclass(family, DecoderBackbone):
            raise TabomError(
                f"{directory}: expected one of the families {sorted(FAMILIES)}, got {config['model_type']}"
            )
        make = functools.partial(family.from_config, attn_implementation=self.attn_implementation)
        return self._prepared(native_config(make, config, directory))

    def check_family(self) -> None:
        """Raise ``TabomError`` if there is no such checkpoint, or its family is not known; reads no weights."""
        self._family(checkpoint_dir(self.path, self.revision, with_weights=False))

    def _family(self, directory: Path) -> "type[DecoderBackbone | MaskedLMBackbone]":
        from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES

        file = directory / "config.json"
        model_type: Any = read_json(file, "the configuration of a saved model").get("model_type")
        if model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES:
            kind = f"a masked language model of type {model_type}"
            require(not self.shift, f"shift: expected false for {kind}, got true")
            require(self.attention in (None, "full"), f"attention: expected full for {kind}, got {self.attention}")
            return MaskedLMBackbone
        if model_type in FAMILIES:
            return FAMILIES[model_type].backbone
        found = other(model_type)
        if found is None or None in (self.attention, self.shift, self.mask_token):
            raise TabomError(
                f"{file}: expected model_type to be one of {sorted(FAMILIES)} or a masked language model of "
                f"transformers, got {model_type!r}; of any other decoder of transformers that was trained as a masked "
                "diffusion model, say so by the backbone's keys attention: full, shift (true or false) and mask_token"
            )
        return found

    def _bits(self) -> "transformers.BitsAndBytesConfig":
        require(
            find_spec("bitsandbytes") is not None,
            f"quantization: expected the package bitsandbytes for {self.quantization}, found none; "
            "pip install 'tabom[quantization]'",
        )
        if self.quantization == "8bit":
            return transformers.BitsAndBytesConfig(load_in_8bit=True)
        dtype = torch.bfloat16 if self.dtype == "auto" else getattr(torch, self.dtype)
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )

    def _prepared(self, backbone: TransformersBackbone) -> TransformersBackbone:
        if isinstance(backbone, DecoderBackbone):
            self._set_quirks(backbone)
        for module in backbone.modules():  # bitsandbytes has another way, but does not take it by itself
            if isinstance(module, torch.nn.Linear) and getattr(module, "support_avx512bf16_for_cpu", False):
                is_packed = module.out_features % _PACKED[0] == module.in_features % _PACKED[1] == 0
                setattr(module, "support_avx512bf16_for_cpu", is_packed)  # noqa: B010 - no attribute of every Linear
        if self.gradient_checkpointing:
            backbone.transformer.activation_checkpointing_enable({"use_reentrant": False})
        if self.lora is not None:
            backbone.add_adapter(self.lora, self.path)
        if self.adapter is not None:
            backbone.load_adapter(checkpoint_dir(self.adapter), self.path)
        return backbone.train()

    def _set_quirks(self, backbone: DecoderBackbone) -> None:
        if self.shift is not None:
            backbone.shift = self.shift
        if self.attention == "causal":
            backbone.transformer.config.is_causal = True
        if self.attention == "block_causal":
            size = self.block_size or backbone.block_size
            require(size is not None, "block_size: expected the tokens in a block, as config.json has none, got none")
            backbone.block_size = size
        elif self.attention is not None:
            backbone.block_size = None
