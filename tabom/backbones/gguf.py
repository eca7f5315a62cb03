"""Checkpoints in the hub's layout from GGUF files."""

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from tabom.backbones.checkpoint import check_no_model, save_checkpoint
from tabom.errors import TabomError, require


def convert_gguf(file: Path, output_dir: Path, *, mask_token: str) -> int:
    """Write a causal language model and its tokenizer as ``PretrainedBackbone`` and transformers read them, in float32.

    The embedding of the mask token becomes the mean of all embeddings, with a tied head its row there as well; all
    other weights are what the file's quantised ones stand for.

    Args:
        file: Of an architecture that transformers reads.
        output_dir: Made if it is missing.
        mask_token: A token of the vocabulary that text does not use; it becomes the mask token.

    Returns:
        Id of the mask token.

    Raises:
        TabomError: If the package gguf is missing, the file is missing or unreadable, the vocabulary has no such token,
            or ``output_dir`` holds a model.
    """
    from transformers import AutoModelForCausalLM

    require(
        find_spec("gguf") is not None,
        f"{file}: expected the package gguf to read it, found none; pip install 'tabom[gguf]'",
    )
    require(file.is_file(), f"{file}: expected a GGUF file, found no such file")
    check_no_model(output_dir)
    source: Any = {"pretrained_model_name_or_path": file.parent, "gguf_file": file.name}
    with _reading(file, "with a tokenizer"):
        tokenizer: Any = AutoTokenizer.from_pretrained(**source)
    mask_token_id = tokenizer.get_vocab().get(mask_token)
    if mask_token_id is None:
        special = sorted(token.content for token in tokenizer.added_tokens_decoder.values())
        raise TabomError(f"mask_token: expected a token of the vocabulary, such as {special[-3:]}, got {mask_token!r}")
    tokenizer.add_special_tokens({"mask_token": mask_token})
    with _reading(file, "of a model"):
        model: Any = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32)
    embeddings = model.get_input_embeddings().weight.data
    embeddings[mask_token_id] = embeddings.mean(0)
    known = type(model.config)().to_dict().keys()  # the file adds fields of its own, such as its quantisation
    config = {key: value for key, value in model.config.to_diff_dict().items() if key in known}
    config |= {"architectures": [type(model).__name__], "mask_token_id": mask_token_id, "dtype": "float32"}
    state = {name: tensor for name, tensor in model.state_dict().items() if name not in model.all_tied_weights_keys}
    output_dir.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(output_dir)
    save_checkpoint(output_dir, config, state, companions_from=None)
    return mask_token_id


@contextmanager
def _reading(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, NotImplementedError) as error:
        raise TabomError(f"{file}: expected a GGUF file {what} that transformers reads ({error})") from error
