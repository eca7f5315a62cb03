"""LLaDA and Dream from a directory in their original layout, through the shipped configurations, and back."""

import functools
import io
import json
import sys
from pathlib import Path

import pytest
import torch
from helpers import (
    a2d_config,
    a2d_tokenizer_files,
    dream_config,
    dream_tokenizer_files,
    family_checkpoint,
    illada_config,
    illada_tokenizer_files,
    llada_config,
    llada_tokenizer_files,
    slow,
)
from safetensors.torch import load_file

import tabom
from tabom.backbones import PretrainedBackbone
from tabom.backbones.dream import DreamBackbone
from tabom.backbones.llada import LladaBackbone
from tabom.backbones.stock import A2DLlamaBackbone, A2DQwen2Backbone, A2DQwen3Backbone, IlladaBackbone
from tabom.cli.lightning_cli import run
from tabom.cli.main import main
from tabom.data.tokenizer import load_tokenizer
from tabom.errors import TabomError

FAMILIES = {
    "llada": (LladaBackbone, llada_config, llada_tokenizer_files),
    "dream": (DreamBackbone, dream_config, dream_tokenizer_files),
    "a2d-qwen3": (A2DQwen3Backbone, a2d_config, a2d_tokenizer_files),
    "a2d-qwen2": (A2DQwen2Backbone, functools.partial(a2d_config, "qwen2"), a2d_tokenizer_files),
    "a2d-llama": (A2DLlamaBackbone, functools.partial(a2d_config, "llama"), a2d_tokenizer_files),
    "illada": (IlladaBackbone, illada_config, illada_tokenizer_files),
}
AS_OTHER = ["--model.backbone.attention=full", "--model.backbone.shift=false", "--model.backbone.mask_token=<|mask|>"]
RESPONSE_LENGTH = 34  # a little more than the window of the recipes


@pytest.fixture
def recipe(request, repository, tmp_path, monkeypatch):
    """Run a shipped config on a tiny checkpoint; only paths and sizes are overridden.

    The checkpoint is of the recipe's family, or of the one that stands behind a colon.
    """
    name, _, family = request.param.partition(":")
    family, config, tokenizer_files = FAMILIES[family or name.partition("_")[0]]
    monkeypatch.chdir(tmp_path)
    ids = tokenizer_files(tmp_path / "model")
    family_checkpoint(tmp_path / "model", family, config(**ids))
    questions = [{"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(60)]
    for row in questions:
        row["messages"] = [{"content": row["question"]}, {"content": row["answer"]}]
    (tmp_path / "questions").mkdir()
    (tmp_path / "questions/train.jsonl").write_text("\n".join(map(json.dumps, questions)))

    base_domain = "ling_coder" if "prm12k" in name else "prm12k"

    def call(verb, method, *options):
        small = [
            "--model.backbone.path=model",
            "--data.tokenizer=model",
            f"--data.response_length={RESPONSE_LENGTH}",
            "--data.task.path=questions",
            "--data.task.train_split=train",
            "--data.task.held_out=0.3",
            "--trainer.accelerator=cpu",
            "--trainer.enable_model_summary=false",
            "--trainer.logger=false",
        ]
        if verb == "predict":
            small.append("--data.num_queries=14")
        else:
            small += [
                f"--data.base_domains.{base_domain}.init_args.path=questions",
                f"--data.base_domains.{base_domain}.init_args.train_split=train",
                f"--data.base_domains.{base_domain}.init_args.held_out=0.3",
                "--data.batch_size=4",
                "--data.global_batch_size=4",
                "--data.validation.num_base_examples=3",
                "--data.only_verified=false",
                "--model.lr_scheduler.num_warmup_steps=0",
            ]
            if "prm12k" in name:
                small.append("--data.validation.num_validation_prompts=2")
        return run([verb, "--config", str(repository / "configs" / name / f"{method}.yaml"), *small, *options])

    call.name = name
    return call


@pytest.fixture
def trajectories(recipe):
    recipe("predict", "distill")
    return recipe


def logits_of(backbone):
    generator = torch.Generator().manual_seed(3)
    ids = torch.randint(0, 250, (2, 12), generator=generator)
    with torch.no_grad():
        return backbone.eval().logits(backbone(ids, torch.ones_like(ids, dtype=torch.bool))).float()


@pytest.mark.parametrize("recipe", ["dream_ling_coder", *slow("llada_prm12k")], indirect=True)
def test_one_step_of_every_method(trajectories):
    """In bfloat16 with a float32 adapter, as shipped."""
    for method in ("sft_gt", "sft_sd", "trajectory_masking", "tabom"):
        one_step = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--trainer.check_val_every_n_epoch=null"]
        cli = trajectories("fit", method, "--trainer.max_epochs=-1", *one_step)
        assert cli.trainer.global_step == 1
        backbone = cli.model.backbone
        assert backbone.transformer.dtype == torch.bfloat16
        changed = [p for name, p in backbone.named_parameters() if "lora_B" in name and bool(p.any())]
        assert len(changed) == 4
        assert all(p.dtype == torch.float32 for p in changed)
        saved = torch.load(f"runs/{trajectories.name}/{method}/checkpoints/last.ckpt", weights_only=True)
        assert len(saved["state_dict"]) == 8
        assert all(".lora_" in name for name in saved["state_dict"])


@pytest.mark.parametrize(
    "recipe",
    [
        "llada_ling_coder",
        *slow("dream_prm12k", "llada_ling_coder:a2d-qwen3", "llada_prm12k:a2d-qwen2", "llada_prm12k:illada"),
        *slow("dream_ling_coder:a2d-llama"),
    ],
    indirect=True,
)
def test_distil_train_export_and_reload(trajectories, tmp_path, capsys, caplog):
    in_float32 = "--model.backbone.dtype=float32"
    schedule = "--model.lr_scheduler"
    cli = trajectories("fit", "tabom", in_float32, "--trainer.max_epochs=1")
    num_trained, num_all = (sum(p.numel() for p in group) for group in groups(cli.model.backbone))
    assert f"training {num_trained:,} of {num_all:,} parameters" in caplog.text
    assert cli.trainer.lr_scheduler_configs[0].scheduler.num_training_steps == cli.trainer.global_step == 3
    trial = ["--trainer.fast_dev_run=true", "--trainer.default_root_dir=trial"]
    trajectories("fit", "tabom", *trial, f"{schedule}.num_warmup_steps=50")
    checkpoint = f"runs/{trajectories.name}/tabom/checkpoints/last.ckpt"
    for kind in ("adapter", "merged"):
        trajectories(
            "export", "tabom", in_float32, f"--ckpt_path={checkpoint}", f"--output_dir={kind}", f"--kind={kind}"
        )
        assert f"{kind}: {kind} model written" in capsys.readouterr().out

    tokenizer = load_tokenizer("model")
    trained = logits_of(cli.model.backbone)
    base = logits_of(PretrainedBackbone("model").load(tokenizer))
    adapted = logits_of(PretrainedBackbone("model", adapter="adapter").load(tokenizer))
    merged = logits_of(PretrainedBackbone("merged").load(load_tokenizer("merged")))
    assert not torch.equal(trained, base)
    assert torch.equal(adapted, trained)
    torch.testing.assert_close(merged, trained, rtol=1e-4, atol=1e-4)

    assert load_file("merged/model.safetensors").keys() == load_file("model/model.safetensors").keys()
    assert json.loads((tmp_path / "merged/config.json").read_text()) == json.loads(
        (tmp_path / "model/config.json").read_text()
    )
    beside = {path.name for path in (tmp_path / "model").iterdir()}
    assert {path.name for path in (tmp_path / "merged").iterdir()} == beside

    with pytest.raises(TabomError, match=r"^merged: expected no model yet, found model\.safetensors"):
        trajectories("export", "tabom", in_float32, "--output_dir=merged")
    with pytest.raises(
        TabomError, match=r"^none\.ckpt: expected a checkpoint, found no such file; tabom fit .*tabom\.yaml.* makes it$"
    ):
        trajectories("export", "tabom", in_float32, "--output_dir=new", "--ckpt_path=none.ckpt")


EVERY_FAMILY = [
    *("llada_ling_coder", "dream_ling_coder", "llada_ling_coder:a2d-qwen3", "llada_ling_coder:a2d-qwen2"),
    *("dream_ling_coder:a2d-llama", "llada_ling_coder:illada"),
]


@pytest.mark.parametrize("recipe", [*EVERY_FAMILY[-1:], *slow(*EVERY_FAMILY[:-1])], indirect=True)
def test_from_a_hub_cache_to_a_chat_and_an_evaluation(recipe, repository, tmp_path, monkeypatch, capsys):
    """A wholly trained model, with a tied head or without: what is exported is what talks and is evaluated."""
    snapshot = tmp_path / "hub/models--some--dlm/snapshots/0123abcd"
    snapshot.parent.mkdir(parents=True)
    (tmp_path / "model").rename(snapshot)
    (tmp_path / "hub/models--some--dlm/refs").mkdir()
    (tmp_path / "hub/models--some--dlm/refs/main").write_text("0123abcd")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    _from_a_model_to_an_evaluation(recipe, "some/dlm", repository, capsys, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", EVERY_FAMILY, indirect=True)
def test_from_a_directory_to_a_chat_and_an_evaluation(recipe, repository, monkeypatch, capsys):
    _from_a_model_to_an_evaluation(recipe, "model", repository, capsys, monkeypatch)


def _from_a_model_to_an_evaluation(recipe, path, repository, capsys, monkeypatch):
    _distil_fit_export(recipe, path, [])
    _chat_and_evaluate(repository, ["--model", "merged"], ["--model", "merged"], capsys, monkeypatch)
    tokens = _tokens(["--model", path], capsys)
    assert tokens == tabom.load(path).generate(["2 + 2?"], response_length=8, names=["prompt 1"])[0].response_ids


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["llada_ling_coder:a2d-qwen3"], indirect=True)
def test_a_decoder_of_no_known_family(recipe, repository, tmp_path, monkeypatch, capsys):
    file = tmp_path / "model/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "model_type": "qwen3"}))
    with pytest.raises(TabomError, match="attention: full, shift"):
        recipe("predict", "distill", AS_OTHER[-1])
    _distil_fit_export(recipe, "model", AS_OTHER)
    main(["trajectories", "stats", f"runs/{recipe.name}/trajectories", "--tokenizer", "model"])
    options = {"path": "merged", "attention": "full", "shift": False, "mask_token": "<|mask|>"}
    backbone = {"class_path": "PretrainedBackbone", "init_args": options}
    (tmp_path / "talk.yaml").write_text(json.dumps({"model": {"backbone": backbone}}))
    keys = ["--model.backbone.path=merged", *AS_OTHER]
    _chat_and_evaluate(repository, ["--config", "talk.yaml"], keys, capsys, monkeypatch)


def _distil_fit_export(recipe, path, keys):
    options = [f"--model.backbone.path={path}", f"--data.tokenizer={path}", *keys]
    recipe("predict", "distill", *options)
    weights = [*options, '--model.backbone={"init_args": {"lora": null}}', "--model.backbone.dtype=float32"]
    cli = recipe("fit", "tabom", *weights, "--trainer.max_epochs=1")
    checkpoint = f"runs/{recipe.name}/tabom/checkpoints/last.ckpt"
    recipe("export", "tabom", *weights, f"--ckpt_path={checkpoint}", "--output_dir=merged")
    mask_token = "<|mask|>" if keys else None
    exported, base = (
        PretrainedBackbone(each, attention="full", shift=None if not keys else False, mask_token=mask_token).load(
            load_tokenizer(each, mask_token)
        )
        for each in ("merged", path)
    )
    assert exported.fingerprint() == cli.model.backbone.fingerprint() != base.fingerprint()


def _chat_and_evaluate(repository, talking, evaluating, capsys, monkeypatch):
    """``talking`` and ``evaluating`` name the exported model."""
    tokens = _tokens(talking, capsys)
    assert len(tokens) == 8
    monkeypatch.setattr(sys, "stdin", io.StringIO("2 + 2?\nand 3?\n"))
    main(["chat", *talking, "--max_new_tokens", "8", "--json"])
    first, second = map(json.loads, capsys.readouterr().out.splitlines()[-2:])
    assert [turn["role"] for turn in second["prompt"]] == ["user", "assistant", "user"]
    assert second["prompt"][1]["content"] == first["response"]
    config = str(repository / "configs/demo/evaluate.yaml")
    options = ["--trainer.logger=false", "--data.benchmark.num_examples=2", "--run_dir=evaluated"]
    evaluated = run(["evaluate", "--config", config, *options, *evaluating])
    if talking == evaluating:
        assert evaluated.datamodule.chat_template
        model = tabom.Model(evaluated.model.backbone, evaluated.datamodule.tokenizer, tabom.load("merged").sampler)
        assert model.generate(["2 + 2?"], response_length=8, names=["prompt 1"])[0].response_ids == tokens
    results = json.loads(Path("evaluated/results.json").read_text())["results"]
    assert results["sudoku"]["accuracy,none"] in (0, 0.5, 1)


def _tokens(talking, capsys):
    capsys.readouterr()
    main(["generate", *talking, "--prompt", "2 + 2?", "--max_new_tokens", "8", "--json"])
    return json.loads(capsys.readouterr().out.splitlines()[-1])["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["llada_ling_coder"], indirect=True)
def test_a_resumed_adapter_ends_where_an_uninterrupted_one_does(trajectories):
    in_float32 = "--model.backbone.dtype=float32"
    steps = [
        *("--trainer.max_epochs=-1", "--trainer.val_check_interval=2", "--trainer.check_val_every_n_epoch=null"),
        "--model.lr_scheduler.num_training_steps=4",
    ]

    def fit(directory, num_steps, *options):
        where = f"--trainer.default_root_dir={directory}"
        return trajectories("fit", "tabom", in_float32, *steps, f"--trainer.max_steps={num_steps}", where, *options)

    straight = fit("straight", 4)
    fit("short", 2)
    last = "short/checkpoints/last.ckpt"
    resumed = fit("resumed", 4, f"--ckpt_path={last}")
    assert resumed.trainer.global_step == 4
    assert resumed.model.backbone.fingerprint() == straight.model.backbone.fingerprint()

    other = "--model.backbone.lora.target_modules=[q_proj]"
    with pytest.raises(TabomError, match=r"^ckpt_path: expected the weights of the configured adapter, differing: \["):
        fit("other", 4, f"--ckpt_path={last}", other)


@pytest.mark.parametrize("recipe", ["dream_ling_coder"], indirect=True)
def test_without_a_checkpoint_a_released_adapter_is_exported(trajectories, tmp_path):
    """A released adapter becomes a model that other tools serve, and the untouched base has forgotten nothing."""
    cli = trajectories("validate", "tabom", "--model.backbone.dtype=float32")
    metrics = cli.trainer.callback_metrics
    assert metrics["validate/kl"] == metrics["validate/nelbo_change"] == 0
    assert not any("accuracy" in name for name in metrics)
    for parameter in cli.model.backbone.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=0.3)
    cli.model.backbone.save_adapter(tmp_path / "released")
    overlay = {"backbone": {"class_path": "PretrainedBackbone", "init_args": {"lora": None, "adapter": "released"}}}
    (tmp_path / "overlay.yaml").write_text(json.dumps({"model": {"init_args": overlay}}))
    in_float32 = "--model.backbone.dtype=float32"
    trajectories("export", "tabom", in_float32, "--config=overlay.yaml", "--output_dir=served")
    served = logits_of(PretrainedBackbone("served").load(load_tokenizer("served")))
    torch.testing.assert_close(served, logits_of(cli.model.backbone), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("recipe", ["dream_ling_coder", *slow("llada_ling_coder")], indirect=True)
def test_a_wholly_trained_model_keeps_the_tokenizer_it_came_with(trajectories, tmp_path):
    """What transformers would write names its own class, and tools that know the original do not find theirs."""
    overlay = {"backbone": {"class_path": "PretrainedBackbone", "init_args": {"lora": None}}}
    (tmp_path / "overlay.yaml").write_text(json.dumps({"model": {"init_args": overlay}}))
    callback = [{"class_path": "SaveBackbone", "init_args": {"output_dir": "trained"}}]
    once = ["--trainer.max_epochs=1", f"--trainer.callbacks={json.dumps(callback)}"]
    trajectories("fit", "sft_sd", "--config=overlay.yaml", *once)
    written = {path.name: path.read_bytes() for path in (tmp_path / "trained").iterdir()}
    original = {path.name: path.read_bytes() for path in (tmp_path / "model").iterdir()}
    changed = {"model.safetensors", "config.json"}
    assert {name for name in original if written.pop(name) != original[name]} <= changed
    assert written == {}


def groups(backbone):
    return [p for p in backbone.parameters() if p.requires_grad], list(backbone.parameters())
