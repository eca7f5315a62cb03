"""Command lines and configs that are wrong in one place end with one sentence, and leave nothing behind."""

import functools
import os
import random
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from helpers import SMALL, parser_of, write_trajectories
from jsonargparse import Namespace

from tabom.cli.main import main

FEW = ["--trainer.logger=false", "--trainer.enable_progress_bar=false", "--run_dir=out"]
TRAINING = [*SMALL, "--trainer.max_steps=1", "--trainer.limit_val_batches=1", *FEW]
VERBS = {
    "fit": ("tabom", TRAINING),
    "validate": ("sft_gt", TRAINING),
    "test": ("tabom", [*TRAINING, "--trainer.limit_test_batches=1"]),
    "predict": ("distill", [*FEW, "--data.num_queries=2", "--writer.output_dir=out/trajectories"]),
    "evaluate": ("evaluate", [*FEW, "--data.benchmark.num_examples=2"]),
    "export": ("tabom", [*FEW, "--output_dir=merged"]),
}
"""For each verb a config of the demo, and options that make it short."""
VALUES = (
    *(None, True, -1, 0, 1, 1.5, -0.5, "abc", "", "null", float("nan"), [1], ["a"], [], {"a": 1}, {}),
    *("none/such", "/proc/x", "configs/demo/tabom.yaml", "torch.optim.Muon", "StepProgressBar"),
)


@pytest.fixture(scope="module")
def workplace(tmp_path_factory, checkpoint, tokenizer, repository):
    """A folder with the demo's configs, base and trajectories."""
    path = tmp_path_factory.mktemp("workplace")
    shutil.copytree(checkpoint, path / "runs/demo/base")
    write_trajectories(path / "runs/demo/trajectories", tokenizer)
    shutil.copytree(repository / "configs", path / "configs")
    (path / "a_file").touch()
    return path


def ending(words):
    """Exit code of a command, and the files that it left, which are removed."""
    before, environment, code = set(Path().rglob("*")), dict(os.environ), 0
    try:
        main(words)
    except SystemExit as end:
        code = end.code
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.manual_seed(0)
        left = sorted(set(Path().rglob("*")) - before)
        for path in left:
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return code, left


@pytest.fixture
def end_of(workplace, monkeypatch, capsys):
    """Run a command; returns its exit code, its sentences, and the files that it left."""
    monkeypatch.chdir(workplace)

    def call(words):
        code, left = ending(words)
        lines = capsys.readouterr().err.splitlines()
        return code, [line.removeprefix("tabom: error: ") for line in lines if line.startswith("tabom: error: ")], left

    return call


def command(verb, *options):
    config, few = VERBS[verb]
    return [verb, "--config", f"configs/demo/{config}.yaml", *few, *options]


@pytest.mark.parametrize(
    ("verb", "option", "message"),
    [
        # What torch, Lightning and the system refuse.
        ("fit", "--model.optimizer.lr=-1", "model.optimizer (AdamW): Invalid learning rate: -1.0"),
        ("fit", "--model.optimizer.betas=[2, 0.9]", "model.optimizer (AdamW): Invalid beta parameter at index 0: 2"),
        ("fit", "--model.lr_scheduler=torch.optim.lr_scheduler.StepLR", "model.lr_scheduler: the following arguments"),
        ("fit", "--trainer.accelerator=abc", "trainer.accelerator: You selected an invalid accelerator name: `acc"),
        ("predict", "--trainer.strategy=abc", "trainer.strategy: You selected an invalid strategy name: `strategy="),
        ("test", "--trainer.devices=0", "trainer.devices: `Trainer(devices='0')` value is not a valid input using"),
        ("fit", "--trainer.max_time=abc", "trainer.max_time: `Timer(duration='abc')` is not a valid duration. Ex"),
        ("fit", "--checkpoint.mode=abc", "checkpoint (ModelCheckpoint): `mode` can be "),
        ("fit", "--trainer.profiler=abc", "trainer.profiler: When passing string value for the `profiler` parameter"),
        # What Lightning takes, or fails at later.
        ("fit", "--seed_everything=4294967296", "seed_everything: expected a number from 0 to 4294967295, got 429"),
        ("fit", "--trainer.accumulate_grad_batches=0", "trainer.accumulate_grad_batches: expected at least 1, got 0"),
        ("fit", "--trainer.limit_train_batches=0", "trainer.limit_train_batches: expected more than 0, got 0"),
        ("fit", "--trainer.gradient_clip_val=-1", "trainer.gradient_clip_val: expected at least 0, got -1"),
        ("fit", "--trainer.gradient_clip_val=.nan", "trainer.gradient_clip_val: expected at least 0, got nan"),
        ("fit", "--trainer.max_steps=-2", "trainer.max_steps: expected at least 1, or -1 for no limit, got -2"),
        ("fit", "--trainer.val_check_interval=0", "trainer.val_check_interval: expected more than 0, got 0"),
        ("test", "--trainer.limit_test_batches=0", "trainer.limit_test_batches: expected more than 0, got 0"),
        ("predict", "--trainer.limit_predict_batches=0.0", "trainer.limit_predict_batches: expected more than 0, got"),
        ("predict", "--trainer.precision=64", "trainer.precision: expected 32-true or bf16-mixed, got 64-true"),
        # Options that would do nothing.
        ("predict", "--trainer.max_steps=5", "trainer.max_steps: expected nothing, since predict has no use for it, "),
        ("predict", "--trainer.max_time=00:01:00:00", "trainer.max_time: expected nothing, since predict has no use"),
        ("evaluate", "--trainer.limit_predict_batches=1", "trainer.limit_predict_batches: expected nothing, since ev"),
        ("evaluate", "--trainer.gradient_clip_val=1", "trainer.gradient_clip_val: expected nothing, since evaluate h"),
        ("predict", "--return_predictions=true", "return_predictions: expected false, since shards hold them, got tr"),
        # Directories to write to.
        ("fit", "--run_dir=", "run_dir: expected a directory, got an empty name"),
        ("fit", "--run_dir=a_file", "run_dir: a_file: expected a directory that can be made, got a file, "),
        ("predict", "--writer.output_dir=a_file/x", "writer.output_dir: a_file/x: expected a directory that can be "),
        ("fit", "--checkpoint.dirpath=a_file", "checkpoint.dirpath: a_file: expected a directory that can be made, "),
        ("export", "--output_dir=a_file/x", "output_dir: a_file/x: expected a directory that can be made, got a file"),
        ("fit", "--run_dir=/proc/x", "run_dir: /proc/x: No such file or directory"),
        # Values of the wrong kind.
        ("fit", "--model.optimizer.lr=abc", "model.optimizer.lr: expected a number, got abc"),
        ("fit", "--model.optimizer.foreach=3", "model.optimizer.foreach: expected true or false, got 3"),
        ("fit", "--model.lr_scheduler.num_warmup_steps=x", "model.lr_scheduler.num_warmup_steps: expected a whole num"),
        ("fit", "--model.objective.ranking=true", "model.objective.ranking: expected options by name"),
        ("fit", "--checkpoint=1.5", "checkpoint: expected options by name"),
        ("fit", "--model.objective.window_unit=words", "model.objective.window_unit: expected tokens or steps, got wo"),
        ("evaluate", "--model.sampler=none.Such", "model.sampler: "),
        # Null, where it does not belong.
        ("fit", "--model.optimizer.lr=null", "model.optimizer.lr: expected a number or Tensor, got null"),
        ("fit", "--data.validation=null", "data.validation: expected ValidationSizes, got null"),
        ("fit", "--model.objective.margin=null", "model.objective.margin: expected a number, got null"),
    ],
)
def test_one_sentence(end_of, verb, option, message):
    code, sentences, left = end_of(command(verb, option))
    assert (code in (1, 2), [sentence[: len(message)] for sentence in sentences], left) == (True, [message], [])


@pytest.mark.parametrize("logger", ["false", "lightning.pytorch.loggers.WandbLogger"])
@pytest.mark.parametrize(
    ("verb", "option"),
    [
        ("fit", "--model.backbone.path=nobody/nothing"),
        ("fit", "--data.response_length=18"),
        ("fit", "--model.objective.window=20"),
        ("test", "--model.backbone.adapter=nobody/nothing"),
        ("predict", "--model.backbone.path=nobody/nothing"),
        ("evaluate", "--data.tokenizer=nobody/nothing"),
    ],
)
def test_what_is_found_as_the_run_begins_leaves_nothing_behind(end_of, verb, option, logger):
    options = [option, f"--trainer.logger={logger}", *["--trainer.logger.offline=true"] * (logger != "false")]
    code, sentences, left = end_of(command(verb, *options))
    assert (code, len(sentences), left) == (1, 1, [])


def test_a_refused_run_leaves_the_directory_of_an_earlier_one_as_it_was(end_of, workplace):
    out = workplace / "out"
    (out / "records").mkdir(parents=True)
    (out / "tabom_config.yaml").write_text("before")
    try:
        assert end_of(command("fit", "--data.response_length=18"))[::2] == (1, [])
        assert (out / "tabom_config.yaml").read_text() == "before"
    finally:
        shutil.rmtree(out)


def keys_of(node, key=""):
    """Every option of a parsed configuration, classes and groups included."""
    content = vars(node) if isinstance(node, Namespace) else node
    if key:
        yield key
    if isinstance(content, dict):
        for name, value in content.items():
            yield from keys_of(value, f"{key}.{name}" if key else name)


@functools.cache
def keys_of_command(verb):
    """Every option of the right command of a verb."""
    parsed = parser_of(verb).parse_args(command(verb)[1:])
    return [key for key in keys_of(parsed) if not key.startswith("config")]


def wrong_command(generator, verb):
    """Words with one fault, by an option or in a file: another value, or a misspelt name."""
    words = command(verb)
    key = generator.choice(keys_of_command(verb))
    value = generator.choice(VALUES)
    if generator.random() < 0.15:
        key = f"{key[:-1]}x"
    if generator.random() < 0.5:
        text = yaml.safe_dump(value, default_flow_style=True).partition("\n...")[0].strip()
        return [*words, f"--{key}={value if isinstance(value, str) else text}"]
    content = value
    for name in reversed(key.split(".")):
        content = {name: content}
    Path("further.yaml").write_text(yaml.safe_dump(content))
    return [*words, "--config", "further.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(100))
def test_any_wrong_value(end_of, workplace, seed):
    """Wrong types, null, out of range, misspelt: refused in one sentence, or harmless."""
    generator = random.Random(seed)
    words = wrong_command(generator, generator.choice(list(VERBS)))
    code, sentences, left = end_of(words)
    assert code in (0, 1, 2), words
    if code:
        assert (len(sentences), left) == (1, []), words
