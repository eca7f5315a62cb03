"""Which run belongs to which method, and which count."""

import pytest
from records import ENVIRONMENT, check, write_record

from tabom.errors import TabomError
from tabom.reporting.results import collect
from tabom.storage.run_record import find_records

MARGIN = "model.objective.margin"


@pytest.fixture
def write(tmp_path):
    """Write a run that measured an accuracy; ``accuracy=None``: nothing."""

    def call(run_id, verb="test", accuracy=0.5, kl=0.1, **changes):
        stage = "validate" if verb == "fit" else verb
        lines = [] if accuracy is None else [check(stage, accuracy_1_per_step=accuracy, kl=kl)]
        write_record(tmp_path / run_id, verb, run_id, lines=lines, **changes)

    return call


@pytest.fixture
def read(tmp_path):
    return lambda stage=None: collect(find_records([tmp_path]), stage)


def roles(results):
    return {path.parents[1].name: role for path, role in results.roles.items()}


def labels(results):
    return {path.parents[1].name: label for path, label in results.labels.items()}


def test_labels_are_the_stems_of_the_configs(write, read):
    write("a", config_files=["configs/demo/tabom.yaml", "configs/trainer/cpu.yaml"], ckpt_path="x")
    write("b", config_files=["configs/demo/tabom.yaml", "configs/ablation/window_4.yaml"], ckpt_path="x")
    write("c", config_files=[], ckpt_path="x")
    write("d")
    assert labels(read()) == {"a": "tabom", "b": "tabom + window_4", "c": "no config", "d": "base"}


def test_stems_that_two_directories_share_have_the_directory_before_them(write, read):
    write("a", config_files=["/there/configs/demo/tabom.yaml"], ckpt_path="x")
    write("b", config_files=["configs/llada_prm12k/tabom.yaml"], ckpt_path="x")
    write("c", config_files=["configs/demo/sft_sd.yaml"], ckpt_path="x")
    write("d", config_files=["configs/demo/tabom.yaml"], ckpt_path="x")
    assert labels(read()) == {"a": "demo/tabom", "b": "llada_prm12k/tabom", "c": "sft_sd", "d": "demo/tabom"}


def test_a_test_belongs_to_its_training(write, read):
    """Label, seed and learning rate are the training's, interpolation and evaluation its own."""
    write("f", "fit", config_files=["configs/demo/sft_sd.yaml"], seed=7, lr=3e-4)
    write("t", parent="f", seed=1, lr=1e-3, interpolation=0.5, ckpt_path="x")
    (model,) = read().models
    assert (model.label, model.seed, model.rate, model.interpolation) == ("sft_sd", 7, 3e-4, 0.5)
    assert roles(read()) == {"f": "training", "t": "counted"}
    (row,) = read().rows().to_dict("records")
    numbers = {"accuracy_1_per_step": 0.5, "kl": 0.1}
    assert row == {"method": "SFT-SD x 0.5", "seed": 7, "learning_rate": 3e-4, **numbers}


def test_what_varies_within_a_label_is_a_setting(write, read):
    """Margin does; seed, learning rate and paths are none, and the window of the other label is its own affair."""
    write("a", objective={"margin": 0.1}, seed=1, lr=1e-3, ckpt_path="x")
    write("b", objective={"margin": 0.2}, seed=2, lr=2e-3, ckpt_path="y")
    write("c", objective={"window": 4}, config_files=["sft_sd.yaml"], ckpt_path="x")
    results = read()
    assert [model.settings for model in results.models] == [{MARGIN: 0.1}, {MARGIN: 0.2}, {}]
    assert results.methods == ["TABOM, margin 0.1", "TABOM, margin 0.2", "SFT-SD"]
    assert results.settings("tabom", "kl") == [
        ({MARGIN: 0.1, "model.optimizer.lr": 1e-3}, 0.1, None),
        ({MARGIN: 0.2, "model.optimizer.lr": 2e-3}, 0.1, None),
    ]
    assert results.settings("sft_sd", "kl") == []


def test_where_the_rows_of_a_replay_lie_is_no_setting(write, read):
    """Each base writes its own; how many of them go into a step is one."""
    write("a", replay={"batch_size": 24, "trajectories": "runs/1/text"}, ckpt_path="x")
    write("b", replay={"batch_size": 24, "trajectories": "runs/2/text"}, seed=2, ckpt_path="x")
    assert [model.settings for model in read().models] == [{}, {}]
    write("c", replay={"batch_size": 48, "trajectories": "runs/2/text"}, seed=3, ckpt_path="x")
    assert [model.settings for model in read().models] == [{"data.replay.batch_size": size} for size in (24, 24, 48)]


def test_a_class_and_a_missing_value_as_settings(write, read):
    write("a", objective={"ranking": {"class_path": "tabom.objectives.Hinge"}}, ckpt_path="x")
    write("b", ckpt_path="x")
    assert read().methods == ["TABOM, ranking Hinge", "TABOM, ranking None"]


def test_the_test_is_read_where_there_is_one_and_validation_else(write, read):
    write("f", "fit", accuracy=0.3)
    assert (read().stage, [model.values["accuracy_1_per_step"] for model in read().models]) == ("validate", [0.3])
    write("t", accuracy=0.4, parent="f", ckpt_path="x")
    assert (read().stage, [model.values["accuracy_1_per_step"] for model in read().models]) == ("test", [0.4])
    assert read("validate").models[0].values["accuracy_1_per_step"] == 0.3


def test_what_does_not_count(write, read):
    write("a", "fit", state="running")
    write("b", "fit", state="stopped")
    write("c", "fit", parent="b")
    write("d", parent="a", ckpt_path="x")
    write("e", parent="b", ckpt_path="x")
    write("f", parent="c", ckpt_path="x", accuracy=0.7)
    write("g", "fit", config_files=["sft_sd.yaml"])
    write("h", "predict", accuracy=None, config_files=["distill.yaml"])
    results = read()
    assert roles(results) == {
        "a": "unfinished, not counted",
        "b": "resumed by c",
        "c": "training",
        "d": "its training is unfinished, not counted",
        "e": "its training was resumed by c",
        "f": "counted",
        "g": "no results of test, not counted",
        "h": "trajectories",
    }
    assert results.num_left_out == 5
    assert [training.run_id for training in results.models[0].trainings] == ["b", "c"]


def test_a_run_that_goes_on_under_its_own_id_is_one_training(write, read, tmp_path):
    write("a", "fit", accuracy=0.1, state="stopped")
    lines = [check("validate", accuracy_1_per_step=0.2)]
    write_record(tmp_path / "again", "fit", "a", lines=lines, parent="a")
    assert roles(read()) == {"a": "resumed by a", "again": "counted"}


def test_the_best_checkpoint_of_before_an_interruption(write, read, tmp_path):
    """It is one of the whole training, which went on in the same directory; a test from before it did is not."""
    place = tmp_path / "place"
    lines = [check("validate", accuracy_1_per_step=0.1)]
    write_record(place, "fit", "a", lines=lines, state="stopped", seed=5)
    write("early", parent="a", ckpt_path="x")
    write_record(place, "fit", "b", lines=lines, parent="a", seed=5)
    write_record(place, "fit", "c", lines=lines, parent="b", seed=5)
    write("late", parent="a", ckpt_path="x")
    results = read()
    roles = {path.stem.rpartition("-")[2]: role for path, role in results.roles.items()}
    assert roles == {
        "a": "resumed by c",
        "early": "its training was resumed by c",
        "b": "resumed by c",
        "c": "training",
        "late": "counted",
    }
    assert [training.run_id for training in results.models[0].trainings] == ["a", "b", "c"]


def test_of_runs_that_are_alike_the_latest_counts(write, read):
    write("a", accuracy=0.1, ckpt_path="x")
    write("b", accuracy=0.2, ckpt_path="x")
    write("c", accuracy=0.3, ckpt_path="x", seed=2)
    results = read()
    assert roles(results) == {"a": "repeated by b", "b": "counted", "c": "counted"}
    assert [model.values["accuracy_1_per_step"] for model in results.models] == [0.2, 0.3]


def test_tests_of_trainings_that_were_not_given_are_kept_apart_and_warned_of(write, read):
    write("a", parent="x", ckpt_path="x")
    write("b", parent="y", ckpt_path="y")
    assert len(read().models) == 2
    assert read().warnings() == [
        "2 of 2 runs measured a checkpoint whose training is not among the runs: their seed, learning rate and "
        "settings are those that the measurement was given."
    ]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"trainer": {"limit_test_batches": 1}}, "limit_test_batches 1"),
        ({"trainer": {"limit_test_batches": 0.5}}, "limit_test_batches 0.5"),
        ({"trainer": {"fast_dev_run": True}}, "fast_dev_run True"),
        ({"validation": {"num_test_prompts": 100}}, "num_test_prompts 100"),
        ({"validation": {"mask_seed": 1}}, "mask_seed 1"),
    ],
)
def test_a_smaller_measurement_takes_no_place(write, read, changes, reason):
    """The base was tested, then tried in small: it is neither replaced nor pooled, and that is said."""
    whole = {"trainer": {"limit_test_batches": 1.0, "fast_dev_run": False}, "validation": {"num_test_prompts": 300}}
    write("a", accuracy=0.6, **whole)
    write("b", accuracy=0.9, ckpt_path="x", **whole)
    small = {name: {**values, **changes.get(name, {})} for name, values in whole.items()}
    write("c", accuracy=0.1, **small)
    results = read()
    assert roles(results) == {"a": "base", "b": "counted", "c": f"measured on {reason}, not counted"}
    assert [model.values["accuracy_1_per_step"] for model in results.base] == [0.6]
    assert f"Left out, since 1 run was measured on {reason}, not counted." in results.warnings()


def test_of_equally_many_those_without_a_limit_count(write, read):
    write("a", accuracy=0.6)
    write("b", accuracy=0.1, trainer={"limit_test_batches": 1})
    assert roles(read()) == {"a": "base", "b": "measured on limit_test_batches 1, not counted"}


def test_a_limit_of_validation_is_none_of_a_test(write, read):
    write("a", accuracy=0.6)
    write("b", accuracy=0.7, ckpt_path="x", trainer={"limit_val_batches": 1})
    assert roles(read()) == {"a": "base", "b": "counted"}


def test_of_several_tasks_the_one_with_the_most_runs_counts(write, read):
    write("a", ckpt_path="x", seed=3, test_file="public.csv")
    write("b", ckpt_path="x", seed=1)
    write("c", ckpt_path="x", seed=2)
    assert roles(read()) == {"a": "measured on Sudoku4x4 public.csv, not counted", "b": "counted", "c": "counted"}
    assert [model.record.run_id for model in read().models] == ["b", "c"]


def test_a_model_from_scratch_has_no_base_model_to_be_warned_of(write, read):
    write("a", "fit", config_files=["pretrain.yaml"], backbone={"class_path": "TinyTransformer"}, inputs={})
    write("b", "fit")
    assert read().base_models == ["runs/demo/base"]
    assert read().warnings() == []


def test_values_that_are_no_numbers_are_left_out(write, read):
    write("a", kl=float("nan"), ckpt_path="x")
    assert read().models[0].values == {"accuracy_1_per_step": 0.5}


def test_interpolated_models_make_a_curve_that_ends_at_the_trained_one(write, read):
    write("f", "fit", lr=2e-3)
    write("a", parent="f", accuracy=0.6, ckpt_path="x")
    write("b", parent="f", accuracy=0.4, interpolation=0.5, ckpt_path="x")
    towards = "TABOM (lr 0.002) towards the base"
    points = read().on_frontier()[["method", "learning_rate", "accuracy_1_per_step"]]
    assert list(points.itertuples(index=False, name=None)) == [
        ("TABOM", 2e-3, 0.6),
        (towards, 1.0, 0.6),
        (towards, 0.5, 0.4),
    ]


def test_shown_at_the_learning_rate_with_the_highest_mean(write, read):
    write("z", accuracy=0.1)
    for seed, rate, accuracy in ((1, 2e-3, 0.6), (1, 1e-3, 0.9), (2, 1e-3, 0.1)):
        write(f"{seed}-{rate}", seed=seed, lr=rate, accuracy=accuracy, ckpt_path="x")
    write("s", config_files=["sft_sd.yaml"], ckpt_path="x")
    write("2-0.002", seed=2, lr=2e-3, accuracy=0.7, ckpt_path="x")
    assert [model.rate for model in read().models] == [1e-3, 1e-3, 2e-3, 2e-3, 1e-3]
    groups = [(method, len(models)) for method, models in read().shown("accuracy_1_per_step").items()]
    assert groups == [("TABOM (lr 0.002)", 2), ("SFT-SD", 1), ("base", 1)]


def test_warnings(write, read):
    other = {"class_path": "PretrainedBackbone", "init_args": {"path": "other"}}
    write("a", ckpt_path="x", environment=ENVIRONMENT | {"git_commit": None, "is_git_dirty": None})
    write("b", ckpt_path="x", seed=2, environment=ENVIRONMENT | {"is_git_dirty": True})
    write("c", ckpt_path="x", seed=3, backbone=other, inputs={"trajectories": {"manifest_sha256": "b" * 64}})
    assert read().warnings() == [
        "The runs differ in their base model: runs/demo/base (2), other (1).",
        "The runs differ in their trajectories (SHA-256 of the manifest): feedfeedfeed (2), bbbbbbbbbbbb (1).",
        "The runs differ in their commit: none (1), 0123456789 (2).",
        "1 of 3 runs were made with uncommitted changes.",
    ]


def test_nothing_was_measured(write, read):
    write("a", "fit", state="running")
    with pytest.raises(TabomError, match=r"^validate: expected a finished run with results of this stage, found none$"):
        read()
    write("b", "fit", accuracy=None)
    with pytest.raises(TabomError, match=r"^test: expected a finished run with results of this stage, found none$"):
        read("test")


def test_settings_have_the_names_of_the_command_line_whatever_wrote_the_record(write, read):
    """With the levels ``class_path`` and ``init_args`` of a resolved configuration, or without."""
    write("a", objective={"margin": 0.1}, ckpt_path="x")
    short = {
        "model": {"backbone": {"path": "runs/demo/base"}, "objective": {"window": 8, "margin": 0.2}, "optimizer": {}},
        "data": {"task": "Sudoku4x4"},
    }
    short["model"] |= {"optimizer": {"lr": 2e-3}, "interpolation": 0.5}
    write("b", config=short | {"ckpt_path": "y"}, seed=2)
    results = read()
    assert [(model.settings[MARGIN], model.rate, model.interpolation) for model in results.models] == [
        (0.1, 1e-3, 1.0),
        (0.2, 2e-3, 0.5),
    ]
    assert results.base_models == ["runs/demo/base"]
