"""Tokenizers: a checkpoint's own, without running its code, or the demo's characters."""

import hashlib
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, Qwen2Tokenizer

from tabom.backbones.checkpoint import checkpoint_dir, read_json
from tabom.errors import TabomError, require
from tabom.types import SpecialIds

CHARACTERS = "characters"


def load_tokenizer(name: str | None) -> PreTrainedTokenizerBase:
    """Load a tokenizer; code in the checkpoint is never run.

    LLaDA's tokenizer does not name its mask token: where one is missing, ``mask_token_id`` in ``config.json`` beside it
    says which it is. Tokenizers without an end of sequence (BERT) end with their separator.

    Args:
        name: ``characters``, a directory, or a hub id.

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
    mask_token_id = config.get("mask_token_id")
    if tokenizer.mask_token_id is None and isinstance(mask_token_id, int) and mask_token_id < len(tokenizer):
        tokenizer.mask_token = tokenizer.convert_ids_to_tokens(mask_token_id)
    if tokenizer.eos_token_id is None and tokenizer.sep_token_id is not None:
        tokenizer.eos_token = tokenizer.sep_token
    for kind in ("mask_token_id", "pad_token_id", "eos_token_id"):
        require(getattr(tokenizer, kind) is not None, f"{name}: expected a tokenizer with a {kind}, found none")
    return tokenizer


def save_tokenizer(tokenizer: PreTrainedTokenizerBase, directory: Path) -> None:
    """Write the tokenizer beside a saved model, unless the model brought its own files from where it was loaded."""
    if not list(directory.glob("tokenizer*")):
        tokenizer.save_pretrained(directory)


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary with its ids and of the special tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(repr((vocabulary, tuple(SpecialIds.of(tokenizer)))).encode()).hexdigest()


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
