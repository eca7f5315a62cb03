"""What a configuration need not say: the classes, the trainer's settings and the callbacks of each verb."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile, Namespace  # pyright: ignore[reportPrivateImportUsage]
from lightning import Callback
from lightning.pytorch.callbacks import Checkpoint
from lightning.pytorch.cli import LightningArgumentParser

from tabom import shipped
from tabom.callbacks import BestCheckpoint, LastCheckpoint, StepProgressBar, TrajectoryWriter, ValidationMedia
from tabom.errors import require

TRAININGS = ("fit", "validate", "test", "export")
"""Verbs that read the configuration of a training."""
_CLASSES = {
    "predict": ("tabom.modules.DistillationModule", "tabom.data.PromptDataModule"),
    "evaluate": ("tabom.evaluation.BenchmarkModule", "tabom.evaluation.BenchmarkDataModule"),
    **dict.fromkeys(TRAININGS, ("tabom.modules.TrainingModule", "tabom.data.TrajectoryDataModule")),
}
_LOGGER = {
    "class_path": "lightning.pytorch.loggers.WandbLogger",
    "init_args": {"offline": True},
}


class ConfigFile(ActionConfigFile):
    """Reads a configuration file, in which model and data may be without a class.

    A default class would not do: its values would stay where a file names another class with the same options.
    """

    def __call__(self, parser: Any, cfg: Namespace, values: Any, option_string: str | None = None) -> None:
        """Put the verb's class where neither this file nor one before names one.

        The ``trainer.default_root_dir`` of a file is another name for its ``run_dir``. A configuration that comes with
        the package is found by its name.
        """
        values = found(values)
        for key, class_path in zip(("model", "data"), _CLASSES.get(parser.verb, ()), strict=False):
            if _is_without_class(values, key) and cfg.get(key) is None:
                cfg[key] = Namespace(class_path=class_path)
        before = [cfg.get(key) for key in ("run_dir", "trainer.default_root_dir")]
        super().__call__(parser, cfg, values, option_string)
        after = [cfg.get(key) for key in ("run_dir", "trainer.default_root_dir")]
        if before[0] == after[0] and before[1] != after[1]:
            cfg.run_dir = after[1]


def found(config: Any) -> Any:
    """The file of a configuration that is given by its name; YAML text, and whatever is no text, as it is.

    Raises:
        TabomError: If there is no such file.
    """
    is_name = isinstance(config, str) and re.fullmatch(r"[^\n{}:]+", config)
    return str(shipped.find(config, "configs")) if is_name else config


def add_defaults(parser: LightningArgumentParser, verb: str) -> None:
    """Set what all configurations share, and give the callbacks that every run has keys of their own.

    Args:
        parser: Of the verb; has the trainer's options.
        verb: The one of the command line.
    """
    parser.set_defaults(
        {
            "trainer.num_sanity_val_steps": 0,
            "trainer.log_every_n_steps": 10,
            "trainer.enable_model_summary": False,
            "trainer.logger": False if verb in ("predict", "export") else _LOGGER,
        }
    )
    parser.add_lightning_class_args(StepProgressBar, "progress")
    if verb == "predict":
        parser.add_lightning_class_args(TrajectoryWriter, "writer")
    if verb in TRAININGS:
        parser.add_lightning_class_args(BestCheckpoint, "checkpoint")
        parser.add_lightning_class_args(LastCheckpoint, "last_checkpoint")
        parser.set_defaults(
            {
                "trainer.gradient_clip_val": 1.0,
                "checkpoint.monitor": "validate/accuracy_1_per_step",
                "checkpoint.mode": "max",
                "checkpoint.enable_version_counter": False,
            }
        )


def callbacks_of(
    verb: str, given: Sequence[Callback], own: Sequence[Callback], *, has_checkpoints: bool
) -> list[Callback]:
    """All callbacks of a run.

    Args:
        verb: The one of the command line.
        given: Those of ``trainer.callbacks``: one takes the place of ours of the same class, and a checkpoint callback
            that of all our checkpoint callbacks.
        own: Those with a key of their own.
        has_checkpoints: Whether checkpoints are written.
    """
    if verb in TRAININGS:
        own = [ValidationMedia(), *own]
    if not has_checkpoints or any(isinstance(callback, Checkpoint) for callback in given):
        own = [callback for callback in own if not isinstance(callback, Checkpoint)]
    return [*given, *(callback for callback in own if not any(isinstance(g, type(callback)) for g in given))]


def fill_in_tokenizer(config: Namespace) -> None:
    """Give the data the tokenizer of the backbone and its mask token, unless the configuration names others.

    Raises:
        TabomError: If the backbone is not read from anywhere.
    """
    data = config.data.init_args
    backbone = config.model.init_args.get("backbone")
    options = (backbone and backbone.get("init_args")) or Namespace()
    if data.get("mask_token", "") is None:
        data.mask_token = options.get("mask_token")
    if data.get("tokenizer", "") is not None:
        return
    path = options.get("path")
    require(
        path is not None,
        "data.tokenizer: expected characters, a directory or a hub id, got none, and model.backbone has no path whose "
        "tokenizer it could be",
    )
    data.tokenizer = path


def _is_without_class(file: Any, key: str) -> bool:
    """Whether a configuration, or the file of that name, has options under a key and no class."""
    is_text = "{" in str(file) or "\n" in str(file)
    text = str(file) if is_text or not Path(file).is_file() else Path(file).read_text()
    content = yaml.safe_load(text)
    options = content.get(key) if isinstance(content, dict) else None
    return isinstance(options, dict) and "class_path" not in options
