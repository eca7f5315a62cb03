"""Tokenizers: a checkpoint's own, or the demo's characters."""

import hashlib

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tabom.errors import TabomError, require
from tabom.types import SpecialIds

CHARACTERS = "characters"


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Load a tokenizer.

    Args:
        name: ``characters``, a directory, or a hub id.

    Raises:
        TabomError: If there is none, or it lacks a mask, padding or end-of-sequence token.
    """
    if name == CHARACTERS:
        return _character_tokenizer()
    try:
        tokenizer = AutoTokenizer.from_pretrained(name)
    except (OSError, ValueError) as error:
        raise TabomError(f"{name}: expected a directory or hub id with a tokenizer ({error})") from error
    for kind in ("mask_token_id", "pad_token_id", "eos_token_id"):
        require(getattr(tokenizer, kind) is not None, f"{name}: expected a tokenizer with a {kind}, found none")
    return tokenizer


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of the vocabulary with its ids and of the special tokens."""
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: (item[1], item[0]))
    return hashlib.sha256(repr((vocabulary, tuple(SpecialIds.of(tokenizer)))).encode()).hexdigest()


def _character_tokenizer() -> PreTrainedTokenizerFast:
    """Printable ASCII and the newline, one token each: 99 tokens with padding, mask and end of sequence."""
    symbols = ["<pad>", "<mask>", "<eos>", "\n", *map(chr, range(32, 127))]
    tokenizer = Tokenizer(models.WordLevel({symbol: i for i, symbol in enumerate(symbols)}))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", mask_token="<mask>", eos_token="<eos>"
    )
