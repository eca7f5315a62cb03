"""The options of `tabom generate` and `tabom chat`, and the model that they name."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tabom.errors import TabomError, check_range, require

if TYPE_CHECKING:
    from tabom.backbones import Backbone, BackboneSource
    from tabom.generation import Model
    from tabom.samplers import Sampler

LENGTH = 128
"""Tokens of a response, where neither an option nor a configuration says how many."""


class Chosen(NamedTuple):
    """What the options name.

    Attributes:
        model: With the sampler that is to decode.
        response_length: Tokens of a response at most.
        is_chat: Whether prompts are a user's turns.
    """

    model: "Model"
    response_length: int
    is_chat: bool


def add_options(options: argparse.ArgumentParser) -> None:
    """Add those that say which model, and how it decodes."""
    options.add_argument("verb", help=argparse.SUPPRESS)
    which = options.add_argument_group("model")
    which.add_argument("--model", metavar="PATH", help="directory or hub id of a model, or directory of an adapter")
    which.add_argument(
        *("-c", "--config"),
        action="append",
        default=[],
        metavar="FILE",
        help="or a configuration of fit, predict or evaluate, for its backbone and sampler; a later one wins",
    )
    which.add_argument("--adapter", metavar="PATH", help="directory or hub id of a trained adapter")
    which.add_argument("--ckpt_path", type=Path, metavar="FILE", help="checkpoint of a training, beside its --config")
    which.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), help="of the weights (as stored)")
    which.add_argument("--device", help="cpu, or cuda (where there is one)")
    how = options.add_argument_group("decoding, otherwise as the configuration says, or as the model's family does")
    how.add_argument("--max_new_tokens", type=int, metavar="N", help=f"length of a response ({LENGTH})")
    speed = how.add_mutually_exclusive_group()
    speed.add_argument("--steps", type=int, metavar="N", help="denoising steps of a response, a multiple of its blocks")
    speed.add_argument("--tokens_per_step", type=int, metavar="N", help="tokens that a step reveals (1)")
    how.add_argument("--block_length", type=int, metavar="N", help="tokens that are decoded before any to their right")
    how.add_argument("--temperature", type=float, metavar="T", help="0 takes the likeliest token, above 0 draws")
    how.add_argument("--seed", type=int, metavar="N", help="of the draws (0)")
    how.add_argument("--no_chat_template", action="store_true", help="prompts as they are, not as a user's turns")
    options.add_argument("--json", action="store_true", dest="is_json", help="one JSON object per prompt, for scripts")


def check_options(arguments: argparse.Namespace) -> None:
    """Raise ``TabomError`` if one is out of range, or no model is named; nothing that takes time is imported."""
    for name in ("max_new_tokens", "steps", "tokens_per_step", "block_length"):
        check_range(f"--{name}", getattr(arguments, name), least=1)
    check_range("--temperature", arguments.temperature, least=0)
    is_named = arguments.model is not None or len(arguments.config) > 0
    require(is_named, "--model: expected a directory or hub id of a model, or --config FILE, got neither")
    is_file = arguments.model is not None and Path(arguments.model).is_file()
    require(
        not is_file,
        f"--model: expected a directory or hub id of a model, got the file {arguments.model}; for the checkpoint of a "
        "training give its --config and --ckpt_path",
    )


def load_chosen(arguments: argparse.Namespace) -> Chosen:
    """Read the model.

    Args:
        arguments: As :func:`add_options` has them.

    Raises:
        TabomError: If there is no such model or configuration, or the sampler does not fit the response.
    """
    import torch

    from tabom.backbones import PretrainedBackbone
    from tabom.data.tokenizer import load_tokenizer
    from tabom.generation import Model, read_defaults
    from tabom.samplers import Sampler

    source, sampler, data = _read_configs(arguments)
    name, family_sampler = data.get("tokenizer"), {}
    if isinstance(source, PretrainedBackbone) and name in (None, source.path):
        tokenizer, found = read_defaults(source)
        family_sampler = found.sampler
    else:
        tokenizer = load_tokenizer(name, data.get("mask_token"))
    sampler = _changed(sampler or Sampler(**family_sampler), arguments)
    length = arguments.max_new_tokens or data.get("response_length") or LENGTH
    sampler.check_response_length(length)
    sampler.num_steps(length)
    backbone = source.load(tokenizer).eval()
    if arguments.ckpt_path is not None:
        _load_checkpoint(backbone, arguments.ckpt_path)
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        backbone.to(device)
    except (RuntimeError, AssertionError) as error:  # of torch, about a device that it does not know or find
        raise TabomError(f"--device: {device}: {str(error).splitlines()[0]}") from error
    has_template = tokenizer.chat_template is not None
    is_chat = not arguments.no_chat_template and bool(data.get("chat_template", has_template))
    return Chosen(Model(backbone, tokenizer, sampler), length, is_chat)


def _read_configs(arguments: argparse.Namespace) -> "tuple[BackboneSource, Sampler | None, dict[str, Any]]":
    """Backbone and sampler of the configurations, with the model of the options, and the options of their data."""
    import contextlib

    from jsonargparse import ArgumentError, ArgumentParser, Namespace

    from tabom import backbones, samplers
    from tabom.cli.config_errors import explain
    from tabom.shipped import find

    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--backbone", type=backbones.BackboneSource, sub_configs=True)
    parser.add_argument("--sampler", type=samplers.Sampler, sub_configs=True)
    named = _named(arguments)
    files = [find(name, "configs") for name in arguments.config]
    parts = [(_section(file, "model"), file) for file in files]
    layers = [(options, folder, f"{file}: model.") for (options, folder), file in parts]
    layers = [(named, Path(), "--model: "), *layers, (named, Path(), "--model: ")]
    chosen, classes = Namespace(), [*backbones.__all__, *samplers.__all__]
    for options, folder, where in layers:
        given = {key: options[key] for key in ("backbone", "sampler") if key in options}
        try:
            with contextlib.chdir(folder):  # from where it names other files
                chosen = parser.parse_object(given, namespace=chosen)
        except ArgumentError as error:
            raise TabomError(f"{where}{explain(str(error), (), classes)}") from error
    require(chosen.backbone is not None, f"{', '.join(arguments.config)}: expected model.backbone, found none")
    objects = parser.instantiate(chosen)
    data: dict[str, Any] = {}
    for file in files:
        data |= _section(file, "data")[0]
    return objects.backbone, objects.sampler, data


def _named(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the options say of the backbone, as a configuration would."""
    from tabom.backbones.lora import base_and_adapter

    base, own = (None, None) if arguments.model is None else base_and_adapter(arguments.model)
    adapter = arguments.adapter or own
    changes = {"path": base, "dtype": arguments.dtype, "adapter": adapter}
    changes = {name: value for name, value in changes.items() if value is not None}
    if adapter is not None:
        changes["lora"] = None
    kind = {} if base is None else {"class_path": "PretrainedBackbone"}
    return {"backbone": {**kind, "init_args": changes}} if changes else {}


def _changed(sampler: "Sampler", arguments: argparse.Namespace) -> "Sampler":
    """The sampler with what the options say."""
    from tabom.samplers import EvenSplit

    names = ("block_length", "temperature", "seed")
    changes = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    if arguments.tokens_per_step is not None:
        changes |= {"tokens_per_step": arguments.tokens_per_step, "schedule": None}
    if arguments.steps is not None:
        changes |= {"tokens_per_step": 1, "schedule": EvenSplit(arguments.steps)}
    return type(sampler)(**{**vars(sampler), **changes})


def _load_checkpoint(backbone: "Backbone", path: Path) -> None:
    from torch import nn

    from tabom.modules.checkpoints import load_weights, read_checkpoint

    holder = nn.Module()
    holder.backbone = backbone
    load_weights(holder, read_checkpoint(path))


def _section(file: Path, key: str) -> tuple[dict[str, Any], Path]:
    """Options under a key of a configuration, and the folder from where they name other files."""
    import yaml

    value: Any = yaml.safe_load(file.read_text())
    value, folder = value.get(key) if isinstance(value, dict) else None, file.parent
    if isinstance(value, str) and (folder / value).is_file():
        folder, value = (folder / value).parent, yaml.safe_load((folder / value).read_text())
    require(isinstance(value, dict | None), f"{file}: {key}: expected options by name, got {value}")
    value = value or {}
    return {**value, **(value.get("init_args") or {})}, folder
