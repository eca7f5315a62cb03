"""What is known of a checkpoint family besides what its files say, by the ``model_type`` of its ``config.json``."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase

from tabom.backbones.checkpoint import CONFIG_NAME, read_json
from tabom.backbones.decoder import DecoderBackbone
from tabom.backbones.dream import DreamBackbone
from tabom.backbones.llada import LladaBackbone
from tabom.backbones.llada2 import Llada2Backbone
from tabom.backbones.stock import (
    ILLADA_MASK_ID,
    A2DLlamaBackbone,
    A2DQwen2Backbone,
    A2DQwen3Backbone,
    IlladaBackbone,
    SdarBackbone,
)
from tabom.backbones.tiny import MODEL_TYPE, TinyDLM
from tabom.types import SpecialIds


@dataclass(frozen=True)
class Family:
    """Defaults of a family.

    Attributes:
        backbone: Computes it.
        mask: Mask token where neither tokenizer nor ``config.json`` names one: its id, or its text, which is added to
            the vocabulary where it is missing.
        end_of_turn: Token that ends an assistant's turn.
        template_options: Variables of the chat template that prompts are rendered with.
        sampler: Arguments of ``tabom.samplers.Sampler`` that the family's authors decode with.
    """

    backbone: type[DecoderBackbone]
    mask: int | str | None = None
    end_of_turn: str | None = None
    template_options: Mapping[str, bool] = field(default_factory=dict)
    sampler: Mapping[str, Any] = field(default_factory=dict)


_CONFIDENCE = {"score": "confidence"}
FAMILIES: dict[str, Family] = {
    "Dream": Family(
        DreamBackbone,
        end_of_turn="<|im_end|>",
        sampler={"score": "entropy", "temperature": 0.1, "top_p": 0.9},
    ),
    "a2d-llama": Family(A2DLlamaBackbone, "<|mask|>", "<|eot_id|>", sampler=_CONFIDENCE),
    "a2d-qwen2": Family(A2DQwen2Backbone, "<|mask|>", "<|im_end|>", sampler=_CONFIDENCE),
    "a2d-qwen3": Family(A2DQwen3Backbone, "<|mask|>", "<|im_end|>", {"enable_thinking": False}, _CONFIDENCE),
    "illada": Family(IlladaBackbone, ILLADA_MASK_ID, sampler={**_CONFIDENCE, "block_length": 32}),
    "llada": Family(LladaBackbone, end_of_turn="<|eot_id|>", sampler={**_CONFIDENCE, "block_length": 32}),
    "llada2_moe": Family(Llada2Backbone, "<|mask|>", "<|role_end|>", sampler=_CONFIDENCE),
    "sdar": Family(SdarBackbone, end_of_turn="<|im_end|>", sampler=_CONFIDENCE),
    MODEL_TYPE: Family(TinyDLM),
}


class Defaults(NamedTuple):
    """What a checkpoint is decoded with unless one says otherwise.

    Attributes:
        special_ids: Mask, padding and end of sequence.
        end_of_turn_ids: As :func:`end_of_turn_ids` gives them.
        chat_template: Whether prompts are a user's turns.
        shift: Whether hidden state ``i`` of the model predicts token ``i + 1``.
        sampler: Arguments of ``tabom.samplers.Sampler``.
    """

    special_ids: SpecialIds
    end_of_turn_ids: tuple[int, ...]
    chat_template: bool
    shift: bool
    sampler: Mapping[str, Any]


def defaults(directory: Path, tokenizer: PreTrainedTokenizerBase) -> Defaults:
    """What a checkpoint's files and its family say.

    Args:
        directory: Of the checkpoint.
        tokenizer: Its own, as :func:`tabom.data.tokenizer.load_tokenizer` gives it.

    Raises:
        TabomError: If it has no configuration.
    """
    config = read_json(directory / CONFIG_NAME, "the configuration of a saved model")
    family = FAMILIES.get(config.get("model_type", ""))
    return Defaults(
        special_ids=SpecialIds.of(tokenizer),
        end_of_turn_ids=end_of_turn_ids(directory, config, tokenizer),
        chat_template=tokenizer.chat_template is not None,
        shift=family is not None and family.backbone.shift,
        sampler=family.sampler if family is not None else {},
    )


def end_of_turn_ids(directory: Path, config: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens after which there is no more answer, ascending; the end of sequence is one of them.

    Args:
        directory: Of the checkpoint, for its ``generation_config.json``, if there is one.
        config: Content of its ``config.json``.
        tokenizer: Its own.
    """
    family = FAMILIES.get(config.get("model_type", ""))
    ends = {SpecialIds.of(tokenizer).eos, *_ids(config.get("eos_token_id"))}
    generation = directory / "generation_config.json"
    if generation.is_file():
        ends |= _ids(read_json(generation, "settings of generation").get("eos_token_id"))
    if family is not None and family.end_of_turn is not None:
        ends |= _ids(tokenizer.get_vocab().get(family.end_of_turn))
    return tuple(sorted(ends))


def _ids(value: Any) -> set[int]:
    """Of a field that holds one id, several or none."""
    return {each for each in (value if isinstance(value, list) else [value]) if isinstance(each, int)}
