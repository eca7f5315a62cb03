"""Tokenizers: a checkpoint's own, without running its code, or the demo's characters."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from tabom.backbones.checkpoint import checkpoint_dir, read_json
from tabom.backbones.families import FAMILIES, end_of_turn_ids
from tabom.errors import TabomError, require
from tabom.types import SpecialIds

CHARACTERS = "characters"


def load_tokenizer(name: str | None, mask_token: str | None = None) -> PreTrainedTokenizerBase:
    """Load a tokenizer; code in the checkpoint is never run.

    LLaDA's tokenizer does not name its mask token: where one is missing, ``mask_token_id`` in ``config.json`` beside it
    says which it is, or the family of its ``model_type``. Tokenizers without an end of sequence (BERT) end with their
    separator; those without padding pad as ``config.json`` says, or with the end of sequence.

    Args:
        name: ``characters``, a directory, or a hub id.
        mask_token: Mask token by its text, whatever the files say; added to the vocabulary where it is missing.

    Raises:
        TabomError: If there is none, or it lacks a mask, padding or end-of-sequence token.
    """
    if name is None:
        raise TabomError("tokenizer: expected characters, a directory or a hub id, got none")
    if name == CHARACTERS:
        return _character_tokenizer()
    directory = checkpoint_dir(name, with_weights=False)
    try:
        kind = _class_for(directory)
        options = {"trust_remote_code": False} if kind is AutoTokenizer else {}  # it would ask on a terminal
        tokenizer: Any = kind.from_pretrained(directory, **options)
    except (OSError, ValueError, KeyError) as error:
        raise TabomError(f"{name}: expected the files of a tokenizer ({error})") from error
    config_file = directory / "config.json"
    config = read_json(config_file, "the configuration of a saved model") if config_file.is_file() else {}
    family = FAMILIES.get(config.get("model_type", ""))
    if mask_token is not None:
        tokenizer.add_special_tokens({"mask_token": mask_token})
    _name_special(tokenizer, "mask", config.get("mask_token_id"))
    if family is not None:
        _name_special(tokenizer, "mask", family.mask)
        _set_template_options(tokenizer, family.template_options)
    _name_special(tokenizer, "eos", tokenizer.sep_token_id)
    _name_special(tokenizer, "pad", config.get("pad_token_id"))
    _name_special(tokenizer, "pad", tokenizer.eos_token_id)
    for kind in ("mask_token_id", "pad_token_id", "eos_token_id"):
        hint = "; the backbone's mask_token may name one" if kind == "mask_token_id" else ""
        require(getattr(tokenizer, kind) is not None, f"{name}: expected a tokenizer with a {kind}, found none{hint}")
    tokenizer.end_of_turn_ids = end_of_turn_ids(directory, config, tokenizer)
    return tokenizer


def ends_of_turn(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Tokens after which there is no more answer: what :func:`load_tokenizer` found, or else the end of sequence."""
    return getattr(tokenizer, "end_of_turn_ids", (SpecialIds.of(tokenizer).eos,))


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the tokenizer beside a saved model, unless the model brought its own files from where it was loaded."""
    if not list(directory.glob("tokenizer*")):
        tokenizer.save_pretrained(directory)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary with its ids and of the special tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(repr((vocabulary, tuple(SpecialIds.of(tokenizer)))).encode()).hexdigest()


def _name_special(tokenizer: Any, kind: str, token: Any) -> None:
    """Name a special token that the tokenizer does not name yet, by its id or its text; a new text gets a new id."""
    if getattr(tokenizer, f"{kind}_token_id") is not None:
        return
    if isinstance(token, str):
        tokenizer.add_special_tokens({f"{kind}_token": token})
    elif isinstance(token, int) and token < len(tokenizer):
        setattr(tokenizer, f"{kind}_token", tokenizer.convert_ids_to_tokens(token))


def _set_template_options(tokenizer: Any, options: Mapping[str, bool]) -> None:
    """Fix variables of the chat template, so that whoever renders it need not know them."""
    if isinstance(tokenizer.chat_template, str):
        fixed = "".join(f"{{%- set {name} = {str(value).lower()} %}}" for name, value in options.items())
        tokenizer.chat_template = fixed + tokenizer.chat_template


def _class_for(directory: Path) -> Any:
    """Dream's own class is Qwen2's under another name; a tokenizer.json says all that a fast tokenizer needs."""
    settings_file = directory / "tokenizer_config.json"
    settings = read_json(settings_file, "a tokenizer's settings") if settings_file.is_file() else {}
    if settings.get("tokenizer_class") == "DreamTokenizer":
        return Qwen2Tokenizer
    return PreTrainedTokenizerFast if (directory / "tokenizer.json").is_file() else AutoTokenizer


def _character_tokenizer() -> PreTrainedTokenizerFast:
    """Printable ASCII and the newline, one token each: 99 tokens with padding, mask and end of sequence."""
    symbols = ["<pad>", "<mask>", "<eos>", "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", mask_token="<mask>", eos_token="<eos>"
    )
