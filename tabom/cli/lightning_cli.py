"""The verbs that need a model: LightningCLI with short errors and a recorded configuration."""

import contextlib
import inspect
import logging
import os
import re
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn, cast

from jsonargparse import Namespace, set_loader
from jsonargparse._loaders_dumpers import yaml_load
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only  # pyright: ignore[reportPrivateImportUsage]
from yaml import YAMLError

# Classes that a config may name without their module.
import tabom.backbones
import tabom.callbacks
import tabom.data
import tabom.evaluation
import tabom.modules
import tabom.objectives
import tabom.samplers
import tabom.tasks
import tabom.validation
from tabom.callbacks import Interrupted, LastCheckpoint, interruptible
from tabom.callbacks.tracking import end_runs, start_runs, without_disabled
from tabom.cli.checks import check_file
from tabom.cli.command_recorder import CommandRecorder
from tabom.cli.config_errors import explain, misplaced_values
from tabom.cli.defaults import ConfigFile, add_defaults, callbacks_of, fill_in_tokenizer
from tabom.cli.former_names import renamed_words, renaming
from tabom.cli.help import configs as shipped_configs
from tabom.cli.input_errors import sentence
from tabom.cli.model_path import with_model_path
from tabom.cli.run_directory import fill_in_directory
from tabom.cli.trainer import TabomTrainer
from tabom.cli.trainer_options import check_ranges
from tabom.errors import TabomError, require
from tabom.evaluation import BenchmarkWriter
from tabom.modules import TrainingModule
from tabom.modules.checkpoints import best_checkpoint
from tabom.storage.claims import alone

_GROUPS = ("trainer", "checkpoint", "last_checkpoint", "progress", "writer", "model", "data")
set_loader("yaml", renaming(yaml_load), (YAMLError,))  # a text that is no YAML is still a text
_PARTS = ("Ranking", "Warmup", "Lora", "ValidationSizes")
_NONE = re.compile(r"^(--[^=]+=)?None$")


class Parser(LightningArgumentParser):
    """Ends a faulty command line with one sentence and the nearest valid key, not with the whole usage.

    Args:
        verb: The verb it is for; empty for the whole command line.
        options: Those of Lightning's own parser.
    """

    def __init__(self, *args: Any, verb: str = "", **options: Any) -> None:
        self.verb = verb
        super().__init__(*args, **options)

    def parse_args(self, args: Sequence[str] | None = None, *rest: Any, **options: Any) -> Namespace:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Take former names for today's, and Python's ``None`` for null.

        jsonargparse hands a null to the parser of a class as ``None``, and W&B's agents write it so.
        """
        words = [_NONE.sub(r"\1null", word) for word in renamed_words(sys.argv[1:] if args is None else args)]
        return super().parse_args(words, *rest, **options)

    def dump(self, cfg: Namespace, *args: Any, **options: Any) -> str:
        """Show the configuration as it will run."""
        if self.verb:
            cfg = cfg.clone()
            fill_in_directory(cfg, os.environ)
        return super().dump(cfg, *args, **options)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print one sentence and exit with code 2; inner parsers report to the outer one."""
        if not self.exit_on_error:
            super().error(message, ex)
        parser = getattr(ex, "subcommand_parser", None) or self
        if missing := re.search(r"arguments are required: (\w+)\.", message):
            shown = "; ".join(shipped_configs(missing[1]))
            message = f"{missing[1]}: expected --config FILE, or FOLDER/NAME of one that comes with tabom: {shown}"
        options = [*(action.dest for action in parser._actions), *_options_of_classes()]
        print(f"tabom: error: {explain(message, options, _class_names())}", file=sys.stderr)
        sys.exit(2)


class TabomCLI(LightningCLI):
    """LightningCLI that rejects ``null`` where a value belongs and leaves hyperparameters of checkpoints alone.

    Args:
        until_end: Left when the command has ended.
        options: Those of LightningCLI.
    """

    def __init__(self, until_end: ExitStack, *args: Any, **options: Any) -> None:
        self._until_end = until_end
        super().__init__(*args, **options)

    def subcommands(self) -> dict[str, set[str]]:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The verb of the command line alone, since parsers for all take long; its arguments that are no options."""
        verb = self.save_config_kwargs["command"][0]
        return {verb: LightningCLI.subcommands().get(verb, {"model", "datamodule"})}

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make the parser of one verb, or of all."""
        parser = Parser(**kwargs)
        parser.add_argument("-c", "--config", action=ConfigFile, help="A configuration file; a later one wins.")
        return parser

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add what is neither the trainer's, the model's nor the data's."""
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="The run's own directory, from which the names in W&B follow; --trainer.default_root_dir is the same.",
        )
        add_defaults(parser, cast("Parser", parser).verb)

    def _set_seed(self) -> None:
        """Check the seed, and the other numbers with it, before it is set."""
        verb = str(self.subcommand)
        for key, options in self.config[verb].items():
            is_group = key not in _GROUPS or isinstance(options, Namespace)
            require(is_group, f"{key}: expected options by name, got {options}")
        check_ranges(verb, self.config[verb].as_dict())
        super()._set_seed()

    def before_instantiate_classes(self) -> None:
        """Fill in what follows from the rest of the configuration, and check it."""
        config = self.config[str(self.subcommand)]
        fill_in_directory(config, os.environ)
        fill_in_tokenizer(config)
        for message in misplaced_values(config.as_dict(), TabomTrainer):
            raise TabomError(message)
        cast("type[TabomTrainer]", self.trainer_class).check_inputs(str(self.subcommand), config.as_dict())

    def instantiate_classes(self) -> None:
        """Say in one sentence which value a constructor rejected."""
        with self._blaming():
            try:
                super().instantiate_classes()
            except (TypeError, ValueError) as error:
                if not _is_bad_input(error):
                    raise
                raise TabomError(explain(str(error), (), ())) from error

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Add the callbacks that every run has, unless the configuration lists others; leave out what is disabled."""
        if isinstance(config["logger"], Logger | list):
            config["logger"] = without_disabled(config["logger"])
        given = config["callbacks"] or []
        config["callbacks"] = callbacks_of(
            str(self.subcommand),
            given if isinstance(given, list) else [given],
            callbacks,
            has_checkpoints=config["enable_checkpointing"] is not False,
        )
        return super()._instantiate_trainer(config, [])

    def _run_subcommand(self, subcommand: str) -> None:
        """Leave nothing behind of a run whose input is refused before it begins."""
        try:
            with self._blaming():
                super()._run_subcommand(subcommand)
        except TabomError:
            for callback in self.trainer.callbacks:  # pyright: ignore[reportAttributeAccessIssue]
                if isinstance(callback, CommandRecorder):
                    callback.withdraw(self.trainer)
            raise

    @contextlib.contextmanager
    def _blaming(self) -> Iterator[None]:
        """Name the option whose object an exception comes from."""
        try:
            yield
        except TabomError:
            raise
        except Exception as error:
            text = sentence(error, self.config[str(self.subcommand)].as_dict())
            if text is None:
                raise
            raise TabomError(text) from error

    def before_fit(self) -> None:
        """Try the optimizer, before W&B hears of the run; claim the directory; find the checkpoint; start tracking.

        Without a last checkpoint a training starts anew.
        """
        if isinstance(self.model, TrainingModule):
            self.model.try_optimizer()
        self._claim_directory()
        self._find_checkpoint()
        start_runs(self.trainer.loggers)

    def before_validate(self) -> None:
        """Find the checkpoint; start tracking."""
        self._find_checkpoint()
        start_runs(self.trainer.loggers)

    def before_test(self) -> None:
        """Find the checkpoint; start tracking."""
        self._find_checkpoint()
        start_runs(self.trainer.loggers)

    def before_predict(self) -> None:
        """Keep no predictions in memory, since shards hold them; start tracking."""
        options = self.config_init["predict"]
        require(
            not options["return_predictions"], "return_predictions: expected false, since shards hold them, got true"
        )
        options["return_predictions"] = False
        start_runs(self.trainer.loggers)

    def before_evaluate(self) -> None:
        """Claim the run's directory; keep what comes out; start tracking."""
        self._claim_directory()
        callbacks: list[Callback] = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]
        if not any(isinstance(callback, BenchmarkWriter) for callback in callbacks):
            callbacks.append(BenchmarkWriter())
        start_runs(self.trainer.loggers)

    def before_export(self) -> None:
        """Find the checkpoint."""
        self._find_checkpoint()

    def _claim_directory(self) -> None:
        """Refuse to write into the directory of another run that is going on, and have others refused until the end.

        Raises:
            TabomError: If there is one of the same verb.
        """
        directory = self.trainer.default_root_dir
        if self.trainer.is_global_zero and "://" not in directory:
            self._until_end.enter_context(alone(Path(directory), str(self.subcommand)))

    def _find_checkpoint(self) -> None:
        """Put a file's name in the place of ``last`` and ``best``; Lightning would look in that of a new W&B run."""
        options = self.config_init[str(self.subcommand)]
        name = options["ckpt_path"]
        if name not in ("last", "best"):
            return
        callbacks = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, LastCheckpoint)]
        require(len(callbacks) == 1, f"ckpt_path {name}: expected one LastCheckpoint callback, got {len(callbacks)}")
        path = callbacks[0].find(self.trainer)
        where = f"{self.trainer.default_root_dir}/checkpoints/last.ckpt"
        is_start = path is None and name == "last" and self.subcommand == "fit"
        require(path is not None or is_start, f"{where}: expected a checkpoint, found no such file")
        if path is None:
            rank_zero_info(f"{where}: no checkpoint yet, the training starts from the beginning")
        else:
            path = best_checkpoint(path) if name == "best" else path
            check_file(str(self.subcommand), self.config[str(self.subcommand)].as_dict(), path)
        options["ckpt_path"] = None if path is None else str(path)

    def _parse_ckpt_path(self) -> None:
        """Keep what the user configured: upstream lets a checkpoint's hyperparameters override the command line."""


def run(words: Sequence[str], trainer_class: type[TabomTrainer] = TabomTrainer) -> TabomCLI:
    """Parse, instantiate and run one verb.

    Args:
        words: Verb and options.
        trainer_class: Replaced in tests.

    Returns:
        The finished command line, with its trainer, model and data module.

    Raises:
        TabomError: For bad input that is found after parsing.
        Interrupted: For a signal or a spent time limit.
    """
    with warnings.catch_warnings(), interruptible(), ExitStack() as until_end:
        _silence_upstream()
        try:
            return TabomCLI(
                until_end,
                LightningModule,
                LightningDataModule,
                subclass_mode_model=True,
                subclass_mode_data=True,
                auto_configure_optimizers=False,
                load_from_checkpoint_support=False,  # modules are made from configs; to note theirs takes long
                trainer_class=trainer_class,
                save_config_callback=CommandRecorder,  # pyright: ignore[reportArgumentType]
                save_config_kwargs={"command": list(words)},
                parser_kwargs={words[0]: {"verb": words[0]}},
                args=["--help" if word == "--help=all" else word for word in with_model_path(words)],
            )
        except Interrupted as interruption:
            rank_zero_only(print)(f"tabom: {interruption.reason}", file=sys.stderr)
            raise
        finally:
            end_runs(exit_code=1 if sys.exc_info()[0] else 0)


def _class_names() -> list[str]:
    packages = (
        tabom.backbones,
        tabom.callbacks,
        tabom.data,
        tabom.evaluation,
        tabom.modules,
        tabom.objectives,
        tabom.samplers,
        tabom.tasks,
        tabom.validation,
    )
    return [name for package in packages for name in package.__all__]


def _options_of_classes() -> list[str]:
    """Dotted names of what the classes of a configuration take, such as ``model.objective.margin``."""
    rooms = {"model.objective": tabom.objectives, "model.backbone": tabom.backbones, "data": tabom.data}
    owners = [
        ("model", TrainingModule),
        ("model.sampler", tabom.samplers.Sampler),
        ("model.objective.ranking", tabom.objectives.Ranking),
        ("data.validation", tabom.data.ValidationSizes),
        *((key, getattr(room, name)) for key, room in rooms.items() for name in room.__all__ if name not in _PARTS),
    ]
    found = [f"{prefix}.{name}" for prefix, owner in owners for name in inspect.signature(owner).parameters]
    return ["model.optimizer.lr", *found]


def _is_bad_input(error: BaseException | None) -> bool:
    """Whether one of our own constructors started the chain, and not a defect in the code."""
    while error is not None:
        if isinstance(error, TabomError):
            return True
        error = error.__cause__ or error.__context__
    return False


def _silence_upstream() -> None:
    """Hide what a user can do nothing about."""
    # Lightning's own remark on passing args from Python, which the demo and the tests do.
    warnings.filterwarnings("ignore", "LightningCLI's args parameter is intended")
    # Lightning 2.6 calls what jsonargparse 4.53 has deprecated.
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"lightning\.pytorch\.cli")
    # The loaders here are small and in memory: workers would only cost start-up time.
    warnings.filterwarnings("ignore", ".*does not have many workers which may be a bottleneck.*")
    # https://github.com/Lightning-AI/pytorch-lightning/issues/21438: torch 2.13 deprecates what Lightning calls.
    warnings.filterwarnings("ignore", ".*isinstance.treespec, LeafSpec.. is deprecated.*")
    # An epoch of a small data set may be shorter than the logging interval; steps are what is counted here.
    warnings.filterwarnings("ignore", "The number of training batches .* is smaller than the logging interval.*")
    # A resumed training writes where it wrote before.
    warnings.filterwarnings("ignore", "Checkpoint directory .* exists and is not empty.")
    # Testing a checkpoint with its training's config: the callback's own record is of no use then.
    warnings.filterwarnings("ignore", "The dirpath has changed from .* therefore `best_model_score`.*")
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_advertisement)


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    return "Tip: For seamless cloud" not in record.getMessage()
