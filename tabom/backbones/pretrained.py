"""Checkpoints on disk."""

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from tabom.backbones.base import Backbone, BackboneSource
from tabom.backbones.tiny import TinyDLM, TinyDLMConfig
from tabom.errors import TabomError, require

_FAMILIES = {TinyDLMConfig.model_type: TinyDLM}


class PretrainedBackbone(BackboneSource):
    """A backbone that was saved with ``save_pretrained``.

    Args:
        path: Directory with ``config.json`` and ``model.safetensors``.
    """

    is_pretrained = True

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def load(self, tokenizer: PreTrainedTokenizerBase) -> Backbone:
        """Read the weights.

        Raises:
            TabomError: If the directory is no checkpoint, of an unknown family, incomplete, or of another tokenizer.
        """
        config_file = self.path / "config.json"
        require(
            config_file.is_file(), f"{config_file}: expected the configuration of a saved model, found no such file"
        )
        try:
            model_type = json.loads(config_file.read_text())["model_type"]
        except (json.JSONDecodeError, KeyError) as error:
            raise TabomError(f"{config_file}: expected a JSON object with model_type ({error!r})") from error
        require(
            model_type in _FAMILIES,
            f"{config_file}: expected model_type to be one of {sorted(_FAMILIES)}, got {model_type!r}",
        )
        backbone = _FAMILIES[model_type].from_pretrained(self.path)
        backbone.check_tokenizer(tokenizer)
        return backbone
