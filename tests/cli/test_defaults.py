"""What a configuration need not say, and who wins when it does."""

from pathlib import Path

import pytest
import yaml
from helpers import ParseOnlyTrainer, a2d_tokenizer_files, parsed
from jsonargparse import Namespace
from lightning import Callback
from lightning.pytorch.callbacks import ModelCheckpoint

from tabom.callbacks import LastCheckpoint, RunRecorder, StepProgressBar, TrajectoryWriter, ValidationMedia
from tabom.cli.defaults import callbacks_of
from tabom.cli.lightning_cli import run
from tabom.cli.run_directory import fill_in_directory, group_and_name
from tabom.errors import TabomError

AGENT = {"WANDB_SWEEP_ID": "s1", "WANDB_RUN_ID": "r1"}
WANDB = "lightning.pytorch.loggers.WandbLogger"
OLD_FORM = """
seed_everything: 1
trainer:
  max_steps: 6
  default_root_dir: runs/old
  logger:
    class_path: lightning.pytorch.loggers.WandbLogger
    init_args: {project: mine, group: g, name: n, save_dir: runs/old/logs, offline: true}
  callbacks:
    - class_path: lightning.pytorch.callbacks.ModelCheckpoint
      init_args: {dirpath: runs/old/kept, monitor: validate/kl}
    - class_path: StepProgressBar
      init_args: {interval: 3.0}
model:
  class_path: TrainingModule
  init_args:
    backbone: NewTinyDLM
    objective: NelboObjective
    optimizer: torch.optim.AdamW
    validation:
      class_path: Validation
      init_args: {sampler: Sampler}
data:
  class_path: PretrainingDataModule
  init_args: {tokenizer: characters, response_length: 19, task: Sudoku4x4, base_domain: PythonSource}
"""


def options(**changes):
    """Of a verb that trains, as parsed."""
    logger = Namespace(
        class_path=WANDB, init_args=Namespace(save_dir=".", project=None, group=None, name=None, offline=True)
    )
    trainer = Namespace(default_root_dir=None, logger=logger, max_steps=3)
    return Namespace(
        run_dir=None, trainer=trainer, checkpoint=Namespace(dirpath=None, monitor="validate/kl"), **changes
    )


def test_what_follows_from_run_dir():
    config = options()
    config.run_dir = "runs/demo/tabom"
    fill_in_directory(config, {})
    assert config.trainer.default_root_dir == config.run_dir == "runs/demo/tabom"
    assert config.checkpoint.dirpath == "runs/demo/tabom/checkpoints"
    config.trainer.callbacks = [Namespace(class_path="X", init_args=Namespace(dirpath=None))]
    fill_in_directory(config, {})
    assert config.trainer.callbacks[0].init_args.dirpath == "runs/demo/tabom/checkpoints"
    logger = config.trainer.logger.init_args
    assert (logger.project, logger.group, logger.name, logger.save_dir) == ("tabom", "demo", "tabom", "runs/demo/tabom")
    before = config.clone()
    fill_in_directory(config, {})
    assert config == before


def test_the_backbones_mask_token_is_the_tokenizers(tmp_path, monkeypatch):
    """Unless the data names another one."""
    monkeypatch.chdir(tmp_path)
    a2d_tokenizer_files(tmp_path / "model")
    files = ["--config", str(Path(__file__).parents[2] / "configs/demo/distill.yaml"), "--trainer.logger=false"]
    keys = ["--model.backbone.path=model", "--model.backbone.mask_token=<|mask|>"]
    assert parsed("predict", *files, *keys).datamodule.tokenizer.mask_token_id == 259
    named = parsed("predict", *files, *keys, "--data.mask_token=<|im_start|>", "--data.tokenizer=model")
    assert named.datamodule.tokenizer.mask_token_id == 257


def test_a_run_of_an_agent_has_a_directory_of_its_own_and_gets_its_name_from_w_and_b():
    config = options()
    config.run_dir = "runs/demo/tabom"
    for _ in range(2):  # once more changes nothing
        fill_in_directory(config, AGENT)
        assert config.run_dir == config.trainer.logger.init_args.save_dir == "runs/demo/tabom/s1/r1"
        assert (config.trainer.logger.init_args.group, config.trainer.logger.init_args.name) == ("demo", None)
    config = options()
    fill_in_directory(config, AGENT)
    assert config.run_dir == "s1/r1"


@pytest.mark.parametrize(
    ("variables", "own_mode", "is_offline"),
    [
        ({}, None, True),
        ({"WANDB_MODE": "online"}, None, False),
        ({"WANDB_MODE": "run"}, None, False),
        ({"WANDB_MODE": "shared"}, None, False),
        ({"WANDB_MODE": "offline"}, None, True),
        ({"WANDB_MODE": "dryrun"}, None, True),
        ({"WANDB_MODE": "disabled"}, None, True),
        ({"WANDB_MODE": "offline"}, "online", False),
    ],
)
def test_the_variables_of_w_and_b_win_over_the_defaults(variables, own_mode, is_offline):
    config = options()
    config.trainer.logger.init_args.mode = own_mode
    names = {"WANDB_PROJECT": "p", "WANDB_NAME": "n", "WANDB_RUN_GROUP": "g"}
    config.run_dir = "runs/demo/tabom"
    fill_in_directory(config, {**variables, **names})
    logger = config.trainer.logger.init_args
    assert (logger.offline, logger.project, logger.name, logger.group) == (is_offline, "p", None, None)


def test_an_unknown_mode_of_w_and_b_is_refused():
    with pytest.raises(
        TabomError, match=r"^W&B's mode: expected online, offline, disabled, .*, got on; see WANDB_MODE"
    ):
        fill_in_directory(options(), {"WANDB_MODE": "on"})


def test_what_is_given_wins_and_moves_with_the_directory():
    config = options()
    config.run_dir = "runs/b/7"
    config.trainer.default_root_dir = "runs/a"
    config.trainer.logger.init_args.update(Namespace(save_dir="runs/a/logs", project="mine", name="runs/abc"))
    config.trainer.callbacks = [Namespace(class_path="X", init_args=Namespace(dirpath="runs/a/kept"))]
    config.checkpoint.dirpath = "runs/a/checkpoints"
    fill_in_directory(config, {})
    logger = config.trainer.logger.init_args
    assert (logger.save_dir, logger.project, logger.group, logger.name) == ("runs/b/7/logs", "mine", "b", "runs/abc")
    assert config.trainer.callbacks[0].init_args.dirpath == "runs/b/7/kept"
    assert config.checkpoint.dirpath == "runs/b/7/checkpoints"
    assert config.trainer.default_root_dir == config.run_dir == "runs/b/7"


def test_without_a_directory_the_project_and_the_place_of_checkpoints_are_filled_in():
    config = options()
    before = config.clone()
    before.trainer.logger.init_args.project = "tabom"
    before.checkpoint.dirpath = "checkpoints"  # where last.ckpt is
    fill_in_directory(config, {})
    assert config == before


@pytest.mark.parametrize(
    ("directory", "expected"),
    [
        ("runs/demo/tabom", ("demo", "tabom")),
        ("runs/evaluate/llada/humaneval", ("evaluate", "llada_humaneval")),
        ("/data/runs/mine", (None, "mine")),
        ("runs/a/runs", ("a", "runs")),
        ("/data/x/y", ("x", "y")),
        ("x/y/z", ("y", "z")),
        ("out", (None, "out")),
    ],
)
def test_group_and_name_in_w_and_b(directory, expected):
    assert group_and_name(directory) == expected


def test_listed_callbacks_take_the_place_of_ours():
    own = [StepProgressBar(), ModelCheckpoint(), LastCheckpoint()]

    def names(verb, *given, has_checkpoints=True):
        return [type(c).__name__ for c in callbacks_of(verb, given, own, has_checkpoints=has_checkpoints)]

    assert names("fit", Callback()) == [
        "Callback", "ValidationMedia", "StepProgressBar", "ModelCheckpoint", "LastCheckpoint",
    ]  # fmt: skip
    assert names("fit", has_checkpoints=False) == ["ValidationMedia", "StepProgressBar"]
    assert names("fit", ModelCheckpoint()) == ["ModelCheckpoint", "ValidationMedia", "StepProgressBar"]
    assert names("fit", LastCheckpoint(), ValidationMedia(), StepProgressBar()) == [
        "LastCheckpoint", "ValidationMedia", "StepProgressBar",
    ]  # fmt: skip
    assert callbacks_of("predict", [TrajectoryWriter("mine")], [TrajectoryWriter()], has_checkpoints=True)[
        0
    ].output_dir == Path("mine")
    assert names("evaluate")[0] == "StepProgressBar"


@pytest.fixture
def parse(tmp_path, monkeypatch):
    """Write files of configuration, parse them with more options, and run nothing."""
    monkeypatch.chdir(tmp_path)

    def parse(*texts, options=()):
        words = []
        for number, text in enumerate(texts):
            path = Path(f"config{number}.yaml")
            path.write_text(text)
            words += ["--config", str(path)]
        cli = run(["fit", *words, *options], trainer_class=ParseOnlyTrainer)
        return cli, cli.config["fit"]

    return parse


def test_the_form_before_run_dir_goes_on_working(parse):
    cli, config = parse(OLD_FORM)
    assert config.run_dir == cli.trainer.default_root_dir == "runs/old"
    logger = config.trainer.logger.init_args
    assert (logger.project, logger.group, logger.name, logger.save_dir) == ("mine", "g", "n", "runs/old/logs")
    own = [c for c in cli.trainer.callbacks if isinstance(c, ModelCheckpoint | LastCheckpoint | StepProgressBar)]
    bar, checkpoint = own
    assert (bar.interval, checkpoint.monitor) == (3.0, "validate/kl")
    assert str(checkpoint.dirpath).endswith("runs/old/kept")
    assert config.data.init_args.batch_size == 32  # not the one of the class that a training has by default

    cli, config = parse(OLD_FORM, options=["--run_dir=runs/new"])
    assert cli.trainer.default_root_dir == "runs/new"
    assert config.trainer.logger.init_args.save_dir == "runs/new/logs"


def test_default_root_dir_is_another_name_of_run_dir(parse):
    named = OLD_FORM.replace("  default_root_dir: runs/old\n", "") + "run_dir: runs/named\n"
    for arguments in (
        {"texts": [named, "trainer: {default_root_dir: runs/x}"]},
        {"texts": [named], "options": ["--trainer.default_root_dir=runs/x"]},
        {"texts": [named], "options": ["--trainer.default_root_dir", "runs/x"]},
        {"texts": [OLD_FORM, "run_dir: runs/x"]},
    ):
        cli, config = parse(*arguments["texts"], options=arguments.get("options", ()))
        assert cli.trainer.default_root_dir == config.run_dir == "runs/x"


def test_the_class_of_model_and_data_is_the_verbs_unless_named(parse):
    content = yaml.safe_load(OLD_FORM)
    flat = yaml.safe_dump(content | {"model": content["model"]["init_args"]})
    cli, config = parse(flat, "model: {interpolation: 0.5}")
    assert config.model.class_path == "tabom.modules.TrainingModule"
    assert config.model.init_args.interpolation == 0.5
    assert config.data.class_path == "tabom.data.PretrainingDataModule"
    assert sum(isinstance(callback, RunRecorder) for callback in cli.trainer.callbacks) == 1
