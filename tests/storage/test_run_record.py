"""What a run says of itself is written as it happens, and read back whole."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch
from helpers import last_checkpoint
from lightning import Callback

from tabom.callbacks import RunRecorder
from tabom.callbacks.run_recorder import points
from tabom.cli.lightning_cli import run
from tabom.errors import TabomError
from tabom.storage.run_record import find_records, read_record
from tabom.trajectories import Manifest

EVERY_STEP = "--trainer.log_every_n_steps=1"
ONE_STEP = ("--trainer.max_steps=1", "--trainer.limit_val_batches=0")


def record_of(cli):
    (record,) = find_records([Path(cli.trainer.default_root_dir)])
    return record


def test_a_training(trained, repository):
    cli, record = trained, record_of(trained)
    assert (record.verb, record.seed, record.state, record.parent, record.wandb) == ("fit", 1, "finished", None, None)
    assert record.config_files == [str(repository / "configs/demo/tabom.yaml")]
    assert record.command[0] == "fit"
    assert record.command[-1] == EVERY_STEP
    assert record.config["model"]["init_args"]["objective"]["init_args"]["margin"] == 0.1
    train = [check for check in record.checks if check.stage == "train"]
    assert [check.step for check in train] == [1, 2, 3, 4, 5, 6]
    assert all({"loss", "reconstruction", "ranking", "order_agreement"} <= check.values.keys() for check in train)
    assert [check.step for check in record.checks if check.stage == "validate"] == [3, 6]
    assert record.last("validate")["kl"] == cli.trainer.callback_metrics["validate/kl"].item() > 0
    assert record.last("test") == {}
    (*_, curves) = record.curves
    assert (curves.stage, curves.step, curves.mask_ratios[0]) == ("validate", 6, 0.1)
    assert curves.curves["unmask_entropy"] == points(cli.model.validation.curves["unmask_entropy"])
    assert record.num_tokens == 6 * 4 * cli.datamodule.table.response_ids.shape[1] + sum(
        4 * (batch.clean_ids.shape[1] - 19) for batch in [next(iter(cli.datamodule.train_dataloader()))] * 6
    )
    assert record.seconds > 0
    assert record.device_hours == pytest.approx(record.seconds / 3600)


def test_a_step_and_a_check_are_noted_once(stage):
    """Not for each batch of an accumulation window, and not for Lightning's trial of the validation."""
    sizes = ("--data.batch_size=2", "--trainer.accumulate_grad_batches=2", "--trainer.num_sanity_val_steps=1")
    record = record_of(stage("fit", "tabom", EVERY_STEP, *sizes, "--trainer.val_check_interval=6"))
    steps = {stage: [check.step for check in record.checks if check.stage == stage] for stage in ("train", "validate")}
    assert steps == {"train": [1, 2, 3, 4, 5, 6], "validate": [3, 6]}


def test_a_test_keeps_its_sample_decodings(stage):
    cli = stage("test", "tabom")
    kept = [(one.prompt, one.response, one.reference, one.is_verified) for one in cli.model.validation.samples]
    read = [(one.prompt, one.response, one.reference, one.is_correct) for one in record_of(cli).samples]
    assert read == kept
    assert len(read) == 4


def test_where_a_curve_has_no_point():
    text = json.dumps(points(torch.tensor([1.5, float("nan"), 0.0])))
    assert text == "[1.5, null, 0.0]"


def test_environment_and_inputs(trained):
    record = record_of(trained)
    environment = record.environment
    assert environment["versions"]["torch"] == torch.__version__
    assert environment["num_cpus"] == os.cpu_count()
    assert environment["num_threads"] == torch.get_num_threads()
    assert environment["git_commit"] is None  # the test's folder is no repository
    origin = Manifest.load(Path(trained.trainer.default_root_dir).parent / "runs/demo/trajectories").origin
    assert record.inputs["trajectories"]["model_fingerprint"] == origin.model_fingerprint
    assert len(record.inputs["trajectories"]["manifest_sha256"]) == 64


def test_commit_and_changes(tmp_path, monkeypatch):
    from tabom.callbacks.environment import _git, environment

    monkeypatch.chdir(tmp_path)
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"):
        monkeypatch.setenv(name, "a@b")
    (tmp_path / "file").write_text("one")
    for words in (["init", "-q"], ["add", "file"], ["commit", "-q", "-m", "one"]):
        assert _git(*words) is not None
    clean = environment(1)
    assert len(clean["git_commit"]) == 40
    assert clean["is_git_dirty"] is False
    (tmp_path / "file").write_text("two")
    assert environment(1)["is_git_dirty"] is True


def test_a_resumed_training_names_its_parent(stage):
    half = stage("fit", "tabom", "--trainer.max_steps=3")
    resumed = stage("fit", "tabom", f"--ckpt_path={last_checkpoint(half)}")
    tested = stage("test", "tabom", f"--ckpt_path={last_checkpoint(resumed)}")
    assert record_of(resumed).parent == record_of(half).run_id != record_of(resumed).run_id
    assert record_of(tested).parent == record_of(resumed).run_id
    assert record_of(tested).verb == "test"
    assert record_of(tested).last("test")["accuracy_1_per_step"] >= 0


def test_a_distillation(stage):
    writer = '[{"class_path": "TrajectoryWriter", "init_args": {"output_dir": "new"}}]'
    cli = stage("predict", "distill", f"--trainer.callbacks={writer}", "--data.num_queries=12")
    record = record_of(cli)
    assert record.last("distill")["trajectories"] == 12
    assert record.inputs == {}


class Stopping(Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_step == 2:
            self.stop()


class Failing(Stopping):
    def stop(self):
        raise ValueError("too hot")


class Signalled(Stopping):
    def stop(self):
        os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("callback", "error", "state", "reason"),
    [
        (Failing, ValueError, "failed", "ValueError: too hot"),
        (
            *(Signalled, SystemExit, "stopped"),
            "stopped by SIGTERM after step 2; --ckpt_path last goes on with out0/checkpoints/last.ckpt",
        ),
    ],
)
def test_how_a_run_ended(stage, callback, error, state, reason):
    with pytest.raises(error):
        stage("fit", "tabom", EVERY_STEP, f"--trainer.callbacks+={__name__}.{callback.__name__}")
    (record,) = find_records([Path("out0")])
    assert (record.state, record.reason) == (state, reason)
    assert len([check for check in record.checks if check.stage == "train"]) in (1, 2)


def test_a_killed_run_is_read_as_far_as_it_came(trained, tmp_path):
    path = tmp_path / "killed.jsonl"
    lines = record_of(trained).path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:3]) + lines[3][:20])
    record = read_record(path)
    assert (record.state, record.seconds, len(record.checks)) == ("running", None, 2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "expected the record of a run, got an empty file"),
        ("{}}\n", ", line 1: expected an object of a run's record, got '{}}' (Extra data: line 1 column 3 (char 2))"),
        ("[]\n", ", line 1: expected an object of a run's record, got '[]'"),
        ('{"kind": "end"}\n', ", line 1: expected kind start, got end"),
        ('{"kind": "start"}\n{"kind": "x"}\n', ", line 2: expected a known kind, got x"),
        ('{"kind": "start"}\n{"kind": "parent"}\n', ", line 2: expected the fields of kind parent, got no key run_id"),
    ],
)
def test_what_is_no_record(tmp_path, content, message):
    path = tmp_path / "run.jsonl"
    path.write_text(content)
    with pytest.raises(TabomError) as caught:
        read_record(path)
    assert str(caught.value).removeprefix(f"{path}").removeprefix(": ") == message


def test_records_are_found_wherever_they_lie(stage, tmp_path):
    first, second = (record_of(stage("fit", "sft_sd", f"--run_dir=all/{name}/run", *ONE_STEP)) for name in ("b", "a"))
    assert find_records([tmp_path / "all", first.path]) == [first, second]


def test_nothing_is_found(tmp_path):
    with pytest.raises(TabomError, match=r"expected records/\*\.jsonl of at least one run in it, found none$"):
        find_records([tmp_path])
    with pytest.raises(TabomError, match=r"expected a run's directory or record, found no such file$"):
        find_records([tmp_path / "none"])


def test_run_dir(stage, tmp_path):
    """All that a run writes is in it, and the recorded configuration replays in another one."""
    cli = stage("fit", "tabom", "--run_dir=elsewhere")
    assert cli.trainer.default_root_dir == "elsewhere"
    (best,) = (tmp_path / "elsewhere/checkpoints").glob("epoch*.ckpt")
    assert (tmp_path / "elsewhere/checkpoints/last.ckpt").is_file()
    assert not (tmp_path / "out0").exists()
    replayed = run(["fit", "--config", "elsewhere/tabom_config.yaml", "--run_dir=replayed"])
    assert replayed.trainer.default_root_dir == "replayed"
    assert [path.name for path in (tmp_path / "replayed/checkpoints").glob("epoch*.ckpt")] == [best.name]


def test_w_and_b_holds_what_the_record_holds(stage, tmp_path):
    logger = ("--trainer.logger=lightning.pytorch.loggers.WandbLogger", "--trainer.logger.offline=true")
    cli = stage("fit", "tabom", *logger, f"--trainer.logger.save_dir={tmp_path}/logs", "--trainer.logger.group=g")
    record = record_of(cli)
    (recorder,) = (callback for callback in cli.trainer.callbacks if isinstance(callback, RunRecorder))
    config = recorder._wandb_runs[0].config
    assert json.loads(json.dumps(dict(config["run"]))) == {
        "environment": record.environment, "seed": record.seed, "inputs": record.inputs,
    }  # fmt: skip
    assert record.wandb["id"] == record.run_id
    assert (record.wandb["group"], record.wandb["sweep_id"]) == ("g", None)
    assert list(Path(record.wandb["directory"]).glob(f"run-{record.run_id}.wandb"))
