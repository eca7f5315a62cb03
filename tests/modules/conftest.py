import itertools
import shutil

import pytest

from tabom.lightning_cli import run


@pytest.fixture
def stage(repository, tmp_path, monkeypatch, checkpoint, make_trajectories):
    """Run a demo config in a temporary folder, small enough for a test; later options win."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(checkpoint, tmp_path / "runs/demo/base")
    make_trajectories("runs/demo/trajectories")
    numbers = itertools.count()

    def call(verb, config, *options):
        small = [
            "--trainer.logger=false",
            f"--trainer.default_root_dir=out{next(numbers)}",
            "--trainer.enable_model_summary=false",
            "--data.init_args.eval_batch_size=8",
        ]
        if verb != "predict":
            small += [
                "--data.init_args.batch_size=4",
                "--data.init_args.num_validation_prompts=4",
                "--data.init_args.num_test_prompts=4",
                "--data.init_args.num_base_examples=6",
                "--trainer.max_steps=6",
                "--trainer.val_check_interval=3",
                "--model.init_args.lr_scheduler.init_args.num_warmup_steps=2",
                "--model.init_args.lr_scheduler.init_args.num_training_steps=6",
            ]
        path = repository / "configs" / "demo" / f"{config}.yaml"
        return run([verb, "--config", str(path), *small, *options])

    return call
