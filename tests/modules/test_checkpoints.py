"""What defines an adapter is in the checkpoint, and compared; weights of another model are refused in one sentence."""

import json

import pytest
import torch
from helpers import TINY, last_checkpoint

from tabom.errors import TabomError

# Lightning warns that weights which it averages cannot be sharded
pytestmark = pytest.mark.filterwarnings("ignore:You're using the WeightAveraging callback:UserWarning")
SHORT = ("--trainer.max_steps=3", "--trainer.limit_val_batches=0", "--model.lr_scheduler.num_training_steps=9")
CHECKPOINT = {"filename": "last", "enable_version_counter": False, "every_n_train_steps": 1, "dirpath": "saved"}
SAVED = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": CHECKPOINT}


def lora(**changes):
    return f"--model.backbone.lora={json.dumps({'r': 2, 'alpha': 8, 'target_modules': ['q_proj'], **changes})}"


def fit(stage, *options, callbacks=()):
    return stage("fit", "tabom", *SHORT, f"--trainer.callbacks={json.dumps([SAVED, *callbacks])}", *options)


@pytest.fixture
def adapter(stage):
    """The checkpoint of a trained adapter."""
    fit(stage, lora())
    return "--ckpt_path=saved/last.ckpt"


OTHERS = {
    "alpha": (lora(alpha=32), r"^lora\.alpha: expected 8, which the checkpoint was trained with, got 32$"),
    "rank": (lora(r=4), r"^lora\.r: expected 2, which the checkpoint was trained with, got 4$"),
    "modules": (
        lora(target_modules=["v_proj"]),
        "^ckpt_path: expected the weights of the configured adapter, differing",
    ),
    "none": ("--model.interpolation=1", "^ckpt_path: expected the settings of its adapter in the configuration"),
}


def test_what_defines_an_adapter_is_compared(stage, adapter):
    """By all who read a checkpoint: a training that is resumed, tests, exports."""
    for name, (other, message) in OTHERS.items():
        with pytest.raises(TabomError, match=message):
            stage("export", "tabom", adapter, other, f"--output_dir={name}")
    for verb, *options in (("fit", *SHORT), ("test",)):
        with pytest.raises(TabomError, match=OTHERS["alpha"][1]):
            stage(verb, "tabom", adapter, OTHERS["alpha"][0], *options)
    stage("export", "tabom", adapter, lora(dropout=0.5), "--output_dir=exported")  # does not define it


def test_the_scaling_by_the_root_of_the_rank_is_compared(stage, adapter, tmp_path):
    """Only an adapter that plain peft wrote may have it."""
    stage("export", "tabom", adapter, lora(), "--output_dir=exported", "--kind=adapter")
    file = tmp_path / "exported/adapter_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "use_rslora": True}))
    with pytest.raises(TabomError, match=r"^lora\.use_rslora: expected False, which the checkpoint was trained with"):
        stage("export", "tabom", adapter, "--model.backbone.adapter=exported", "--output_dir=other")


def test_a_checkpoint_of_an_earlier_version_is_still_read(stage, adapter, caplog, tmp_path):
    path = tmp_path / "saved/last.ckpt"
    content = torch.load(path, weights_only=True)
    del content["adapter_settings"]
    torch.save(content, path)
    stage("export", "tabom", adapter, lora(), "--output_dir=exported")
    assert "does not say which alpha its adapter was trained with" in caplog.text
    with pytest.raises(TabomError, match=r"lora_A.default.weight: expected shape \[4, 16\].*got \[2, 16\]$"):
        stage("export", "tabom", adapter, lora(r=4), "--output_dir=other")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"intermediate_size": 48}, r"mlp.*: expected shape \[.*\], which the model has, got \[.*\]$"),
        ({"num_layers": 1}, r"^ckpt_path: expected the weights of the configured backbone, differing: \[.*layers\.1\."),
        ({"hidden_size": 32}, r"expected shape .*which the model has, got"),
    ],
)
def test_weights_of_another_model(stage, trained, changes, message):
    other = {"class_path": "NewTinyDLM", "init_args": {**TINY, **changes}}
    with pytest.raises(TabomError, match=message):
        stage(
            *("test", "tabom", "--data.tokenizer=characters"),
            *(f"--model.backbone={json.dumps(other)}", f"--ckpt_path={last_checkpoint(trained)}"),
        )


AVERAGES = {
    "EMAWeightAveraging": {"decay": 0.5},
    "WeightAveraging": {},
}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("EMAWeightAveraging", (lora(),)),
        pytest.param("WeightAveraging", (lora(),), marks=pytest.mark.slow),
        pytest.param("EMAWeightAveraging", (), marks=pytest.mark.slow),
        pytest.param("WeightAveraging", (), marks=pytest.mark.slow),
    ],
)
def test_averages_of_the_weights_are_saved(stage, tmp_path, name, options):
    average = {"class_path": f"lightning.pytorch.callbacks.{name}", "init_args": AVERAGES[name]}
    trained = fit(stage, *options, callbacks=[average])
    content = torch.load(tmp_path / "saved/last.ckpt", weights_only=True)
    current, averaged = content["current_model_state"], content["state_dict"]
    assert current.keys() == averaged.keys() == trained.model.state_dict().keys()
    assert any(not torch.equal(current[key], averaged[key]) for key in current)
    assert all("lora_" in key for key in averaged) == bool(options)
    after = trained.model.state_dict()
    assert all(torch.equal(after[key], averaged[key]) for key in averaged)
    resumed = fit(stage, *options, "--trainer.max_steps=5", "--ckpt_path=saved/last.ckpt", callbacks=[average])
    assert resumed.trainer.global_step == 5


def test_the_best_checkpoint_holds_an_average_of_the_weights(stage):
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.5}}
    trained = stage("fit", "tabom", f"--trainer.callbacks={json.dumps([average])}", "--trainer.max_steps=3")
    best = torch.load(trained.trainer.checkpoint_callback.best_model_path, weights_only=True)["state_dict"]
    last = torch.load(last_checkpoint(trained), weights_only=True)
    assert all(torch.equal(best[name], last["state_dict"][name]) for name in best)
    assert not all(torch.equal(best[name], last["current_model_state"][name]) for name in best)


def test_the_base_beside_an_average_keeps_every_bit(stage, checkpoint, tokenizer):
    average = {"class_path": "lightning.pytorch.callbacks.EMAWeightAveraging", "init_args": {"decay": 0.3}}
    before = stage("validate", "tabom", "--model.validation=null").model.backbone.state_dict()
    trained = fit(stage, lora(), callbacks=[average])
    for name, value in trained.model.backbone.state_dict().items():
        if "lora_" not in name:
            assert torch.equal(value, before[name.replace(".base_layer", "")]), name


def test_a_callback_that_would_average_nothing(stage):
    average = {
        "class_path": "lightning.pytorch.callbacks.StochasticWeightAveraging",
        "init_args": {"swa_lrs": 0.1, "device": "cpu"},
    }
    with pytest.raises(TabomError, match=r"^trainer\.callbacks: .* got StochasticWeightAveraging, which would average"):
        fit(stage, lora(), callbacks=[average])
