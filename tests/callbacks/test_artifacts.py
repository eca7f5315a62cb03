"""Where a model comes from, as W&B's offline directories hold it."""

import json
from pathlib import Path

import pytest
from wandb_records import records

from tabom.errors import TabomError
from tabom.trajectories import Manifest

WANDB = ("--trainer.logger=lightning.pytorch.loggers.WandbLogger", "--trainer.logger.offline=true")
LAST = {"dirpath": "checkpoints", "filename": "last", "every_n_train_steps": 1, "enable_version_counter": False}
BEST = {"dirpath": "checkpoints", "filename": "best", "monitor": "validate/kl"}
WRITER = {"class_path": "TrajectoryWriter", "init_args": {"output_dir": "new"}}


def callbacks(*others, **options):
    listed = [*others, {"class_path": "Artifacts", "init_args": options}]
    return f"--trainer.callbacks={json.dumps(listed)}"


def keeper(**init_args):
    return {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": init_args}


@pytest.fixture
def artifacts(stage, tmp_path):
    """Run a verb under W&B; returns its artifacts as (name, type, is used), each with its record, and the config."""

    def call(verb, config, *options):
        cli = stage(verb, config, *WANDB, f"--trainer.logger.save_dir={tmp_path}", *options)
        (run_file,) = tmp_path.glob(f"wandb/offline-run-*/run-{cli.trainer.logger.version}.wandb")
        found = [record["artifact"] for record in records(run_file, "artifact")]
        found = [artifact for artifact in found if artifact["type"] != "run_table"]  # W&B's own, of a table
        by_name = {(a["name"], a["type"], a.get("use_after_commit", False)): a for a in found}
        assert len(by_name) == len(found)
        return by_name, cli.trainer.logger.experiment.config.as_dict()

    return call


def contents(artifact):
    return {entry["path"]: entry for entry in artifact["manifest"]["contents"]}


QUICK = ("--trainer.max_steps=1", "--trainer.limit_val_batches=0", "--trainer.limit_test_batches=1")


def test_from_queries_to_the_evaluation(artifacts):
    """Every run makes, or uses, what another one uses or made: the same name and the same digest."""
    small = ("--data.num_queries=6", "--data.queries_per_shard=3")
    made, config = artifacts("predict", "distill", callbacks(WRITER), *small)
    manifest = Manifest.load(Path("new"))
    model, queries = manifest.origin.model_fingerprint[:8], manifest.origin.query_fingerprint[:8]
    name = f"trajectories-{model}-{queries}"
    assert made.keys() == {(f"queries-{queries}", "queries", True), (name, "trajectories", False)}
    used = made[f"queries-{queries}", "queries", True]
    assert config["used_artifacts"] == {f"queries-{queries}": used["digest"]}
    trajectories = made[name, "trajectories", False]
    metadata = json.loads(trajectories["metadata"])
    assert (metadata["num_queries"], metadata["num_rows"]) == (6, 6)
    assert metadata["settings"]["num_queries"] == 6
    files = contents(trajectories)
    assert files.keys() == {"manifest.json", *(shard.file for shard in manifest.shards)}
    assert files["manifest.json"]["ref"] == f"file://{Path('new/manifest.json').resolve()}"

    reads = ("--data.path=new", "--data.only_verified=false")
    checkpoint = (callbacks(keeper(**LAST)), *QUICK)
    trained, config = artifacts("fit", "sft_sd", *reads, *checkpoint)
    (output,) = (key for key in trained if key[1] == "model")
    assert trained.keys() == {(name, "trajectories", True), output}
    assert trained[name, "trajectories", True]["digest"] == trajectories["digest"]
    assert output == (f"model-{trained[output]['run_id']}", "model", False)
    assert set(trained[output]["aliases"]) == {"last", "latest"}
    assert contents(trained[output])["last.ckpt"]["ref"] == f"file://{Path('checkpoints/last.ckpt').resolve()}"

    tested, config = artifacts("test", "sft_sd", *reads, *checkpoint, "--ckpt_path=checkpoints/last.ckpt")
    assert tested.keys() == {(name, "trajectories", True), (output[0], "model", True)}
    assert tested[output[0], "model", True]["digest"] == trained[output]["digest"]
    assert config["used_artifacts"] == {name: trajectories["digest"], output[0]: trained[output]["digest"]}


def test_files_that_are_sent_are_not_copied_before(artifacts):
    best = callbacks(keeper(**LAST), keeper(**BEST), checkpoints="best", trajectories=False, upload=True)
    made, config = artifacts("fit", "sft_sd", best, "--trainer.max_steps=1", "--trainer.val_check_interval=1")
    ((key, artifact),) = made.items()
    assert key == (f"model-{artifact['run_id']}", "model", False)
    assert set(artifact["aliases"]) == {"best", "latest"}
    (entry,) = artifact["manifest"]["contents"]
    assert (entry["path"], entry["local_path"]) == ("best.ckpt", str(Path("checkpoints/best.ckpt").resolve()))
    assert "ref" not in entry
    assert "used_artifacts" not in config


def test_no_artifacts_are_wanted(artifacts):
    none = callbacks(keeper(**LAST), checkpoints="none", trajectories=False)
    made, _ = artifacts("fit", "sft_sd", none, *QUICK)
    assert made == {}


def test_without_wandb_nothing_happens(stage):
    stage("fit", "sft_sd", callbacks(keeper(**LAST)), *QUICK)
    assert Path("checkpoints/last.ckpt").is_file()


@pytest.mark.parametrize(
    ("wanted", "there", "expected"),
    [
        ("best", LAST, "a ModelCheckpoint with a monitor"),
        ("last", BEST, "LastCheckpoint or a ModelCheckpoint without a monitor"),
    ],
)
def test_a_checkpoint_that_nobody_writes(stage, wanted, there, expected):
    message = f"^Artifacts, checkpoints {wanted}: expected {expected} in trainer.callbacks, got none$"
    with pytest.raises(TabomError, match=message):
        stage("fit", "sft_sd", callbacks(keeper(**there), checkpoints=wanted))
