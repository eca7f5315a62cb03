"""``--model PATH`` of ``predict`` and ``evaluate``: a checkpoint in the place of a configuration's model."""

import json
from collections.abc import Sequence
from pathlib import Path

VERBS = ("predict", "evaluate")


def with_model_path(words: Sequence[str]) -> list[str]:
    """A command line in which the path of a checkpoint has become a backbone, with what its family is decoded with.

    Sampler and chat template are those of the family where no configuration says otherwise; the path is the one that is
    given here in any case.

    Args:
        words: Verb and options; ``--model`` may be a directory, or a hub id, as well as a class or a configuration.

    Raises:
        TabomError: If there is no such checkpoint, or its family is unknown.
    """
    path = next((path for _, path in _found(words)), None)
    if words[0] not in VERBS or path is None:
        return list(words)

    from tabom.backbones import PretrainedBackbone
    from tabom.backbones.lora import base_and_adapter
    from tabom.generation import read_defaults

    base, adapter = base_and_adapter(path)
    _, found = read_defaults(PretrainedBackbone(base))
    backbone = {"class_path": "PretrainedBackbone", "init_args": {"path": base, "adapter": adapter}}
    sampler = {"class_path": "Sampler", "init_args": dict(found.sampler)}
    family = {"model": {"backbone": backbone, "sampler": sampler}, "data": {"chat_template": found.chat_template}}
    left = list(words)
    for index, _ in reversed(_found(words)):
        del left[index : index + (1 if "=" in left[index] else 2)]
    last = [f"--model.backbone.path={base}", *([f"--model.backbone.adapter={adapter}"] if adapter else [])]
    return [left[0], "--config", json.dumps(family), *left[1:], "--model.backbone=PretrainedBackbone", *last]


def _found(words: Sequence[str]) -> list[tuple[int, str]]:
    """Places of ``--model`` with a path, and the paths."""
    found = []
    for index, word in enumerate(words):
        name, is_joined, value = word.partition("=")
        if not is_joined:
            value = "".join(words[index + 1 : index + 2])
        if name == "--model" and value and _is_path(value):
            found.append((index, value))
    return found


def _is_path(value: str) -> bool:
    """Whether this is a directory or a hub id, and neither a class, nor a configuration or the file of one."""
    return Path(value).is_dir() or ("/" in value and "{" not in value and not Path(value).is_file())
