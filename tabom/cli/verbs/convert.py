"""Write the model and the tokenizer of a GGUF file as a checkpoint that the other verbs and transformers read."""

import argparse
from collections.abc import Sequence
from pathlib import Path


def parser() -> argparse.ArgumentParser:
    """Options of ``tabom convert``."""
    options = argparse.ArgumentParser("tabom convert", description=__doc__)
    options.add_argument("verb", help=argparse.SUPPRESS)
    options.add_argument("file", type=Path, metavar="FILE", help="causal language model in the GGUF format")
    options.add_argument("-o", "--output_dir", type=Path, required=True, metavar="DIR", help="gets the checkpoint")
    options.add_argument(
        "--mask_token", required=True, metavar="TOKEN", help="token of its vocabulary that text does not use"
    )
    return options


def run(words: Sequence[str]) -> None:
    """``tabom convert``."""
    arguments = parser().parse_args(words)
    from tabom.backbones.gguf import convert_gguf  # transformers takes seconds to import

    mask_token_id = convert_gguf(arguments.file, arguments.output_dir, mask_token=arguments.mask_token)
    print(f"{arguments.output_dir}: model written, mask token {arguments.mask_token} (id {mask_token_id})")
